#include "models/layers/linear_attention.h"

#include "ATen/TensorOperators.h"
#include "ATen/ops/zeros.h"
#include "ATen/ops/zeros_like.h"
#include "gtest/gtest.h"
#include "models/base/random.h"
#include "tests/testing/tensors.h"

namespace eigsvc {
namespace {

using testing::MaxDifference;
using testing::NormalTensor;
using testing::UniformTensor;

TEST(LinearAttentionTest, EqualsTheSumsOverThePastInAnyCut) {
  constexpr int64_t kBatch = 2, kSteps = 150, kHeads = 3, kKeys = 4, kValues = 5;
  Random random({1});
  const at::Tensor q = UniformTensor(random, {kBatch, kSteps, kHeads, kKeys}, 0.1, 2),
                   k = UniformTensor(random, {kBatch, kSteps, kHeads, kKeys}, 0.1, 2),
                   v = NormalTensor(random, {kBatch, kSteps, kHeads, kValues});
  at::Tensor y = at::zeros_like(v), sums = at::zeros({kBatch, kSteps, kHeads}, at::kDouble);
  for (int64_t t = 0; t < kSteps; ++t) {
    for (int64_t s = 0; s <= t; ++s) {
      const at::Tensor kernel = (q.select(1, t) * k.select(1, s)).sum(-1);  // [B,H]
      sums.select(1, t).add_(kernel);
      y.select(1, t).add_(kernel.unsqueeze(-1) * v.select(1, s));
    }
  }
  at::Tensor state, keys;
  int64_t begin = 0;
  for (const int64_t steps : {1, 70, 79}) {
    const auto part = [&](const at::Tensor& x) { return x.narrow(1, begin, steps); };
    const KernelAttentionOutput found = LinearAttention(part(q), part(k), part(v), state);
    const KernelSums found_sums = SumKernel(part(q).to(at::kFloat), part(k).to(at::kFloat), keys);
    const KernelSums exact_sums = SumKernel(part(q), part(k), keys);
    EXPECT_LE(MaxDifference(found.y, part(y)), 1e-10);
    EXPECT_EQ(found_sums.sums.scalar_type(), at::kDouble);
    EXPECT_LE(MaxDifference(exact_sums.sums, part(sums)), 1e-10);
    state = found.final_state;
    keys = exact_sums.final_keys;
    begin += steps;
  }
}

}  // namespace
}  // namespace eigsvc
