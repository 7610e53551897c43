#include "models/tasks/scoring.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

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

}  // namespace
}  // namespace eigsvc
