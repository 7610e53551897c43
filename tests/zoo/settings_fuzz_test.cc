// Settings that nobody checked: random values in random fields of every family and layout. Whatever comes, a
// family makes a model that runs or refuses it, naming a field that was changed. EIGSVC_SETTINGS_ROUNDS sets
// the number of tries a model (tests/run_full.sh), EIGSVC_SETTINGS_SEED where they begin.
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "ATen/core/grad_mode.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "models/archive/archive.h"
#include "models/base/random.h"
#include "models/zoo/registry.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/tensors.h"
#include "tests/testing/tiny_models.h"

namespace eigsvc {
namespace {

using nlohmann::json;
using testing::MakeTiny;
using testing::TinyModel;

int64_t FromEnvironment(const char* name, int64_t fallback) {
  const char* text = std::getenv(name);
  int64_t value;
  return text != nullptr && absl::SimpleAtoi(text, &value) ? value : fallback;
}

template <typename T>
const T& Pick(Random& random, const std::vector<T>& from) {
  return from[random.Below(from.size())];
}

// Of the field's own type most of the time, and within reason half of that.
json RandomValue(Random& random, const json& old) {
  static const auto* const absurd = new std::vector<json>{-1,
                                                          0,
                                                          int64_t{1} << 31,
                                                          int64_t{1} << 53,
                                                          INT64_MIN,
                                                          -2.5,
                                                          1e300,
                                                          0.5,
                                                          "",
                                                          "NaN",
                                                          "Infinity",
                                                          "-Infinity",
                                                          "12",
                                                          "no such thing",
                                                          true,
                                                          json(),
                                                          json::array(),
                                                          json::object(),
                                                          json::array({1, 2}),
                                                          json{{"a", 1}}};
  if (random.Below(2) == 0) return Pick(random, *absurd);
  if (old.is_boolean()) return random.Below(2) == 0;
  if (old.is_number_integer()) {
    return Pick(random, std::vector<json>{1, 2, 3, 4, 5, 6, 8, 12, 16, 24, 30, 32, 48, 64, 1000, 4097});
  }
  if (old.is_number()) return Pick(random, std::vector<json>{1e-9, 1e-5, 0.01, 0.25, 1, 2, 10000, 1e6});
  if (old.is_array()) {
    json array = old;
    if (!array.empty() && random.Below(3) > 0) {
      json& element = array[random.Below(array.size())];
      element = RandomValue(random, element);
    } else if (!array.empty() && random.Below(2) == 0) {
      array.erase(array.begin());
    } else {
      array.push_back(array.empty() ? json(1) : array.back());
    }
    return array;
  }
  return Pick(random,
              std::vector<json>{"default", "linear", "silu", "gelu", "relu", "none", "layer", "rms", "full"});
}

// Every place in an object that holds no object, as dotted names.
void Leaves(const json& object, const std::string& prefix, std::vector<std::string>& names) {
  for (const auto& [key, value] : object.items()) {
    const std::string name = prefix.empty() ? key : absl::StrCat(prefix, "/", key);
    // What a model is, is not a setting of it.
    if (name == "family" || name == "layout" || name == "model_type" || name == "architectures") continue;
    if (value.is_object() && !value.empty()) {
      Leaves(value, name, names);
    } else {
      names.push_back(name);
    }
  }
}

struct Change {
  Settings settings;
  std::vector<std::string> fields;  // last parts of their names
  std::string text;
};

Change RandomChange(Random& random, const Settings& base) {
  json object = base.object();
  std::vector<std::string> leaves;
  Leaves(object, "", leaves);
  Change change;
  const uint64_t count = 1 + random.Below(3);
  for (uint64_t i = 0; i < count; ++i) {
    const std::string leaf = Pick(random, leaves);
    json& place = object[json::json_pointer(absl::StrCat("/", leaf))];
    place = RandomValue(random, place);
    change.fields.push_back(leaf.substr(leaf.rfind('/') + 1));
    absl::StrAppend(&change.text, leaf, " = ", place.dump(), "; ");
  }
  change.settings = Settings(std::move(object), "the test's settings");
  return change;
}

class SettingsFuzzTest : public ::testing::TestWithParam<TinyModel> {
 protected:
  // A refusal that says which field it is about. Of a model that is too large for the test alone nothing is
  // asked.
  static bool Names(const absl::Status& status, const Change& change) {
    if (absl::IsResourceExhausted(status)) return true;
    if (!absl::IsInvalidArgument(status) && !absl::IsFailedPrecondition(status)) return false;
    for (const std::string& field : change.fields) {
      if (absl::StrContains(status.message(), field)) return true;
    }
    return false;
  }

