// The symmetric rank-one solver against Sylvester's law of inertia in long double, which tells how many
// eigenvalues lie below a number, and against LAPACK.
#include "models/kernels/rank_one_eigenvalues.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "ATen/TensorOperators.h"
#include "ATen/core/Tensor.h"
#include "ATen/ops/diag_embed.h"
#include "ATen/ops/empty_like.h"
#include "ATen/ops/exp2.h"
#include "ATen/ops/floor.h"
#include "ATen/ops/linalg_eigvalsh.h"
#include "ATen/ops/ones.h"
#include "ATen/ops/rand.h"
#include "ATen/ops/randn.h"
#include "ATen/ops/zeros.h"
#include "gtest/gtest.h"
#include "tests/testing/status_matchers.h"

namespace eigsvc {
namespace {

using ::eigsvc::testing::StatusIs;
using ::testing::HasSubstr;

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

template <typename T>
at::Tensor Solve(const at::Tensor& d, const at::Tensor& z, std::vector<EigenOutcome>* outcomes) {
  const at::Tensor values = at::empty_like(d);
  outcomes->assign(d.size(0), EigenOutcome::kNotConverged);
  EIGSVC_EXPECT_OK(RankOneEigenvaluesOnCpu<T>({d.const_data_ptr<T>(), z.const_data_ptr<T>(), d.size(0),
                                               static_cast<int>(d.size(1)), values.mutable_data_ptr<T>(),
                                               outcomes->data()}));
  return values.to(at::kDouble);
}

// Eigenvalues of diag(d) - z zᵀ below x.
int CountBelow(const double* d, const double* z, int64_t order, long double x) {
  int count = 0;
  long double pivot = 1;
  for (int64_t j = 0; j < order; ++j) {
    long double distance = d[j] - x;
    if (distance == 0) distance = 1e-30L;
    count += distance < 0;
    pivot -= static_cast<long double>(z[j]) * z[j] / distance;
  }
  return count + (pivot < 0);
}

template <typename T>
void Check(const std::string& what, const at::Tensor& wide_d, const at::Tensor& wide_z) {
  const auto type = c10::CppTypeToScalarType<T>::value;
  const at::Tensor d = wide_d.to(type).contiguous(), z = wide_z.to(type).contiguous();
  const at::Tensor exact_d = d.to(at::kDouble), exact_z = z.to(at::kDouble);
  std::vector<EigenOutcome> outcomes;
  const at::Tensor found = Solve<T>(d, z, &outcomes);
  const at::Tensor column = exact_z.unsqueeze(-1);
  const at::Tensor lapack = at::linalg_eigvalsh(at::diag_embed(exact_d) - column * column.transpose(-1, -2));
  const int64_t order = d.size(1);
  for (int64_t i = 0; i < d.size(0); ++i) {
    ASSERT_EQ(outcomes[i], EigenOutcome::kConverged);
    const double norm =
        exact_d[i].abs().max().template item<double>() + exact_z[i].square().sum().template item<double>();
    const double bound = 20 * std::numeric_limits<T>::epsilon() * norm;
    // LAPACK's own error grows with the order.
    const double lapack_bound = bound + 0x1p-52 * static_cast<double>(order) * norm;
    EXPECT_LE((found[i] - lapack[i]).abs().max().template item<double>(), lapack_bound)
        << what << ", " << order;
    const double* const values = found[i].template const_data_ptr<double>();
    for (int64_t k = 0; k < order; ++k) {
      EXPECT_LE(values[std::max<int64_t>(k - 1, 0)], values[k]) << what;
      const auto below = [&](double x) {
        return CountBelow(exact_d[i].template const_data_ptr<double>(),
                          exact_z[i].template const_data_ptr<double>(), order, x);
      };
      EXPECT_LE(below(values[k] - bound), k) << what << ", " << order;
      EXPECT_GE(below(values[k] + bound + std::numeric_limits<double>::min()), k + 1)
          << what << ", " << order;
    }
  }
}

template <typename T>
void CheckAll() {
  for (const int64_t n : {1, 2, 3, 4, 7, 16, 31, 64, 100, 256}) {
    const int64_t count = n <= 64 ? 16 : 3;
    const auto options = at::TensorOptions().dtype(at::kDouble);
    const auto normal = [&] { return at::randn({count, n}, options); };
    const at::Tensor gates = 0.9 + 0.1 * at::rand({count, n}, options), key = normal();
    const at::Tensor unit = key / key.square().sum({-1}, /*keepdim=*/true).sqrt();
    const at::Tensor some = normal() * (at::rand({count, n}, options) < 0.3);
    const at::Tensor repeated = at::floor(at::rand({count, n}, options) * 3);
    Check<T>("random", normal(), normal());
    Check<T>("gated delta rule", gates, (gates * at::rand({count, 1}, options)).sqrt() * unit);
    Check<T>("reflection", gates, (2 * gates).sqrt() * unit);
    Check<T>("identity", at::ones({count, n}, options), unit);
    Check<T>("no update", gates, at::zeros({count, n}, options));
    Check<T>("zeros in z", normal(), some);
    Check<T>("repeated d", repeated, normal());
    Check<T>("repeated d, zeros in z", repeated, some);
    Check<T>("d that nearly repeats", 1 + 1e-14 * normal(), normal());
    Check<T>("graded z", normal(), normal() * at::exp2(-60 * at::rand({count, n}, options)));
    Check<T>("large z", normal(), 1e6 * normal());
    Check<T>("small z", normal(), 1e-8 * normal());
    Check<T>("large", 1e10 * normal(), 1e5 * normal());
    Check<T>("zero", at::zeros({count, n}, options), at::zeros({count, n}, options));
  }
}

TEST(RankOneEigenvaluesTest, AreBackwardStable) {
  CheckAll<double>();
  CheckAll<float>();
}

TEST(RankOneEigenvaluesTest, WhatIsNotFiniteIsSaidAboutItsProblemAlone) {
  const double inf = std::numeric_limits<double>::infinity();
  at::Tensor d = at::ones({5, 3}, at::kDouble), z = at::ones({5, 3}, at::kDouble);
  d[0][1].fill_(kNan);
  d[1][2].fill_(-inf);
  z[2][0].fill_(kNan);
  z[3][0].fill_(1e200);  // whose square is not
  std::vector<EigenOutcome> outcomes;
  const at::Tensor values = Solve<double>(d, z, &outcomes);
  for (int64_t i = 0; i < 4; ++i) {
    EXPECT_EQ(outcomes[i], EigenOutcome::kNotFinite);
    EXPECT_TRUE(values[i].isnan().all().item<bool>());
  }
  EXPECT_EQ(outcomes[4], EigenOutcome::kConverged);
  EXPECT_NEAR(values[4][0].item<double>(), -2, 1e-15);
  EXPECT_EQ(values[4][2].item<double>(), 1);
}

TEST(RankOneEigenvaluesTest, AnOrderOutOfRangeIsRefused) {
  for (const int order : {0, -1, kMaxRankOneOrder + 1}) {
    EXPECT_THAT(RankOneEigenvaluesOnCpu<float>({nullptr, nullptr, 0, order, nullptr, nullptr}),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("order")));
  }
}

}  // namespace
}  // namespace eigsvc
