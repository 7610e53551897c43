#include "models/layers/norm.h"

#include <cmath>

#include "ATen/ops/ones.h"
#include "ATen/ops/zeros.h"
#include "ATen/ops/zeros_like.h"
#include "gtest/gtest.h"
#include "models/base/random.h"
#include "models/kernels/rms_norm.h"
#include "tests/testing/tensors.h"

namespace eigsvc {
namespace {

using testing::MaxDifference;
using testing::NormalTensor;

double Silu(double v) { return v / (1 + std::exp(-v)); }

// The definition, row by row: gate where given, then each group by its root mean square.
at::Tensor Definition(const at::Tensor& x, const at::Tensor* gate, const at::Tensor& weight, double eps,
                      int64_t groups, bool norm_before_gate) {
  at::Tensor y = at::zeros_like(x);
  const auto in = x.accessor<double, 2>();
  const auto w = weight.accessor<double, 1>();
  auto out = y.accessor<double, 2>();
  const int64_t width = x.size(1), size = width / groups;
  for (int64_t row = 0; row < x.size(0); ++row) {
    for (int64_t g = 0; g < groups; ++g) {
      double sum = 0;
      const auto value = [&](int64_t c) {
        return gate == nullptr || norm_before_gate ? in[row][c]
                                                   : in[row][c] * Silu(gate->accessor<double, 2>()[row][c]);
      };
      for (int64_t c = g * size; c < (g + 1) * size; ++c) sum += value(c) * value(c);
      const double scale = 1 / std::sqrt(sum / static_cast<double>(size) + eps);
      for (int64_t c = g * size; c < (g + 1) * size; ++c) {
        out[row][c] = value(c) * scale * w[c];
        if (gate != nullptr && norm_before_gate) out[row][c] *= Silu(gate->accessor<double, 2>()[row][c]);
      }
    }
  }
  return y;
}

TEST(RmsNormTest, EqualsItsDefinition) {
  Random random({1});
  const at::Tensor x = NormalTensor(random, {3, 8}), weight = NormalTensor(random, {8});
  EXPECT_LE(MaxDifference(RmsNorm(x, weight, 1e-5), Definition(x, nullptr, weight, 1e-5, 1, false)), 1e-14);
}

TEST(RmsNormTest, TakesStatisticsOfHalfPrecisionInFloat32) {
  // 300² overflows a float16.
  const at::Tensor x = at::ones({1, 8}, c10::kHalf) * 300, weight = at::ones({8}, c10::kHalf);
  const at::Tensor y = RmsNorm(x, weight, 0);
  EXPECT_EQ(y.scalar_type(), c10::kHalf);
  EXPECT_EQ(MaxDifference(y, weight), 0);
}

TEST(RmsNormTest, TheKernelsTwinIsTheSame) {
  using Gate = RmsNormProblem::Gate;
  Random random({4});
  const at::Tensor wide = NormalTensor(random, {3, 30}), x = wide.narrow(1, 1, 12),
                   z = wide.narrow(1, 15, 12);
  const at::Tensor weight = NormalTensor(random, {12});
  for (const int64_t groups : {1, 3}) {
    for (const Gate gate : {Gate::kNone, Gate::kBeforeNorm, Gate::kAfterNorm}) {
      at::Tensor y = at::zeros({3, 12}, c10::kFloat);
      RmsNormPlainly({Element::kFloat64, Element::kFloat64, gate, x.const_data_ptr(), z.const_data_ptr(), 3,
                      groups, 12 / groups, x.stride(0), z.stride(0), weight.const_data_ptr(), 1e-5,
                      y.mutable_data_ptr()});
      const at::Tensor expected =
          Definition(x, gate == Gate::kNone ? nullptr : &z, weight, 1e-5, groups, gate == Gate::kAfterNorm);
      EXPECT_LE(MaxDifference(y, expected), 1e-6) << groups;
    }
  }
}

TEST(LayerNormTest, HasMeanZeroAndDeviationOneBeforeWeightAndBias) {
  Random random({2});
  const at::Tensor x = NormalTensor(random, {4, 16}, 3, 5);
  const at::Tensor y = LayerNorm(x, at::ones({16}, c10::kDouble), at::ones({16}, c10::kDouble) * 2, 0) - 2;
  EXPECT_LE(MaxDifference(y.mean(-1), at::zeros_like(y.mean(-1))), 1e-13);
  EXPECT_LE(MaxDifference((y * y).mean(-1), at::ones({4}, c10::kDouble)), 1e-13);
}

TEST(GatedRmsNormTest, EqualsItsDefinitionForEveryGroupingAndOrder) {
  Random random({3});
  const at::Tensor x = NormalTensor(random, {3, 12}), gate = NormalTensor(random, {3, 12});
  const at::Tensor weight = NormalTensor(random, {12});
  for (const int64_t groups : {1, 2, 4}) {
    for (const bool before : {false, true}) {
      EXPECT_LE(MaxDifference(GatedRmsNorm(x, gate, weight, 1e-5, groups, before),
                              Definition(x, &gate, weight, 1e-5, groups, before)),
                1e-14)
          << groups << " groups, norm_before_gate " << before;
    }
  }
}

TEST(GatedRmsNormTest, GroupingMatters) {
  Random random({4});
  const at::Tensor x = NormalTensor(random, {3, 12}), gate = NormalTensor(random, {3, 12});
  const at::Tensor weight = at::ones({12}, c10::kDouble);
  EXPECT_GT(MaxDifference(GatedRmsNorm(x, gate, weight, 1e-5, 1, false),
                          GatedRmsNorm(x, gate, weight, 1e-5, 2, false)),
            1e-3);
}

}  // namespace
}  // namespace eigsvc
