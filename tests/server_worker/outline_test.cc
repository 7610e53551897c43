// What a family says of a checkpoint, against the model that is made of it.
#include "server/worker/outline.h"

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "ATen/core/grad_mode.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "models/archive/safetensors.h"
#include "models/transition/eigenvalues.h"
#include "tests/testing/recording_tap.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/tensors.h"
#include "tests/testing/tiny_models.h"

namespace eigsvc {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsSupersetOf;
using testing::StatusIs;
using testing::TinyModel;

class OutlineTest : public ::testing::TestWithParam<TinyModel> {
 protected:
  void SetUp() override {
    path_ = ::testing::TempDir() + absl::StrCat("eigsvc_outline_", getpid(), ".safetensors");
    EIGSVC_ASSERT_OK_AND_ASSIGN(model_, testing::MakeTiny(GetParam()));
    EIGSVC_ASSERT_OK(SaveModel(*model_, model_->weights(), {}, path_));
  }
  void TearDown() override { std::filesystem::remove(path_); }

  at::NoGradGuard no_grad_;
  std::string path_;
  std::shared_ptr<const SequenceModel> model_;
};

TEST_P(OutlineTest, SaysWhatTheModelReports) {
  InspectOptions options;
  options.archive.on_demand = true;
  EIGSVC_ASSERT_OK_AND_ASSIGN(const v1::CheckpointInspection inspection,
                              InspectWithModel(path_, "", options));
  EXPECT_EQ(inspection.problem(), "");
  EXPECT_EQ(inspection.family(), GetParam().family);
  EXPECT_EQ(inspection.layout(), GetParam().layout);
  const v1::ModelOutline& outline = inspection.model();
  EXPECT_EQ(outline.width(), model_->description().width);
  EXPECT_EQ(outline.parameters(), model_->description().parameters);
  EXPECT_EQ(outline.settings_json(), model_->description().settings.ToJson());
  ASSERT_EQ(outline.layers_size(), model_->description().layers);
  // PAPER_COMPAT with each of them is what the model resolves; with any other, or where there are none, it
  // refuses.
  const std::set<std::string> departures(outline.departures().begin(), outline.departures().end());
  for (int number = 1; number <= 10; ++number) {
    const std::string name = absl::StrCat("E", number);
    EIGSVC_ASSERT_OK_AND_ASSIGN(const Convention asked, ParseConvention("PAPER_COMPAT", {name}, "", ""));
    EXPECT_EQ(ResolveConvention(asked, model_->description().conventions, GetParam().family).ok(),
              departures.count(name) == 1)
        << name;
  }

  constexpr int64_t kSteps = 9;
  Random random({1});
  testing::RecordingTap tap;
  const at::Tensor tokens = testing::RandomTokens(random, 1, kSteps, testing::kTinyVocabulary);
  EIGSVC_ASSERT_OK(model_->Forward(model_->weights(), tokens, {&tap}));
  int64_t changing = 0, constant = 0;
  for (int layer = 0; layer < outline.layers_size(); ++layer) {
    std::set<std::string> reported;  // a wide transition comes in several chunks of time
    for (const auto& report : tap.seen[layer]) {
      if (!reported.insert(report.mixer).second) continue;
      const auto& mixers = outline.layers(layer).mixers();
      const auto mixer = std::find_if(mixers.begin(), mixers.end(), [&](const v1::MixerOutline& one) {
        return one.mixer() == report.mixer;
      });
      ASSERT_NE(mixer, mixers.end()) << report.mixer;
      EIGSVC_ASSERT_OK_AND_ASSIGN(const Eigenvalues found, ComputeEigenvalues(report.transition));
      EXPECT_EQ(mixer->units(), found.log_magnitude.size(2));
      EXPECT_EQ(mixer->eigenvalues_per_unit(), found.log_magnitude.size(3));
      EXPECT_EQ(mixer->transition(), TransitionFormName(FormOf(report.transition.kind)));
      EXPECT_EQ(mixer->window(), model_->description().mixers[layer][mixer - mixers.begin()].window);
      (mixer->constant() ? constant : changing) += found.log_magnitude.size(2) * found.log_magnitude.size(3);
    }
    EXPECT_EQ(static_cast<size_t>(outline.layers(layer).mixers_size()), reported.size());
  }
  EXPECT_EQ(outline.eigenvalues_per_token(), changing);
  EXPECT_EQ(outline.constant_eigenvalues(), constant);
}

TEST_P(OutlineTest, TellsTheMemoryOfTheWeights) {
  int64_t outer = 0, largest = 0, all = 0;
  const auto bytes_of = [](const Weights& weights) {
    int64_t bytes = 0;
    for (const auto& [name, tensor] : weights.all()) bytes += static_cast<int64_t>(tensor.nbytes());
    return bytes;
  };
  for (const WeightSpec& spec : model_->plan()) {
    if (!spec.tied_to.empty()) continue;
    const ModelWeights& weights = model_->weights();
    const Weights& place = spec.layer == WeightSpec::kOuter ? weights.outer : weights.layers[spec.layer];
    all += static_cast<int64_t>(place[spec.name].nbytes());
  }
  for (const Weights& layer : model_->weights().layers) largest = std::max(largest, bytes_of(layer));
  outer = bytes_of(model_->weights().outer);
  EIGSVC_ASSERT_OK_AND_ASSIGN(const v1::CheckpointInspection inspection, InspectWithModel(path_, "", {}));
  EXPECT_EQ(inspection.model().dtype(), "float32");
  EXPECT_EQ(inspection.model().weight_bytes(), all);
  EXPECT_LE(inspection.model().streamed_weight_bytes(), outer + 2 * largest);
  EXPECT_GT(inspection.model().streamed_weight_bytes(), 0);
  EXPECT_EQ(inspection.model().activation_bytes(), 0);
  InspectOptions options;
  options.dtype = "float64";
  options.steps = 1000;
  EIGSVC_ASSERT_OK_AND_ASSIGN(const v1::CheckpointInspection wide, InspectWithModel(path_, "", options));
  EXPECT_EQ(wide.model().weight_bytes(), 2 * all);
  EXPECT_GE(wide.model().activation_bytes(), 1000 * 8 * 3 * model_->description().width);
}

INSTANTIATE_TEST_SUITE_P(Zoo, OutlineTest, ::testing::ValuesIn(testing::TinyModels()),
                         [](const auto& tiny) { return testing::TinyModelName(tiny.param); });

class InspectTest : public ::testing::Test {
 protected:
  void SetUp() override {
    path_ = ::testing::TempDir() + absl::StrCat("eigsvc_inspect_", getpid(), ".safetensors");
    EIGSVC_ASSERT_OK_AND_ASSIGN(const FamilyEntry* family, FindFamily("llama"));
    Settings settings;
    settings.Set("layout", "huggingface");
    EIGSVC_ASSERT_OK_AND_ASSIGN(model_, InitializeModel(*family, settings, 1, {}));
  }
  void TearDown() override { std::filesystem::remove(path_); }