  static void Run(const SequenceModel& model, const std::string& what) {
    const ModelDescription& description = model.description();
    int64_t steps = 5;
    if (description.max_positions > 0) steps = std::min(steps, description.max_positions);
    Random random({1});
    const at::Tensor inputs = description.vocab_size > 0
                                  ? testing::RandomTokens(random, 1, steps, description.vocab_size)
                                  : testing::NormalTensor(random, {1, steps, description.channels});
    const absl::StatusOr<at::Tensor> logits = model.Forward(model.weights(), inputs);
    ASSERT_THAT(logits, testing::IsOk()) << what;
    EXPECT_EQ(logits->size(1), description.pooling.empty() ? steps : 1) << what;
    EXPECT_EQ(logits->size(2), description.classes) << what;
  }

  at::NoGradGuard no_grad_;
  const int64_t rounds_ = FromEnvironment("EIGSVC_SETTINGS_ROUNDS", 40);
  const uint64_t seed_ = static_cast<uint64_t>(FromEnvironment("EIGSVC_SETTINGS_SEED", 1));
};

TEST_P(SettingsFuzzTest, AFreshModelRunsOrNamesTheField) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto tiny, MakeTiny(GetParam()));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const FamilyEntry* family, FindFamily(GetParam().family));
  LoadOptions options;
  options.max_weight_bytes = std::max<int64_t>(1 << 19, 8 * tiny->description().parameters);
  int64_t made = 0;
  for (int64_t round = 0; round < rounds_; ++round) {
    Random random({seed_, static_cast<uint64_t>(round)});
    const Change change = RandomChange(random, tiny->description().settings);
    const auto model = InitializeModel(*family, change.settings, 1, options);
    if (model.ok()) {
      ++made;
      Run(**model, change.text);
    } else {
      EXPECT_TRUE(Names(model.status(), change)) << change.text << "\n" << model.status();
    }
  }
  EXPECT_GT(made, 0);
}

TEST_P(SettingsFuzzTest, ACheckpointLoadsOrTheFieldIsNamed) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto tiny, MakeTiny(GetParam()));
  const std::string path = ::testing::TempDir() + absl::StrCat("eigsvc_fuzz_", getpid(), ".safetensors");
  EIGSVC_ASSERT_OK(SaveModel(*tiny, tiny->weights(), {}, path));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Archive archive, Archive::Open(path));
  std::filesystem::remove(path);
  for (int64_t round = 0; round < rounds_; ++round) {
    Random random({seed_, 1, static_cast<uint64_t>(round)});
    const Change change = RandomChange(random, tiny->description().settings);
    const auto model = LoadModel(archive, change.settings, {});
    if (model.ok()) {
      Run(**model, change.text);
    } else if (absl::StrContains(model.status().message(), "does not hold the weights its settings")) {
      // That one lists the sizes that the settings come to, and keys with both shapes.
      EXPECT_TRUE(absl::StrContains(model.status().message(), "settings (") &&
                  absl::StrContains(model.status().message(), ") describe: "))
          << model.status();
    } else {
      EXPECT_TRUE(Names(model.status(), change)) << change.text << "\n" << model.status();
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Zoo, SettingsFuzzTest, ::testing::ValuesIn(testing::TinyModels()),
                         [](const auto& tiny) { return testing::TinyModelName(tiny.param); });

}  // namespace
}  // namespace eigsvc
