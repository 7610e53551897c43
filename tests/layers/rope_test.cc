#include "models/layers/rope.h"

#include <algorithm>
#include <cmath>
#include <complex>
#include <vector>

#include "ATen/TensorOperators.h"
#include "ATen/core/IListRef.h"
#include "ATen/ops/arange.h"
#include "ATen/ops/cat.h"
#include "ATen/ops/equal.h"
#include "ATen/ops/zeros.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "models/kernels/rotary.h"
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
    const Rotary rotary({kSize, 500, {}, pairs}, c10::kDouble);
    const at::Tensor turned = rotary.Turn(x, kFirst, kFirst + kSteps);
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

TEST(RotaryTest, TheKernelsTwinIsTheSame) {
  constexpr int64_t kSize = 6, kHead = 9, kSteps = 5;
  Random random({4});
  const at::Tensor x = NormalTensor(random, {2, kSteps, 3, kHead + 2}).narrow(3, 1, kHead);
  for (const RotaryPairs pairs : {RotaryPairs::kInterleaved, RotaryPairs::kHalves}) {
    const Rotary rotary({kSize, 500, {}, pairs}, c10::kDouble);
    const at::Tensor angle = at::arange(kSteps, c10::kDouble).unsqueeze(1) * rotary.Frequencies(kSteps);
    const at::Tensor cos = angle.cos(), sin = angle.sin(), y = at::zeros(x.sizes(), c10::kFloat);
    RotatePlainly({Element::kFloat64, x.const_data_ptr(), 2, kSteps, 3, kHead, x.stride(0), x.stride(1),
                   x.stride(2), kSize / 2, pairs == RotaryPairs::kInterleaved, cos.const_data_ptr(),
                   sin.const_data_ptr(), y.mutable_data_ptr()});
    EXPECT_LE(MaxDifference(y, rotary.Turn(x, 0, kSteps)), 1e-6);
  }
}

TEST(RotaryTest, ScoresDependOnDistanceAlone) {
  Random random({2});
  const at::Tensor q = NormalTensor(random, {1, 1, 1, 8}), k = NormalTensor(random, {1, 1, 1, 8});
  const Rotary rotary({8}, c10::kDouble);
  const auto score = [&](int64_t i, int64_t j) {
    return (rotary.Turn(q, i, 200) * rotary.Turn(k, j, 200)).sum().item<double>();
  };
  EXPECT_NEAR(score(7, 3), score(107, 103), 1e-12);
  EXPECT_GT(std::abs(score(7, 3) - score(7, 4)), 1e-6);
}

TEST(RotaryTest, ChunksEqualTheWhole) {
  Random random({3});
  const at::Tensor x = NormalTensor(random, {1, 9, 2, 4}).to(c10::kFloat);
  const Rotary rotary({4, 10000, {}, RotaryPairs::kInterleaved}, c10::kFloat);
  const at::Tensor parts =
      at::cat({rotary.Turn(x.narrow(1, 0, 4), 0, 9), rotary.Turn(x.narrow(1, 4, 5), 4, 9)}, 1);
  EXPECT_TRUE(at::equal(parts, rotary.Turn(x, 0, 9)));
}

