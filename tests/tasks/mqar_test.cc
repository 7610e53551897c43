// MQAR against its description (shared data/mqar.md): every rule is checked by a checker that knows nothing
// of the generator, and the same checker passes over the sample files that were made independently.
#include <algorithm>
#include <array>
#include <cmath>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "models/base/sha256.h"
#include "models/tasks/task.h"
#include "tests/testing/paths.h"
#include "tests/testing/status_matchers.h"

namespace eigsvc {
namespace {

using ::absl::StatusCode;
using ::eigsvc::testing::StatusIs;
using ::testing::HasSubstr;

Settings Parse(const std::string& json) { return Settings::Parse(json, "test").value(); }

std::shared_ptr<const Task> Mqar(const std::string& json, uint64_t seed = 1) {
  auto task = MakeTask("mqar", {.parameters = Parse(json), .seed = seed});
  EXPECT_TRUE(task.ok()) << task.status();
  return *task;
}

struct Rules {
  int64_t vocab, steps, pairs, passes;
  bool random_fillers;
};

// Asserts the structure of one example and returns the slot of each key, in context order.
std::vector<int64_t> CheckExample(const Rules& rules, const std::vector<int64_t>& tokens,
                                  const std::vector<int64_t>& targets) {
  const int64_t context = 2 * rules.pairs * rules.passes;
  EXPECT_EQ(static_cast<int64_t>(tokens.size()), rules.steps);
  EXPECT_EQ(tokens.size(), targets.size());
  std::map<int64_t, int64_t> value_of, order_of;
  std::set<int64_t> values;
  for (int64_t i = 0; i < context; i += 2) {
    const int64_t key = tokens[i], value = tokens[i + 1];
    EXPECT_GE(key, 1);
    EXPECT_LT(key, rules.vocab / 2);
    EXPECT_GE(value, rules.vocab / 2);
    EXPECT_LT(value, rules.vocab);
    if (i < 2 * rules.pairs) {
      EXPECT_TRUE(value_of.emplace(key, value).second) << "key " << key << " twice";
      EXPECT_TRUE(values.insert(value).second) << "value " << value << " twice";
      order_of[key] = i / 2;
    } else {
      EXPECT_EQ(tokens[i], tokens[i - 2 * rules.pairs]);
      EXPECT_EQ(tokens[i + 1], tokens[i + 1 - 2 * rules.pairs]);
    }
    EXPECT_EQ(targets[i], kIgnoredTarget);
    EXPECT_EQ(targets[i + 1], kIgnoredTarget);
  }
  std::vector<int64_t> slots(rules.pairs, -1);
  for (int64_t i = context; i < rules.steps; ++i) {
    EXPECT_GE(tokens[i], 0);
    EXPECT_LT(tokens[i], rules.vocab);
    if (targets[i] == kIgnoredTarget) {
      if (!rules.random_fillers) {
        EXPECT_EQ(tokens[i], 0);
      }
      continue;
    }
    EXPECT_EQ((i - context) % 2, 0) << "a query at an odd offset";
    EXPECT_EQ(value_of.count(tokens[i]), 1u) << "a query that is no key";
    EXPECT_EQ(targets[i], value_of[tokens[i]]);
    int64_t& slot = slots[order_of[tokens[i]]];
    EXPECT_EQ(slot, -1) << "key " << tokens[i] << " asked twice";
    slot = (i - context) / 2;
  }
  EXPECT_EQ(std::count(slots.begin(), slots.end(), -1), 0) << "a key was not asked";
  return slots;
}

std::vector<int64_t> Row(const std::vector<int64_t>& all, int64_t row, int64_t steps) {
  return {all.begin() + row * steps, all.begin() + (row + 1) * steps};
}

class MqarStructureTest : public ::testing::TestWithParam<const char*> {};

TEST_P(MqarStructureTest, FollowsTheDescription) {
  const auto task = Mqar(GetParam());
  const Settings& p = task->parameters();
  const Rules rules{*p.Int("vocab_size"), *p.Int("input_seq_len"), *p.Int("num_kv_pairs"),
                    *p.Int("num_passes"), *p.Bool("random_non_queries")};
  EXPECT_EQ(task->signature().vocab_size, rules.vocab);
  EXPECT_EQ(task->signature().classes, rules.vocab);
  EXPECT_FALSE(task->signature().per_sequence);
  for (Split split : {Split::kTrain, Split::kTest}) {
    EIGSVC_ASSERT_OK_AND_ASSIGN(const Batch batch, task->Draw(split, 5, 200));
    ASSERT_EQ(batch.rows, 200);
    ASSERT_EQ(batch.steps, rules.steps);
    EXPECT_EQ(batch.lengths, std::vector<int64_t>(200, rules.steps));
    for (int64_t row = 0; row < batch.rows; ++row) {
      CheckExample(rules, Row(batch.tokens, row, batch.steps), Row(batch.targets, row, batch.steps));
      if (HasFailure()) FAIL() << "row " << row;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Settings, MqarStructureTest,
    ::testing::Values("{}", R"({"random_non_queries": false})",
                      R"({"vocab_size": 65, "input_seq_len": 64, "num_kv_pairs": 16})",
                      R"({"vocab_size": 128, "input_seq_len": 48, "num_kv_pairs": 4, "num_passes": 5})",
                      R"({"vocab_size": 8192, "input_seq_len": 512, "num_kv_pairs": 64, "power_a": 1})",
                      R"({"vocab_size": 5, "input_seq_len": 4, "num_kv_pairs": 1})"));

TEST(MqarTest, TheSameCheckerAcceptsTheSampleFiles) {
  EIGSVC_REQUIRE_SHARED();
  const std::map<std::string, Rules> files = {{"mqar_L64_kv4_rand", {8192, 64, 4, 1, true}},
                                              {"mqar_L64_kv4_zeros", {8192, 64, 4, 1, false}},
                                              {"mqar_L128_kv8_rand", {8192, 128, 8, 1, true}},
                                              {"mqar_L256_kv16_rand", {8192, 256, 16, 1, true}},
                                              {"mqar_L512_kv64_zeros", {8192, 512, 64, 1, false}}};
  for (const auto& [name, rules] : files) {
    SCOPED_TRACE(name);
    std::ifstream file(testing::SharedPath("data/mqar/" + name + ".jsonl"));
    int examples = 0;
    for (std::string line; std::getline(file, line); ++examples) {
      const nlohmann::json example = nlohmann::json::parse(line);
      CheckExample(rules, example.at("inputs"), example.at("labels"));
    }
    EXPECT_EQ(examples, 16);
  }
}

// The law of the slots by exhaustive enumeration: S = 4 slots, N = 2 keys, so that the ordered pair (g_1,
// g_2) has 12 outcomes of probability p_i · p_j / (1 - p_i).
TEST(MqarTest, SlotsAreDrawnWithoutReplacementAndRenormalised) {
  for (double a : {0.01, 1.0}) {
    SCOPED_TRACE(a);
    const auto task = Mqar(
        absl::StrCat(R"({"vocab_size": 64, "input_seq_len": 12, "num_kv_pairs": 2, "power_a": )", a, "}"));
    const Rules rules{64, 12, 2, 1, true};
    constexpr int64_t kDraws = 40000;
    EIGSVC_ASSERT_OK_AND_ASSIGN(const Batch batch, task->Draw(Split::kTrain, 0, kDraws));
    std::map<std::pair<int64_t, int64_t>, int64_t> seen;
    for (int64_t row = 0; row < kDraws; ++row) {
      const auto slots = CheckExample(rules, Row(batch.tokens, row, 12), Row(batch.targets, row, 12));
      ++seen[{slots[0], slots[1]}];
    }
    double total = 0, chi_squared = 0;
    for (int j = 0; j < 4; ++j) total += std::pow(j + 1, a - 1);
    for (int i = 0; i < 4; ++i) {
      for (int j = 0; j < 4; ++j) {
        if (i == j) continue;
        const double p = std::pow(i + 1, a - 1) / total, q = std::pow(j + 1, a - 1) / total;
        const double expected = kDraws * p * q / (1 - p);
        chi_squared += std::pow(seen[{i, j}] - expected, 2) / expected;
      }
    }
    EXPECT_LT(chi_squared, 31.3);  // 11 degrees of freedom, p = 0.001; the draws are fixed by the seed
  }
}

TEST(MqarTest, KeysValuesAndFillersAreUniform) {
  const auto task = Mqar(R"({"vocab_size": 20, "input_seq_len": 16, "num_kv_pairs": 2})");
  constexpr int64_t kDraws = 20000;
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Batch batch, task->Draw(Split::kTrain, 0, kDraws));
  std::vector<int64_t> keys(20), values(20), fillers(20);
  for (int64_t row = 0; row < kDraws; ++row) {
    for (int64_t step = 0; step < 16; ++step) {
      const int64_t token = batch.tokens[row * 16 + step];
      if (step < 4)
        ++(step % 2 == 0 ? keys : values)[token];
      else if (batch.targets[row * 16 + step] == kIgnoredTarget)
        ++fillers[token];
    }
  }
  const auto expect_uniform = [](const std::vector<int64_t>& counts, int low, int high) {
    int64_t total = 0;
    for (int64_t count : counts) total += count;
    const double expected = static_cast<double>(total) / (high - low);
    for (int token = 0; token < 20; ++token) {
      if (token < low || token >= high)
        EXPECT_EQ(counts[token], 0);
      else
        EXPECT_NEAR(counts[token], expected, 5 * std::sqrt(expected)) << token;
    }
  };
  expect_uniform(keys, 1, 10);
  expect_uniform(values, 10, 20);
  expect_uniform(fillers, 0, 20);
}

TEST(MqarTest, ExamplesDoNotDependOnBatchingOrThreads) {
  const auto task = Mqar(R"({"vocab_size": 128})", 99);
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Batch whole, task->Draw(Split::kTest, 0, 96));
  std::vector<std::vector<int64_t>> tokens(4), targets(4);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      const int64_t sizes[] = {1, 2, 3, 8};  // divisors of 24
      for (int64_t first = 24 * t; first < 24 * (t + 1); first += sizes[t]) {
        const Batch part = task->Draw(Split::kTest, first, sizes[t]).value();
        tokens[t].insert(tokens[t].end(), part.tokens.begin(), part.tokens.end());
        targets[t].insert(targets[t].end(), part.targets.begin(), part.targets.end());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  std::vector<int64_t> joined_tokens, joined_targets;
  for (int t = 0; t < 4; ++t) {
    joined_tokens.insert(joined_tokens.end(), tokens[t].begin(), tokens[t].end());
    joined_targets.insert(joined_targets.end(), targets[t].begin(), targets[t].end());
  }
  EXPECT_EQ(joined_tokens, whole.tokens);
  EXPECT_EQ(joined_targets, whole.targets);
}

TEST(MqarTest, SeedsAndSplitsShareNoExample) {
  std::set<std::vector<int64_t>> seen;
  int64_t drawn = 0;
  for (uint64_t seed : {1, 2}) {
    const auto task = Mqar("{}", seed);
    for (Split split : {Split::kTrain, Split::kTest}) {
      EIGSVC_ASSERT_OK_AND_ASSIGN(const Batch batch, task->Draw(split, 0, 2000));
      for (int64_t row = 0; row < batch.rows; ++row) {
        seen.insert(Row(batch.tokens, row, 8));  // the pairs alone tell examples apart
        ++drawn;
      }
    }
  }
  EXPECT_EQ(static_cast<int64_t>(seen.size()), drawn);
}

// The published mixes: segments in order, each example of its own length and number of pairs.
TEST(MqarTest, AMixServesItsSegmentsInOrder) {
  const auto task = Mqar(R"({"vocab_size": 128, "train_mix": "64x4:3 16x2:2", "test_mix": "12x2:2,32x8:1"})");
  EXPECT_EQ(task->example_count(Split::kTrain), 5);
  EXPECT_EQ(task->example_count(Split::kTest), 3);
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Batch batch, task->Draw(Split::kTrain, 1, 4));
  EXPECT_EQ(batch.steps, 64);
  EXPECT_EQ(batch.lengths, (std::vector<int64_t>{64, 64, 16, 16}));
  for (int64_t row = 0; row < 4; ++row) {
    const int64_t steps = batch.lengths[row];
    std::vector<int64_t> tokens = Row(batch.tokens, row, 64), targets = Row(batch.targets, row, 64);
    for (int64_t step = steps; step < 64; ++step) {
      EXPECT_EQ(tokens[step], 0);
      EXPECT_EQ(targets[step], kIgnoredTarget);
    }
    tokens.resize(steps);
    targets.resize(steps);
    CheckExample({128, steps, steps == 64 ? 4 : 2, 1, true}, tokens, targets);
  }
  // The score is the mean over all examples; each kind's own stands beside it.
  const std::vector<Prediction> predictions = {{0, 5, 5, 0.1}, {0, 4, 5, 2}, {1, 5, 5, 0.1}, {2, 7, 8, 1}};
  const Score score = task->ComputeScore(Split::kTest, predictions);
  EXPECT_DOUBLE_EQ(score.value, 0.5);
  EXPECT_EQ(score.n, 3);
  ASSERT_EQ(score.also.size(), 2u);
  EXPECT_EQ(score.also[0], (std::pair<std::string, double>{"accuracy 12x2", 0.75}));
  EXPECT_EQ(score.also[1], (std::pair<std::string, double>{"accuracy 32x8", 0.0}));
}

// The settings of shared data/mqar.md, section "Standard data settings".
TEST(MqarTest, PresetsAreThePublishedSettings) {
  struct Expected {
    const char* name;
    bool random_fillers;
    std::vector<std::array<int64_t, 3>> train, test;  // length, pairs, examples
  };
  const Expected presets[] = {
      {"zoology-64", false, {{64, 4, 100000}}, {{64, 4, 3000}}},
      {"zoology-128", false, {{128, 8, 100000}}, {{128, 8, 3000}}},
      {"zoology-256", false, {{256, 16, 100000}}, {{256, 16, 3000}}},
      {"zoology-512", false, {{512, 64, 100000}}, {{512, 64, 3000}}},
      {"based",
       true,
       {{64, 4, 100000}, {128, 8, 20000}, {256, 16, 20000}, {256, 32, 20000}, {256, 64, 20000}},
       {{64, 4, 1000},
        {64, 8, 1000},
        {64, 16, 1000},
        {128, 32, 1000},
        {256, 64, 1000},
        {512, 128, 1000},
        {1024, 256, 1000}}},
      {"eigenvalues", true, {{512, 64, 100000}}, {{512, 64, 3000}}}};
  for (const Expected& expected : presets) {
    SCOPED_TRACE(expected.name);
    const auto task = Mqar(absl::StrCat(R"({"preset": ")", expected.name, R"("})"));
    EXPECT_EQ(task->signature().vocab_size, 8192);
    EXPECT_EQ(task->parameters().Bool("random_non_queries").value(), expected.random_fillers);
    EXPECT_EQ(task->parameters().Real("power_a").value(), 0.01);
    for (const Split split : {Split::kTrain, Split::kTest}) {
      int64_t first = 0;
      for (const auto& [steps, pairs, examples] : split == Split::kTrain ? expected.train : expected.test) {
        for (const int64_t index : {first, first + examples - 1}) {
          EIGSVC_ASSERT_OK_AND_ASSIGN(const Batch batch, task->Draw(split, index, 1));
          EXPECT_EQ(batch.steps, steps) << index;
          CheckExample({8192, steps, pairs, 1, expected.random_fillers}, batch.tokens, batch.targets);
        }
        first += examples;
      }
      EXPECT_EQ(task->example_count(split), first);
    }
  }
}

// The bytes themselves: a change of the generator, or a platform that draws others, shows here.
TEST(MqarTest, TheFirstExamplesArePinned) {
  const auto digest = [](const char* json) {
    const auto batch = Mqar(json)->Draw(Split::kTrain, 0, 64);
    EIGSVC_EXPECT_OK(batch);
    return Sha256::Of(absl::MakeConstSpan(reinterpret_cast<const std::byte*>(batch->tokens.data()),
                                          batch->tokens.size() * sizeof(int64_t)));
  };
  EXPECT_EQ(digest("{}"), "b29c23a8dfcd9346480f8adae5dbb5c5a4f6885caef9155fa764b5f1d029191e");
  EXPECT_EQ(digest(R"({"random_non_queries": true, "power_a": 0.1})"),
            "7562e560700e8f6aac6aca67bcb71a8886ba6103ab6851b9e398c8b7c5271f1c");
}

TEST(MqarTest, BadParametersAreNamed) {
  const std::pair<const char*, const char*> cases[] = {
      {R"({"input_seq_len": 63})", "must be even"},
      {R"({"vocab_size": 64})", "must exceed input_seq_len"},
      {R"({"num_kv_pairs": 17})", "need input_seq_len >= 68"},
      {R"({"num_kv_pairs": 0})", "num_kv_pairs is 0"},
      {R"({"num_passes": 0})", "num_passes is 0"},
      {R"({"num_passes": 1048576, "num_kv_pairs": 1048576})", "need input_seq_len"},
      {R"({"input_seq_len": 9223372036854775806})", "input_seq_len is 9223372036854775806"},
      {R"({"vocab_size": -5})", "vocab_size is -5"},
      {R"({"test_examples": 0})", "test_examples is 0"},
      {R"({"power_a": 1e300})", "power_a is 1e+300"},
      {R"({"random_non_queries": "perhaps"})", "random_non_queries"},
      {R"({"vocab_size": 1.5})", "vocab_size"},
      {R"({"train_mix": "64x4"})", "\"64x4\" is no segment"},
      {R"({"test_mix": "64x4:0"})", "\"64x4:0\" is no segment"},
      {R"({"test_mix": "64x4:10 62x20:10"})",
       "20 pairs shown 1 times and asked once need input_seq_len >= 80"},
  };
  for (const auto& [json, message] : cases) {
    EXPECT_THAT(MakeTask("mqar", {.parameters = Parse(json), .seed = 1}),
                StatusIs(StatusCode::kInvalidArgument, HasSubstr(message)))
        << json;
  }
}

TEST(MqarTest, ScoreIsTheMeanOfEachExamplesAccuracy) {
  const auto task = Mqar("{}");
  // Example 3: 1 of 4; example 7: 1 of 1; example 9: only ignored. The pooled mean would be 2/5.
  const std::vector<Prediction> predictions = {{3, 5, 5, 0.1}, {3, 4, 5, 2},   {3, 4, 6, 2},
                                               {3, 4, 7, 2},   {7, 8, 8, 0.1}, {9, 1, kIgnoredTarget, 0}};
  const Score score = task->ComputeScore(Split::kTest, predictions);
  EXPECT_EQ(score.metric, "accuracy");
  EXPECT_EQ(score.n, 2);
  EXPECT_DOUBLE_EQ(score.value, 0.625);
  EXPECT_DOUBLE_EQ(score.ci95_low, 0.25);
  EXPECT_DOUBLE_EQ(score.ci95_high, 1);
  EXPECT_EQ(score.interval, "bootstrap over examples, 2000 resamples");
  EXPECT_TRUE(std::isnan(task->ComputeScore(Split::kTest, {}).value));
  EXPECT_EQ(task->ComputeScore(Split::kTest, {}).n, 0);
}

}  // namespace
}  // namespace eigsvc
