#include "models/layers/linear_time_invariant.h"

#include <cmath>
#include <complex>
#include <vector>

#include "ATen/TensorOperators.h"
#include "ATen/core/IListRef.h"
#include "ATen/ops/cat.h"
#include "ATen/ops/complex.h"
#include "ATen/ops/full.h"
#include "ATen/ops/imag.h"
#include "ATen/ops/real.h"
#include "ATen/ops/view_as_real.h"
#include "ATen/ops/zeros.h"
#include "gtest/gtest.h"
#include "models/base/random.h"
#include "tests/testing/tensors.h"

namespace eigsvc {
namespace {

using testing::MaxDifference;
using testing::NormalTensor;
using testing::RelativeDifference;
using testing::UniformTensor;
using Complex = std::complex<double>;

at::Tensor Parts(const at::Tensor& x) { return at::view_as_real(x); }

at::Tensor RandomLogLambda(Random& random, at::IntArrayRef shape) {
  return at::complex(UniformTensor(random, shape, -0.5, -1e-4), UniformTensor(random, shape, -3, 3));
}
at::Tensor RandomComplex(Random& random, at::IntArrayRef shape) {
  return at::complex(NormalTensor(random, shape), NormalTensor(random, shape));
}

TEST(CausalFftConvolveTest, EqualsTheSumWhateverIsAskedFor) {
  Random random({1});
  const at::Tensor u = NormalTensor(random, {2, 23, 3});
  for (const int64_t length : {1, 5, 23, 40}) {
    const at::Tensor kernel = NormalTensor(random, {3, length});
    at::Tensor exact = at::zeros({2, 23, 3}, at::kDouble);
    for (int64_t t = 0; t < 23; ++t) {
      for (int64_t s = 0; s <= std::min<int64_t>(t, length - 1); ++s) {
        exact.select(1, t).add_(u.select(1, t - s) * kernel.select(1, s));
      }
    }
    for (const int64_t steps : {1, 7, 23}) {
      const at::Tensor found = CausalFftConvolve(u, kernel, steps);
      ASSERT_EQ(found.sizes(), at::IntArrayRef({2, steps, 3}));
      EXPECT_LE(MaxDifference(found, exact.narrow(1, 23 - steps, steps)), 1e-13) << length << " " << steps;
    }
    EXPECT_LE(RelativeDifference(CausalFftConvolve(u.to(at::kFloat), kernel.to(at::kFloat), 23), exact),
              1e-6);
  }
}

struct DiagonalCase {
  at::Tensor log_lambda, c, u, y, state;
};

// One step after the other.
DiagonalCase Walk(uint64_t seed, int64_t steps, const at::Tensor& start) {
  constexpr int64_t kBatch = 2, kChannels = 3, kOrder = 4;
  Random random({seed});
  DiagonalCase result;
  result.log_lambda = RandomLogLambda(random, {kChannels, kOrder});
  result.c = RandomComplex(random, {kChannels, kOrder});
  result.u = NormalTensor(random, {kBatch, steps, kChannels});
  result.y = at::zeros({kBatch, steps, kChannels}, at::kDouble);
  at::Tensor h = start.defined() ? start.clone() : at::zeros({kBatch, kChannels, kOrder}, at::kComplexDouble);
  const at::Tensor lambda = result.log_lambda.exp();
  for (int64_t t = 0; t < steps; ++t) {
    h = lambda * h + result.u.select(1, t).unsqueeze(-1);
    result.y.select(1, t).copy_(at::real((result.c * h).sum(-1)));
  }
  result.state = h;
  return result;
}

TEST(DiagonalSystemTest, KernelResponseAndStateEqualTheRecurrence) {
  Random random({9});
  const at::Tensor start = RandomComplex(random, {2, 3, 4});
  for (const int64_t steps : {1, 2, 3, 16, 37}) {
    for (const at::Tensor& from : {at::Tensor(), start}) {
      const DiagonalCase exact = Walk(2, steps, from);
      const DiagonalSystem system{exact.log_lambda, exact.c};
      at::Tensor y = CausalFftConvolve(exact.u, DiagonalKernel(system, steps), steps);
      if (from.defined()) y = y + DiagonalResponse(system, from, steps);
      EXPECT_LE(MaxDifference(y, exact.y), 1e-12) << steps;
      EXPECT_LE(MaxDifference(Parts(DiagonalState(system, exact.u, from)), Parts(exact.state)), 1e-12)
          << steps;
    }
  }
}

// |λ| = 1 - 1e-9 keeps its distance from 1 over a million steps.
TEST(DiagonalSystemTest, PowersNearOneKeepTheirDigits) {
  const at::Tensor log_lambda =
      at::complex(at::full({1}, -1e-9, at::kDouble), at::full({1}, 1e-3, at::kDouble));
  const at::Tensor power = Powers(log_lambda, 1000000, 1, 1);
  const Complex exact = std::exp(Complex(-1e-3, 1e3));
  EXPECT_NEAR(at::real(power).item<double>(), exact.real(), 1e-12);
  EXPECT_NEAR(at::imag(power).item<double>(), exact.imag(), 1e-12);
}

TEST(ScanDiagonalTest, EqualsTheRecurrenceInAnyCut) {
  Random random({3});
  const at::Tensor log_lambda = RandomLogLambda(random, {5}), v = RandomComplex(random, {2, 29, 5});
  at::Tensor h = at::zeros({2, 5}, at::kComplexDouble);
  std::vector<at::Tensor> states;
  for (int64_t t = 0; t < 29; ++t) {
    h = log_lambda.exp() * h + v.select(1, t);
    states.push_back(h.unsqueeze(1));
  }
  const at::Tensor exact = at::cat(states, 1);
  EXPECT_LE(MaxDifference(Parts(ScanDiagonal(log_lambda, v, {}).contiguous()), Parts(exact)), 1e-13);
  at::Tensor state;
  int64_t begin = 0;
  for (const int64_t steps : {1, 11, 17}) {
    const at::Tensor part = ScanDiagonal(log_lambda, v.narrow(1, begin, steps), state);
    EXPECT_LE(MaxDifference(Parts(part.contiguous()), Parts(exact.narrow(1, begin, steps).contiguous())),
              1e-13);
    state = part.select(1, steps - 1);
    begin += steps;
  }
  const at::Tensor single = ScanDiagonal(log_lambda, v.to(at::kComplexFloat), {});
  EXPECT_EQ(single.scalar_type(), at::kComplexFloat);
  EXPECT_LE(RelativeDifference(Parts(single.contiguous()), Parts(exact)), 1e-6);
}

}  // namespace
}  // namespace eigsvc