  std::string path_;
  std::shared_ptr<const SequenceModel> model_;
};

TEST_F(InspectTest, ACheckpointThatItsFamilyCannotRunSaysWhy) {
  EIGSVC_ASSERT_OK(SaveModel(*model_, model_->weights(), {}, path_));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const v1::CheckpointInspection inspection,
                              InspectWithModel(path_, R"({"hidden_act": "no such thing"})", {}));
  EXPECT_EQ(inspection.family(), "llama");
  EXPECT_THAT(inspection.problem(), HasSubstr("hidden_act"));
  EXPECT_FALSE(inspection.has_model());
}

TEST_F(InspectTest, ASlidingWindowIsItsLayers) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(const FamilyEntry* family, FindFamily("ministral"));
  const auto settings = Settings::Parse(R"({"layout": "huggingface", "sliding_window": 3,
      "num_hidden_layers": 2, "layer_types": ["full_attention", "sliding_attention"]})",
                                        "test");
  EIGSVC_ASSERT_OK(settings);
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto sliding, InitializeModel(*family, *settings, 1, {}));
  EIGSVC_ASSERT_OK(SaveModel(*sliding, sliding->weights(), {}, path_));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const v1::CheckpointInspection inspection, InspectWithModel(path_, "", {}));
  ASSERT_EQ(inspection.model().layers_size(), 2) << inspection.problem();
  EXPECT_EQ(inspection.model().layers(0).mixers(0).window(), 0);
  EXPECT_EQ(inspection.model().layers(1).mixers(0).window(), 3);
}

