#include "models/layers/rope.h"

#include <cmath>
#include <complex>
#include <vector>

#include "ATen/TensorOperators.h"
#include "ATen/core/IListRef.h"
#include "ATen/ops/cat.h"
#include "ATen/ops/equal.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/tensors.h"

namespace eigsvc {
namespace {

using testing::MaxDifference;
using testing::NormalTensor;

TEST(RotaryTest, TurnsEachPairByPositionTimesFrequency) {
  constexpr int64_t kSize = 6, kFirst = 1000, kSteps = 3;
  Random random({1});
  const at::Tensor x = NormalTensor(random, {2, kSteps, 2, kSize});
  for (const RotaryPairs pairs : {RotaryPairs::kInterleaved, RotaryPairs::kHalves}) {
    const Rotary rotary(RotaryFrequencies(kSize, 500, {}, c10::kDouble), pairs);
    const at::Tensor turned = rotary.Turn(x, kFirst);
    ASSERT_EQ(turned.sizes(), x.sizes());
    for (int64_t t = 0; t < kSteps; ++t) {
      for (int64_t m = 0; m < kSize / 2; ++m) {
        const bool halves = pairs == RotaryPairs::kHalves;
        const int64_t a = halves ? m : 2 * m, b = halves ? m + kSize / 2 : 2 * m + 1;
        const auto pair = [&](const at::Tensor& y) {
          return std::complex<double>(y[1][t][1][a].item<double>(), y[1][t][1][b].item<double>());
        };
        const double angle = static_cast<double>(kFirst + t) * std::pow(500.0, -2.0 * m / kSize);
        EXPECT_LE(std::abs(pair(turned) - pair(x) * std::polar(1.0, angle)), 1e-12);
      }
    }
  }
}

TEST(RotaryTest, ScoresDependOnDistanceAlone) {
  Random random({2});
  const at::Tensor q = NormalTensor(random, {1, 1, 1, 8}), k = NormalTensor(random, {1, 1, 1, 8});
  const Rotary rotary(RotaryFrequencies(8, 10000, {}, c10::kDouble), RotaryPairs::kHalves);
  const auto score = [&](int64_t i, int64_t j) {
    return (rotary.Turn(q, i) * rotary.Turn(k, j)).sum().item<double>();
  };
  EXPECT_NEAR(score(7, 3), score(107, 103), 1e-12);
  EXPECT_GT(std::abs(score(7, 3) - score(7, 4)), 1e-6);
}

TEST(RotaryTest, ChunksEqualTheWhole) {
  Random random({3});
  const at::Tensor x = NormalTensor(random, {1, 9, 2, 4}).to(c10::kFloat);
  const Rotary rotary(RotaryFrequencies(4, 10000, {}, c10::kFloat), RotaryPairs::kInterleaved);
  const at::Tensor parts = at::cat({rotary.Turn(x.narrow(1, 0, 4), 0), rotary.Turn(x.narrow(1, 4, 5), 4)}, 1);
  EXPECT_TRUE(at::equal(parts, rotary.Turn(x, 0)));
}

TEST(RotaryFrequenciesTest, ScalingsFollowTheirDefinitions) {
  constexpr int64_t kSize = 16;
  const double base = 500;
  RotaryScaling linear, llama3;
  linear.kind = RotaryScaling::Kind::kLinear;
  linear.factor = 2.5;
  llama3 = {RotaryScaling::Kind::kLlama3, /*factor=*/8, /*low_factor=*/1, /*high_factor=*/4,
            /*original_positions=*/64};
  const at::Tensor stretched = RotaryFrequencies(kSize, base, linear, c10::kDouble);
  const at::Tensor blended = RotaryFrequencies(kSize, base, llama3, c10::kDouble);
  int kept = 0, slowed = 0, between = 0;
  for (int m = 0; m < kSize / 2; ++m) {
    const double plain = std::pow(base, -2.0 * m / kSize);
    EXPECT_NEAR(stretched[m].item<double>(), plain / 2.5, 1e-15);
    const double turns = 64 * plain / (2 * M_PI);  // over the original context
    double expected = plain;
    if (turns < 1) {
      expected = plain / 8;
      ++slowed;
    } else if (turns > 4) {
      ++kept;
    } else {
      const double share = (turns - 1) / 3;
      expected = (1 - share) * plain / 8 + share * plain;
      ++between;
    }
    EXPECT_NEAR(blended[m].item<double>(), expected, 1e-15) << m;
  }
  EXPECT_GT(kept, 0);
  EXPECT_GT(slowed, 0);
  EXPECT_GT(between, 0);
}

}  // namespace
}  // namespace eigsvc