TEST(RotaryFrequenciesTest, ScalingsFollowTheirDefinitions) {
  constexpr int64_t kSize = 16;
  const double base = 500;
  RotaryScaling linear, llama3;
  linear.kind = RotaryScaling::Kind::kLinear;
  linear.factor = 2.5;
  llama3 = {RotaryScaling::Kind::kLlama3, /*factor=*/8, /*original_positions=*/64, /*low_factor=*/1,
            /*high_factor=*/4};
  const at::Tensor stretched = RotaryFrequencies({kSize, base, linear}, 1, c10::kDouble);
  const at::Tensor blended = RotaryFrequencies({kSize, base, llama3}, 1, c10::kDouble);
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

TEST(RotaryFrequenciesTest, DynamicScalingTakesALargerBaseBeyondTheOriginalContext) {
  RotarySpec spec{/*size=*/8, /*base=*/300};
  spec.scaling.kind = RotaryScaling::Kind::kDynamic;
  spec.scaling.factor = 3;
  spec.scaling.original_positions = 10;
  // base·(factor·s/original - (factor - 1))^(size/(size - 2)): 300·7^(4/3) at s = 30.
  const double longer = 300 * std::pow(7.0, 8.0 / 6);
  const at::Tensor within = RotaryFrequencies(spec, 10, c10::kDouble);
  const at::Tensor beyond = RotaryFrequencies(spec, 30, c10::kDouble);
  for (int m = 0; m < 4; ++m) {
    EXPECT_NEAR(within[m].item<double>(), std::pow(300, -m / 4.0), 1e-15);
    EXPECT_NEAR(beyond[m].item<double>(), std::pow(longer, -m / 4.0), 1e-15);
  }
  EXPECT_TRUE(spec.DependsOnLength());
  EXPECT_EQ(spec.Stretch(3), spec.Stretch(10));
  EXPECT_NE(spec.Stretch(10), spec.Stretch(11));
}

TEST(RotaryFrequenciesTest, LongRopeTakesOtherFactorsBeyondTheOriginalContext) {
  RotarySpec spec{/*size=*/4, /*base=*/100};
  spec.scaling.kind = RotaryScaling::Kind::kLongRope;
  spec.scaling.original_positions = 16;
  spec.scaling.short_factors = {1, 2};
  spec.scaling.long_factors = {4, 8};
  const at::Tensor within = RotaryFrequencies(spec, 16, c10::kDouble);
  const at::Tensor beyond = RotaryFrequencies(spec, 17, c10::kDouble);
  EXPECT_NEAR(within[0].item<double>(), 1, 1e-15);
  EXPECT_NEAR(within[1].item<double>(), 0.1 / 2, 1e-15);
  EXPECT_NEAR(beyond[0].item<double>(), 1.0 / 4, 1e-15);
  EXPECT_NEAR(beyond[1].item<double>(), 0.1 / 8, 1e-15);
  EXPECT_EQ(spec.Stretch(17), spec.Stretch(1000));
  EXPECT_NEAR(LongRopeMagnitude(4, 16), std::sqrt(1.5), 1e-15);
  EXPECT_EQ(LongRopeMagnitude(0.5, 16), 1);
}

TEST(RotaryFrequenciesTest, YarnKeepsFastFrequenciesAndDividesSlowOnes) {
  RotarySpec spec{/*size=*/32, /*base=*/10000};
  spec.scaling.kind = RotaryScaling::Kind::kYarn;
  spec.scaling.factor = 4;
  spec.scaling.original_positions = 256;
  const auto turns = [&](int m) { return 256 * std::pow(10000, -m / 16.0) / (2 * M_PI); };
  // The ramp runs between the dimensions that turn 32 times and once over the original context.
  const double first = 16 * std::log(256 / (32 * 2 * M_PI)) / std::log(10000),
               last = 16 * std::log(256 / (2 * M_PI)) / std::log(10000);
  for (const bool truncate : {true, false}) {
    spec.scaling.truncate = truncate;
    const double low = truncate ? std::floor(first) : first, high = truncate ? std::ceil(last) : last;
    const at::Tensor found = RotaryFrequencies(spec, 1, c10::kDouble);
    int kept = 0, divided = 0;
    for (int m = 0; m < 16; ++m) {
      const double plain = std::pow(10000, -m / 16.0);
      const double share = std::min(std::max((m - low) / (high - low), 0.0), 1.0);
      EXPECT_NEAR(found[m].item<double>(), plain * (share / 4 + 1 - share), 1e-15) << m;
      kept += share == 0;
      divided += share == 1;
      EXPECT_TRUE(share > 0 || turns(m) > 16) << m;
      EXPECT_TRUE(share < 1 || turns(m) < 2) << m;
    }
    EXPECT_GT(kept, 0);
    EXPECT_GT(divided, 0);
  }
  EXPECT_NEAR(YarnMagnitude(4), 1 + 0.1 * std::log(4), 1e-15);
}

TEST(RotaryTest, TurnsAShareOfEachHeadAndScalesItsMagnitude) {
  Random random({4});
  const at::Tensor x = NormalTensor(random, {1, 5, 2, 10});
  for (const RotaryPairs pairs : {RotaryPairs::kInterleaved, RotaryPairs::kHalves}) {
    RotarySpec spec{/*size=*/6, 10000, {}, pairs};
    const Rotary plain(spec, c10::kDouble);
    const at::Tensor turned = plain.Turn(x, 3, 8);
    EXPECT_TRUE(at::equal(turned.narrow(-1, 6, 4), x.narrow(-1, 6, 4)));
    EXPECT_LE(MaxDifference(turned.narrow(-1, 0, 6), plain.Turn(x.narrow(-1, 0, 6), 3, 8)), 0);
    spec.scaling.attention_factor = 1.5;
    const at::Tensor larger = Rotary(spec, c10::kDouble).Turn(x, 3, 8);
    EXPECT_LE(MaxDifference(larger.narrow(-1, 0, 6), turned.narrow(-1, 0, 6) * 1.5), 1e-15);
    EXPECT_TRUE(at::equal(larger.narrow(-1, 6, 4), x.narrow(-1, 6, 4)));
  }
}

}  // namespace
}  // namespace eigsvc
