// The CUDA kernels of what is known of attention's scores against their plain CPU twins, on a GPU.
#include <cmath>

#include "ATen/TensorOperators.h"
#include "ATen/core/Tensor.h"
#include "ATen/ops/full.h"
#include "ATen/ops/rand.h"
#include "ATen/ops/randn.h"
#include "ATen/ops/where.h"
#include "ATen/ops/zeros.h"
#include "gtest/gtest.h"
#include "models/kernels/accurate_lse.h"
#include "models/transition/kernel_call.h"
#include "models/transition/softmax.h"
#include "tests/gpu/gpu_kernels.h"
#include "tests/testing/status_matchers.h"

namespace eigsvc {
namespace {

using testing::CurrentStream;
using testing::kCuda;
using testing::Size;

// `lse` [B,H,T] of heads q [B,H,T,D] and k [B,Hkv,S,D].
LseProblem ProblemOf(const at::Tensor& q, const at::Tensor& k, const at::Tensor& norms,
                     const at::Tensor& lse) {
  const auto rows = [](const at::Tensor& x) {
    return HeadRows{x.const_data_ptr(), x.size(1), x.size(2), x.stride(0), x.stride(1), x.stride(2)};
  };
  LseProblem problem;
  problem.element = *ElementOf(q.scalar_type());
  problem.batch = q.size(0);
  problem.size = q.size(3);
  problem.q = rows(q);
  problem.k = rows(k);
  problem.scale = 1 / std::sqrt(static_cast<double>(q.size(3)));
  problem.squared_norms = norms.const_data_ptr<double>();
  problem.least_bound = 20;
  problem.lse = lse.mutable_data_ptr<float>();
  problem.lse_batch_stride = lse.stride(0);
  problem.lse_head_stride = lse.stride(1);
  problem.lse_row_stride = lse.stride(2);
  return problem;
}

// Heads of every size and alignment, more than one block of rows, a chunk behind earlier keys, windows,
// sinks.
TEST(KernelsGpuTest, LogSumExpsOfLargeScoresAreTheTwins) {
  constexpr int64_t kHeads = 4, kGroups = 2;
  const int64_t steps = Size(149, 67);
  for (const c10::ScalarType type : {at::kFloat, at::kHalf, at::kBFloat16}) {
    for (const int64_t size : {12, 32, 64, 80, 128, 256}) {
      for (const int64_t variant : {0, 1, 2}) {
        const bool odd = variant == 1;  // rows that are not aligned
        const int64_t earlier = variant == 2 ? 62 : 0;
        const auto normal = [&](int64_t heads, int64_t rows, double by) {
          return (at::randn({1, rows, heads, size + odd}, at::kDouble) * by).to(type);
        };
        const auto heads_of = [&](const at::Tensor& x) { return x.transpose(1, 2).narrow(3, 0, size); };
        const at::Tensor q = normal(kHeads, steps, 6), k = normal(kGroups, steps + earlier, 1);
        const at::Tensor norms = at::full({kHeads + kGroups}, 1e4, at::kDouble),
                         sinks = at::randn({kHeads}) * 20;
        norms[2] = 1e-9;  // scores of this head are small
        const at::Tensor expected = at::full({1, kHeads, steps}, -77, at::kFloat);
        LseProblem twin = ProblemOf(heads_of(q), heads_of(k), norms, expected);
        twin.window = variant == 1 ? 40 : 0;
        if (variant == 2) twin.sinks = sinks.const_data_ptr<float>();
        RefineLsePlainly(twin);
        EXPECT_TRUE((expected.select(1, 2) == -77).all().item<bool>());

        const at::Tensor q_device = q.to(kCuda), k_device = k.to(kCuda), norms_device = norms.to(kCuda),
                         sinks_device = sinks.to(kCuda);
        // From a first answer that is off by half, rows that are longer than they need be.
        const at::Tensor before = expected + at::rand({1, kHeads, steps}) - 0.5;
        const at::Tensor room = at::zeros({1, kHeads, steps + 5}, before.options().device(kCuda)),
                         found = room.narrow(2, 0, steps);
        found.copy_(before);
        LseProblem problem = ProblemOf(heads_of(q_device), heads_of(k_device), norms_device, found);
        problem.window = twin.window;
        if (twin.sinks != nullptr) problem.sinks = sinks_device.const_data_ptr<float>();
        EIGSVC_ASSERT_OK(RefineLseOnCuda(problem, CurrentStream()));
        const at::Tensor answer = found.cpu();
        EXPECT_TRUE((answer.select(1, 2) == before.select(1, 2)).all().item<bool>());  // as it was
        found.copy_(before);
        problem.least_lse = before.abs().median().item<float>();
        EIGSVC_ASSERT_OK(RefineLseOnCuda(problem, CurrentStream()));
        EXPECT_TRUE(
            (found.cpu() == at::where(before.abs() <= problem.least_lse, before, answer)).all().item<bool>());
        answer.select(1, 2).copy_(expected.select(1, 2));
        EXPECT_TRUE((room.narrow(2, steps, 5) == 0).all().item<bool>());
        // 2 ulp of the largest.
        const double largest = expected.abs().max().item<double>();
        EXPECT_LE((answer - expected).abs().max().item<double>(), std::exp2(std::ilogb(largest) - 22))
            << c10::toString(type) << ", heads of " << size << ", variant " << variant;
      }
    }
  }
}

TEST(KernelsGpuTest, TheNoiseFloorOfAttentionIsThatOfTheHost) {
  for (const c10::ScalarType type : {at::kFloat, at::kDouble, at::kHalf, at::kBFloat16}) {
    for (const int64_t size : {8, 20, 64, 80, 128, 256}) {  // vectors of every width, and none
      // 0.9 of a power of two: the rounding of a float32 sum is no matter.
      at::Tensor q = at::randn({2, 3000, 6, size}, at::kDouble),
                 k = at::randn({2, 4000, 3, size}, at::kDouble);
      q[1][2990][4].mul_(1000 / q[1][2990][4].norm());
      k[1][17][2].mul_(60 / k[1][17][2].norm());
      q = q.to(type).transpose(1, 2);
      k = k.to(type).transpose(1, 2);
      for (const double cap : {0.0, 200.0}) {
        const at::Tensor floor = BoundScores(q.to(kCuda), k.to(kCuda), -0.07, cap).noise_floor;
        ASSERT_TRUE(floor.is_cuda());
        EXPECT_EQ(floor.item<double>(), BoundScores(q, k, -0.07, cap).noise_floor.item<double>())
            << c10::toString(type) << ", " << size;
      }
    }
  }
}

}  // namespace
}  // namespace eigsvc
