#include "models/tasks/scoring.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <random>
#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/paths.h"

namespace eigsvc {
namespace {

TEST(ScoringTest, TalliesDoNotDependOnOrder) {
  std::mt19937_64 random(5);
  std::vector<Prediction> predictions;
  for (int example = 0; example < 50; ++example) {
    for (int i = 0; i <= example % 4; ++i) {
      const int64_t target = random() % 5 == 0 ? kIgnoredTarget : static_cast<int64_t>(random() % 3);
      predictions.push_back({example, static_cast<int64_t>(random() % 3), target, 0.125 * (random() % 64)});
    }
  }
  const auto sorted = TallyByExample(predictions);
  auto shuffled = predictions;
  std::shuffle(shuffled.begin(), shuffled.end(), random);
  const auto again = TallyByExample(shuffled);
  ASSERT_EQ(sorted.size(), again.size());
  size_t at = 0;
  for (int example = 0; example < 50; ++example) {  // the plain definition
    ExampleTally expected;
    for (const Prediction& p : predictions) {
      if (p.example != example || p.target == kIgnoredTarget) continue;
      ++expected.scored;
      expected.correct += p.predicted == p.target;
      expected.nll += p.nll;
    }
    if (expected.scored == 0) continue;
    for (const auto* tally : {&sorted[at], &again[at]}) {
      EXPECT_EQ(tally->scored, expected.scored);
      EXPECT_EQ(tally->correct, expected.correct);
      EXPECT_EQ(tally->nll, expected.nll);  // sums of eighths are exact in any order
    }
    ++at;
  }
  EXPECT_EQ(at, sorted.size());
}

// 200 entries, 150 ones: the bootstrap's mean is Binomial(200, 0.75)/200, whose 2.5 % and 97.5 % quantiles
// are 138/200 and 162/200 (scipy.stats.binom.ppf). 2000 resamples move a quantile by at most a step or so.
TEST(ScoringTest, BootstrapAgreesWithTheBinomialQuantiles) {
  std::vector<double> hits(200, 0.0);
  std::fill_n(hits.begin(), 150, 1.0);
  const Interval interval = RatioInterval(hits, std::vector<double>(200, 1.0), "examples");
  EXPECT_NEAR(interval.low, 138.0 / 200, 2.0 / 200);
  EXPECT_NEAR(interval.high, 162.0 / 200, 2.0 / 200);
  const Interval again = RatioInterval(hits, std::vector<double>(200, 1.0), "examples");
  EXPECT_EQ(interval.low, again.low);
  EXPECT_EQ(interval.high, again.high);
}

// Both methods on either side of the limit estimate the same interval of a ratio with unequal denominators.
TEST(ScoringTest, NormalIntervalContinuesTheBootstrap) {
  std::mt19937_64 random(11);
  std::vector<double> numerators, denominators;
  for (size_t i = 0; i <= kBootstrapLimit; ++i) {
    denominators.push_back(1 + random() % 8);
    numerators.push_back(denominators.back() * (random() % 1000) / 1000.0);
  }
  const Interval normal = RatioInterval(numerators, denominators, "blocks");
  numerators.pop_back();
  denominators.pop_back();
  const Interval bootstrap = RatioInterval(numerators, denominators, "blocks");
  EXPECT_EQ(normal.method, "normal approximation over blocks");
  EXPECT_EQ(bootstrap.method, "bootstrap over blocks, 2000 resamples");
  const double width = normal.high - normal.low;
  EXPECT_GT(width, 0);
  EXPECT_NEAR(normal.low, bootstrap.low, 0.1 * width);
  EXPECT_NEAR(normal.high, bootstrap.high, 0.1 * width);
}

TEST(ScoringTest, OddEntriesDoNotBreakTheInterval) {
  const double nan = std::numeric_limits<double>::quiet_NaN(), inf = std::numeric_limits<double>::infinity();
  EXPECT_TRUE(std::isnan(RatioInterval({}, {}, "x").low));
  EXPECT_TRUE(std::isnan(RatioInterval({1, nan}, {1, 1}, "x").high));
  EXPECT_EQ(RatioInterval({1, inf}, {1, 1}, "x").high, inf);
  EXPECT_EQ(RatioInterval({3}, {4}, "x").low, 0.75);
  EXPECT_EQ(RatioInterval({3}, {4}, "x").high, 0.75);
}

// Whole scores against their plain definitions and scipy's Wilson interval (oracle.py): padding and ignored
// positions, examples of unequal lengths, examples without a target, nothing at all.
TEST(ScoringTest, ScoresAgreeWithTheirPlainDefinitions) {
  // The reference is Python; a build without that environment still runs the rest. CI refuses skips.
  // The independent computation runs in the oracle environment; CI has it and refuses skips.
  if (std::string(EIGSVC_ORACLE_PYTHON).empty()) GTEST_SKIP() << "no EIGSVC_ORACLE_PYTHON";
  std::mt19937_64 random(23);
  nlohmann::json cases = nlohmann::json::array();
  std::vector<std::vector<Prediction>> all;
  for (int i = 0; i < 40; ++i) {
    std::vector<Prediction> predictions;
    const int64_t examples = i == 0 ? 0 : i == 1 ? 1 : static_cast<int64_t>(1 + random() % 60);
    for (int64_t example = 0; example < examples; ++example) {
      const int64_t length = i % 3 == 0 ? 1 : static_cast<int64_t>(random() % 6);
      for (int64_t step = 0; step < length; ++step) {
        const bool ignored = i % 3 != 0 && random() % 4 == 0;
        const int64_t classes = i % 5 == 0 ? 1 : 3;  // one class: every answer is right
        predictions.push_back({example, static_cast<int64_t>(random() % classes),
                               ignored ? kIgnoredTarget : static_cast<int64_t>(random() % classes),
                               static_cast<double>(random() % 100000) / 20000});
      }
    }
    std::shuffle(predictions.begin(), predictions.end(), random);
    nlohmann::json rows = nlohmann::json::array();
    for (const Prediction& p : predictions) rows.push_back({p.example, p.predicted, p.target, p.nll});
    cases.push_back({{"predictions", rows}, {"batch", 8}, {"tokens_per_word", 1.25}});
    all.push_back(std::move(predictions));
  }
  const std::string in = ::testing::TempDir() + "scoring_in.json",
                    out = ::testing::TempDir() + "scoring_out.json";
  std::ofstream(in) << cases;
  const std::string command =
      absl::StrCat("'", EIGSVC_ORACLE_PYTHON, "' '", testing::SourcePath("tests/tasks/oracle.py"), "' score ",
                   in, " ", out);
  ASSERT_EQ(std::system(command.c_str()), 0) << command;
  const nlohmann::json expected = nlohmann::json::parse(std::ifstream(out));
  ASSERT_EQ(expected.size(), all.size());
  int scored = 0;
  for (size_t i = 0; i < all.size(); ++i) {
    SCOPED_TRACE(i);
    const nlohmann::json& plain = expected[i];
    const Score once = ClassificationScore(all[i]), mean = MeanExampleAccuracy(all[i]);
    const Score pooled = PerplexityScore(all[i], {.tokens_per_word = 1.25});
    const Score batched = PerplexityScore(all[i], {.mean_over_batches_of = 8});
    EXPECT_EQ(once.n, plain["n"].get<int64_t>());
    EXPECT_EQ(pooled.n, plain["n"].get<int64_t>());
    if (plain["n"] == 0) {
      for (const Score* score : {&once, &mean, &pooled, &batched}) {
        EXPECT_TRUE(std::isnan(score->value));
        EXPECT_TRUE(std::isnan(score->ci95_low));
        EXPECT_TRUE(std::isnan(score->ci95_high));
      }
      continue;
    }
    ++scored;
    const auto near = [&](double value, const nlohmann::json& wanted) {
      EXPECT_NEAR(value, wanted.get<double>(), 1e-12 * std::max(1.0, wanted.get<double>()));
    };
    near(once.value, plain["accuracy"]);
    near(once.ci95_low, plain["wilson"][0]);
    near(once.ci95_high, plain["wilson"][1]);
    EXPECT_EQ(once.interval, "Wilson");
    near(once.also[0].second, plain["nll"]);
    EXPECT_EQ(mean.n, plain["examples"].get<int64_t>());
    near(mean.value, plain["mean_example_accuracy"]);
    near(pooled.value, plain["perplexity"]);
    near(pooled.also[0].second, plain["accuracy"]);
    near(pooled.also[1].second, plain["nll"]);
    EXPECT_EQ(pooled.also[2].first, "word_perplexity");
    near(pooled.also[2].second, plain["word_perplexity"]);
    near(batched.value, plain["batch_perplexity"]);
    EXPECT_EQ(batched.also.back().first, "pooled_perplexity");
    near(batched.also.back().second, plain["perplexity"]);
    EXPECT_EQ(batched.interval, "bootstrap over batches, 2000 resamples");
    for (const Score* score : {&once, &mean, &pooled, &batched}) {
      EXPECT_LE(score->ci95_low, score->value + 1e-12);
      EXPECT_GE(score->ci95_high, score->value - 1e-12);
    }
  }
  EXPECT_GT(scored, 35);
}

}  // namespace
}  // namespace eigsvc