TEST_F(InspectTest, AnUnknownCheckpointSaysHowItDiffersFromTheNearest) {
  // A layer's query projection under another name.
  Settings extra;
  EIGSVC_ASSERT_OK(SaveModel(*model_, model_->weights(), extra, path_));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Archive archive, Archive::Open(path_));
  auto tensors = archive.tensors();
  for (const char* layer : {"0", "1"}) {
    const std::string key = absl::StrCat("model.layers.", layer, ".self_attn.q_proj.weight");
    tensors[absl::StrCat("model.layers.", layer, ".self_attn.query.weight")] = tensors.at(key);
    tensors.erase(key);
  }
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Settings settings, Settings::Parse("{}", "test"));
  const std::optional<NearestLayout> nearest = FindNearestLayout(Archive(tensors, settings, "odd"));
  ASSERT_TRUE(nearest.has_value());
  EXPECT_EQ(nearest->family, "llama");
  EXPECT_EQ(nearest->layout, "huggingface");
  EXPECT_EQ(nearest->missing, std::vector<std::string>{"model.layers.0.self_attn.q_proj.weight"});
  EXPECT_THAT(nearest->others, IsSupersetOf({"model.layers.0.self_attn.query.weight"}));
}

// What detection looks at is a part of a family's keys; a worker compares all of them.
TEST_F(InspectTest, AWorkerComparesAllKeysOfTheNearestFamily) {
  EIGSVC_ASSERT_OK(SaveModel(*model_, model_->weights(), {}, path_));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Archive archive, Archive::Open(path_));
  std::vector<SafetensorsWriter::Declaration> declarations;
  std::vector<std::byte> zeros;
  for (const auto& [name, tensor] : archive.tensors()) {
    declarations.push_back(
        {absl::StrReplaceAll(name, {{"o_proj", "out"}, {"up_proj", "up"}}), tensor.type, tensor.shape});
    zeros.resize(zeros.size() + 4 * static_cast<size_t>(tensor.ElementCount()));
  }
  EIGSVC_ASSERT_OK_AND_ASSIGN(SafetensorsWriter writer, SafetensorsWriter::Create(path_, declarations, {}));
  EIGSVC_ASSERT_OK(writer.Append(zeros));
  EIGSVC_ASSERT_OK(writer.Finish());
  EIGSVC_ASSERT_OK_AND_ASSIGN(const v1::CheckpointInspection inspection, InspectWithModel(path_, "", {}));
  EXPECT_EQ(inspection.nearest().family(), "llama");
  EXPECT_THAT(inspection.nearest().missing_keys(),
              ElementsAre("model.layers.#.mlp.up_proj.weight", "model.layers.#.self_attn.o_proj.weight"));
  EXPECT_THAT(inspection.nearest().other_keys(),
              ElementsAre("model.layers.#.mlp.up.weight", "model.layers.#.self_attn.out.weight"));
}

TEST_F(InspectTest, BadRequestsAreNamed) {
  EIGSVC_ASSERT_OK(SaveModel(*model_, model_->weights(), {}, path_));
  InspectOptions options;
  options.dtype = "int8";
  EXPECT_THAT(InspectWithModel(path_, "", options),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("int8")));
  options.dtype.clear();
  options.steps = -1;
  EXPECT_THAT(InspectWithModel(path_, "", options),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("steps")));
  EXPECT_THAT(InspectWithModel("/no/such/file", "", {}),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("\"file\"")));
}

}  // namespace
}  // namespace eigsvc
