#include "models/layers/dplr_kernel.h"

#include <cmath>

#include "ATen/TensorOperators.h"
#include "ATen/core/IListRef.h"
#include "ATen/ops/complex.h"
#include "ATen/ops/diag.h"
#include "ATen/ops/eye.h"
#include "ATen/ops/imag.h"
#include "ATen/ops/linalg_matrix_power.h"
#include "ATen/ops/linalg_solve.h"
#include "ATen/ops/matmul.h"
#include "ATen/ops/real.h"
#include "ATen/ops/zeros.h"
#include "gtest/gtest.h"
#include "models/base/random.h"
#include "models/layers/hippo.h"
#include "tests/testing/tensors.h"

namespace eigsvc {
namespace {

using testing::MaxDifference;
using testing::MaxMagnitude;
using testing::NormalTensor;
using testing::UniformTensor;

at::Tensor RandomComplex(Random& random, at::IntArrayRef shape) {
  return at::complex(NormalTensor(random, shape), NormalTensor(random, shape));
}

DplrSystem RandomSystem(uint64_t seed, int64_t outputs, int64_t channels, int64_t states, int64_t rank) {
  Random random({seed});
  DplrSystem system;
  system.lambda = at::complex(UniformTensor(random, {channels, states}, -1.5, -0.05),
                              UniformTensor(random, {channels, states}, -9, 9));
  system.p = 0.4 * RandomComplex(random, {channels, states, rank});
  system.q = system.p.conj().resolve_conj();
  system.b = RandomComplex(random, {channels, states});
  system.c = RandomComplex(random, {outputs, channels, states});
  system.dt = UniformTensor(random, {channels}, 0.02, 0.3);
  return system;
}

// By the matrices: c̃ = c(I - Ā^L), K_l = Re(c Ā^l b̄).
at::Tensor ByPowers(const DplrSystem& system, int64_t length, int64_t wanted) {
  const int64_t outputs = system.c.size(0), channels = system.c.size(1), states = system.c.size(2);
  const at::Tensor identity = at::eye(states, system.c.options());
  at::Tensor kernel = at::zeros({outputs, channels, wanted}, at::kDouble);
  for (int64_t h = 0; h < channels; ++h) {
    const at::Tensor half =
        (at::diag(system.lambda[h]) - at::matmul(system.p[h], system.q[h].t())) * (system.dt[h] / 2);
    const at::Tensor a = at::linalg_solve(identity - half, identity + half);
    const at::Tensor b =
        at::linalg_solve(identity - half, (system.dt[h] * system.b[h]).unsqueeze(-1)).squeeze(-1);
    const at::Tensor rest = identity - at::linalg_matrix_power(a, length);
    for (int64_t m = 0; m < outputs; ++m) {
      at::Tensor c = at::linalg_solve(rest.t(), system.c[m][h].unsqueeze(-1)).squeeze(-1);
      for (int64_t l = 0; l < wanted; ++l) {
        kernel[m][h][l] = at::real((c * b).sum());
        c = at::matmul(c, a);
      }
    }
  }
  return kernel;
}

TEST(DplrKernelTest, EqualsThePowersOfTheStateMatrix) {
  for (const int64_t rank : {1, 2, 3}) {
    for (const int64_t length : {1, 2, 17, 32}) {
      const DplrSystem system = RandomSystem(10 * rank + length, 2, 3, 5, rank);
      const at::Tensor exact = ByPowers(system, length, length), found = DplrKernel(system, length);
      ASSERT_EQ(found.sizes(), exact.sizes());
      EXPECT_LE(MaxDifference(found, exact), 1e-12 * MaxMagnitude(exact)) << rank << " " << length;
    }
  }
}

// Long kernels are made a few channels at a time.
TEST(DplrKernelTest, ChannelsInPartsEqualTheWhole) {
  const DplrSystem system = RandomSystem(5, 1, 3, 4, 1);
  constexpr int64_t kLength = int64_t{1} << 18;
  const at::Tensor exact = ByPowers(system, kLength, 9), found = DplrKernel(system, kLength);
  ASSERT_EQ(found.size(2), kLength);
  EXPECT_LE(MaxDifference(found.narrow(2, 0, 9), exact), 1e-11 * MaxMagnitude(exact));
}

// The diagonalised form is unitarily similar to HiPPO-LegS, whose matrix is known in closed form.
TEST(HippoTest, IsLegSInAnotherBasis) {
  constexpr int64_t kOrder = 7;
  const Hippo hippo = HippoLegS(kOrder);
  const at::Tensor& v = hippo.vectors;
  const at::Tensor a = at::matmul(
      at::matmul(v, at::diag(hippo.lambda) - hippo.p.unsqueeze(-1) * hippo.p.conj()), v.mH().contiguous());
  const at::Tensor b = at::matmul(v, hippo.b);
  for (int64_t i = 0; i < kOrder; ++i) {
    EXPECT_NEAR(at::real(b)[i].item<double>(), std::sqrt(2.0 * i + 1), 1e-12);
    for (int64_t j = 0; j < kOrder; ++j) {
      const double exact = i > j ? -std::sqrt((2.0 * i + 1) * (2.0 * j + 1)) : i == j ? -(i + 1.0) : 0;
      EXPECT_NEAR(at::real(a)[i][j].item<double>(), exact, 1e-11) << i << " " << j;
      EXPECT_NEAR(at::imag(a)[i][j].item<double>(), 0, 1e-11);
    }
  }
}

}  // namespace
}  // namespace eigsvc
