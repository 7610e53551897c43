// Closed forms against a general solver (LAPACK's geev behind at::linalg_eigvals, float64) on Λ built
// explicitly, and against golden/eigenvalues.json.
#include "models/transition/eigenvalues.h"

#include <cmath>
#include <complex>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <numbers>
#include <vector>

#include "ATen/TensorOperators.h"
#include "ATen/core/IListRef.h"
#include "ATen/ops/cat.h"
#include "ATen/ops/complex.h"
#include "ATen/ops/diag_embed.h"
#include "ATen/ops/equal.h"
#include "ATen/ops/eye.h"
#include "ATen/ops/full.h"
#include "ATen/ops/isfinite.h"
#include "ATen/ops/linalg_eigvals.h"
#include "ATen/ops/linalg_inv.h"
#include "ATen/ops/linalg_matrix_exp.h"
#include "ATen/ops/matmul.h"
#include "ATen/ops/ones.h"
#include "ATen/ops/softplus.h"
#include "ATen/ops/stack.h"
#include "ATen/ops/tensor.h"
#include "ATen/ops/zeros.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "models/base/random.h"
#include "models/transition/dense_eigenvalues.h"
#include "models/transition/pieces.h"
#include "tests/testing/paths.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/tensors.h"
#include "tests/transition/s4_problems.h"

namespace eigsvc {
namespace {

using ::testing::HasSubstr;
using testing::NormalTensor;
using testing::StatusIs;
using testing::UniformTensor;
using Complex = std::complex<double>;
constexpr double kInfinity = std::numeric_limits<double>::infinity();

at::Tensor NormalComplex(Random& random, at::IntArrayRef shape, double size = 1) {
  const at::Tensor real = NormalTensor(random, shape, size);
  return at::complex(real, NormalTensor(random, shape, size));
}

// log λ as complex numbers, row by row.
std::vector<std::vector<Complex>> Logs(const Eigenvalues& eigenvalues) {
  const at::Tensor log_magnitude = eigenvalues.log_magnitude.to(c10::kDouble).contiguous();
  const at::Tensor phase = eigenvalues.phase.defined() ? eigenvalues.phase.contiguous()
                                                       : at::zeros(log_magnitude.sizes(), c10::kDouble);
  const int64_t size = log_magnitude.size(-1);
  std::vector<std::vector<Complex>> rows(log_magnitude.numel() / size);
  for (int64_t i = 0; i < log_magnitude.numel(); ++i) {
    rows[i / size].push_back({log_magnitude.const_data_ptr<double>()[i], phase.const_data_ptr<double>()[i]});
  }
  return rows;
}

// Every computed eigenvalue has a partner among `exact` [..,N], each used once.
void ExpectEigenvalues(const Eigenvalues& found, const at::Tensor& exact, double tolerance) {
  const at::Tensor flat = exact.to(c10::kComplexDouble).contiguous();
  const auto rows = Logs(found);
  ASSERT_EQ(static_cast<int64_t>(rows.size() * rows[0].size()), flat.numel());
  for (size_t r = 0; r < rows.size(); ++r) {
    const auto* values = reinterpret_cast<const Complex*>(flat.const_data_ptr()) + r * rows[r].size();
    std::vector<Complex> left(values, values + rows[r].size());
    for (const Complex& log : rows[r]) {
      const Complex value = std::exp(log);
      size_t nearest = 0;
      for (size_t i = 1; i < left.size(); ++i) {
        if (std::abs(left[i] - value) < std::abs(left[nearest] - value)) nearest = i;
      }
      EXPECT_LE(std::abs(left[nearest] - value), tolerance) << "row " << r << " value " << value;
      left.erase(left.begin() + nearest);
    }
  }
}

at::Tensor Explicit(const DiagonalPlusLowRank& kind) {
  return at::diag_embed(kind.d.expand(kind.u.sizes().slice(0, 4))) -
         at::matmul(kind.u, kind.v.transpose(-1, -2));
}

Eigenvalues Computed(TransitionKind kind) {
  const absl::StatusOr<Eigenvalues> result = ComputeEigenvalues(Transition{std::move(kind)});
  EIGSVC_EXPECT_OK(result);
  return result.value_or(Eigenvalues());
}

// Δ by step and factors by unit are the eigenvalues of their products, by step and over windows; a caller who
// counts products gets the factors.
TEST(EigenvaluesTest, FactorsAreTheirProducts) {
  Random random({31});
  const at::Tensor delta = UniformTensor(random, {2, 9, 3, 1}, 0.001, 0.5),
                   factors = UniformTensor(random, {3, 4}, -5, 0);
  const Transition factored{
      Diagonal{.values = delta, .discretization = Discretization::kExp, .factors = factors}},
      whole{Diagonal{delta * factors, Discretization::kExp}};
  for (const Window& window : {Window{}, Window{4, 2}}) {
    EigenvalueOptions options;
    options.window = window;
    EIGSVC_ASSERT_OK_AND_ASSIGN(const Eigenvalues expected, ComputeEigenvalues(whole, options));
    EIGSVC_ASSERT_OK_AND_ASSIGN(const Eigenvalues found, ComputeEigenvalues(factored, options));
    EXPECT_TRUE(at::equal(found.log_magnitude, expected.log_magnitude));
    EXPECT_EQ(found.layout.multiplicities, expected.layout.multiplicities);
    EXPECT_FALSE(found.factors.defined());
    options.keep_operands = true;
    EIGSVC_ASSERT_OK_AND_ASSIGN(const Eigenvalues kept, ComputeEigenvalues(factored, options));
    EXPECT_TRUE(at::equal(kept.factors.defined() ? kept.log_magnitude * kept.factors : kept.log_magnitude,
                          expected.log_magnitude));
    EXPECT_EQ(kept.factors.defined(), window.IsStep());
  }
  EXPECT_THAT(ComputeEigenvalues({Diagonal{.values = delta, .factors = factors.narrow(0, 0, 2)}}).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("[3,1] where [2,1]")));
}

// log η of steps and of the one before them likewise, in each dtype, whatever the strides.
TEST(EigenvaluesTest, NormalisersAreTheirDifferences) {
  Random random({32});
  for (const at::ScalarType type : {at::kFloat, at::kDouble}) {
    const at::Tensor all = UniformTensor(random, {2, 3, 10}, -5, 5).to(type).transpose(1, 2);  // [B,T,U]
    const at::Tensor differences = all.narrow(1, 0, 9) - all.narrow(1, 1, 9);
    const Transition given{
        ScalarPerUnit{.log_magnitude = all.narrow(1, 1, 9), .previous = all.narrow(1, 0, 1).clone()}};
    for (const Window& window : {Window{}, Window{4, 2}}) {
      EigenvalueOptions options;
      options.window = window;
      EIGSVC_ASSERT_OK_AND_ASSIGN(const Eigenvalues expected,
                                  ComputeEigenvalues({ScalarPerUnit{differences}}, options));
      for (const bool kept : {false, true}) {
        options.keep_operands = kept;
        EIGSVC_ASSERT_OK_AND_ASSIGN(const Eigenvalues found, ComputeEigenvalues(given, options));
        EXPECT_EQ(found.layout.type, expected.layout.type);
        EXPECT_EQ(found.layout.steps, expected.layout.steps);
        EXPECT_EQ(found.previous.defined(), kept && window.IsStep());
        if (found.previous.defined()) {
          EXPECT_TRUE(at::equal(found.previous.squeeze(-1), all.narrow(1, 0, 1)));
          EXPECT_TRUE(at::equal(found.log_magnitude.squeeze(-1), all.narrow(1, 1, 9)));
        } else {
          EXPECT_TRUE(at::equal(found.log_magnitude, expected.log_magnitude));
        }
      }
    }
  }
  const auto refused = [](const at::Tensor& log_eta, const at::Tensor& previous) {
    return ComputeEigenvalues({ScalarPerUnit{.log_magnitude = log_eta, .previous = previous}}).status();
  };
  const at::Tensor one = at::zeros({2, 1, 3}, at::kFloat), half = one.to(at::kHalf);
  EXPECT_THAT(refused(one, at::zeros({2, 1, 1}, at::kFloat)),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("previous log η has shape [2,1,1]")));
  for (const absl::Status& status : {refused(one, one.to(at::kDouble)), refused(half, half)})
    EXPECT_THAT(status,
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("all float32 or all float64")));
}

TEST(EigenvaluesTest, AScalarPerUnitIsKeptAsItIs) {
  const at::Tensor log_magnitude = at::tensor({-1.5f, 2.25f, -1e-8f}).view({1, 3, 1});
  const Eigenvalues found = Computed(ScalarPerUnit{log_magnitude, 0});
  EXPECT_EQ(found.log_magnitude.sizes(), (std::vector<int64_t>{1, 3, 1, 1}));
  EXPECT_EQ(found.log_magnitude[0][2][0][0].item<float>(), -1e-8f);
  EXPECT_FALSE(found.phase.defined());
  EXPECT_EQ(found.layout.multiplicities, std::vector<int64_t>{0});
}

TEST(EigenvaluesTest, DiagonalSignsAndZerosBecomePhasesAndMinusInfinity) {
  const Eigenvalues found =
      Computed(Diagonal{at::tensor({0.5, -2.0, 0.0, -0.0}, c10::kDouble).view({1, 1, 1, 4})});
  const auto logs = Logs(found)[0];
  EXPECT_EQ(logs[0], Complex(std::log(0.5), 0));
  EXPECT_EQ(logs[1], Complex(std::log(2.0), std::numbers::pi));
  EXPECT_EQ(logs[2], Complex(-kInfinity, 0));
  EXPECT_EQ(logs[3], Complex(-kInfinity, 0));
  EXPECT_FALSE(Computed(Diagonal{at::tensor({0.5, 0.0}, c10::kDouble).view({1, 1, 1, 2})}).phase.defined());
}

TEST(EigenvaluesTest, DiscretisedDiagonalsEqualTheDiscretisedMatrices) {
  Random random({1});
  const at::Tensor mu = NormalComplex(random, {2, 1, 3, 5}, 0.8);
  const at::Tensor matrix = at::diag_embed(mu), one = at::eye(5, c10::kComplexDouble);
  ExpectEigenvalues(Computed(Diagonal{mu, Discretization::kExp}),
                    at::linalg_eigvals(at::linalg_matrix_exp(matrix)), 1e-13);
  const at::Tensor bilinear = at::matmul(at::linalg_inv(one - matrix / 2), one + matrix / 2);
  ExpectEigenvalues(Computed(Diagonal{mu, Discretization::kBilinear}), at::linalg_eigvals(bilinear), 1e-12);
  ExpectEigenvalues(Computed(Diagonal{mu, Discretization::kNone}), at::linalg_eigvals(matrix), 1e-13);
}

TEST(EigenvaluesTest, PhasesAreWrappedToTheHalfOpenCircle) {
  const at::Tensor mu = at::complex(
      at::zeros({1, 1, 1, 3}, c10::kDouble),
      at::tensor({7.0, -std::numbers::pi, 3 * std::numbers::pi}, c10::kDouble).view({1, 1, 1, 3}));
  const auto logs = Logs(Computed(Diagonal{mu, Discretization::kExp}))[0];
  EXPECT_NEAR(logs[0].imag(), 7 - 2 * std::numbers::pi, 1e-14);
  EXPECT_NEAR(logs[1].imag(), std::numbers::pi, 1e-14);
  EXPECT_NEAR(logs[2].imag(), std::numbers::pi, 1e-14);
}

TEST(EigenvaluesTest, BilinearKeepsDecaysFarBelowTheUnitRoundoff) {
  const Eigenvalues found =
      Computed(Diagonal{at::tensor({-1e-18}, c10::kDouble).view({1, 1, 1, 1}), Discretization::kBilinear});
  EXPECT_NEAR(found.log_magnitude.item<double>(), -1e-18, 1e-30);
}

TEST(EigenvaluesTest, LowRankOfAScalarStoresTheBulkOnceAndEqualsTheGeneralSolver) {
  Random random({2});
  for (const int64_t rank : {1, 2, 3}) {
    DiagonalPlusLowRank kind;
    kind.d = NormalTensor(random, {2, 3, 2, 1});
    kind.u = NormalTensor(random, {2, 3, 2, 6, rank});
    kind.v = NormalTensor(random, {2, 3, 2, 6, rank});
    kind.multiplicity = 5;
    const Eigenvalues found = Computed(kind);
    std::vector<int64_t> multiplicities(rank + 1, 5);
    multiplicities[0] = 5 * (6 - rank);
    EXPECT_EQ(found.layout.multiplicities, multiplicities);
    // The bulk written out as often as it counts.
    Eigenvalues expanded = found;
    const at::Tensor index = at::tensor(std::vector<int64_t>(6 - rank, 0));
    const auto expand = [&](const at::Tensor& x) {
      return at::cat({x.index_select(-1, index), x.narrow(-1, 1, rank)}, -1);
    };
    expanded.log_magnitude = expand(found.log_magnitude);
    if (found.phase.defined()) expanded.phase = expand(found.phase);
    ExpectEigenvalues(expanded, at::linalg_eigvals(Explicit(kind)), 1e-6);  // d is defective up to rounding
  }
}

// A rank that leaves no bulk: what a scalar and a full matrix make together.
TEST(EigenvaluesTest, LowRankOfAScalarThatIsNotLowEqualsTheGeneralSolver) {
  Random random({12});
  DiagonalPlusLowRank kind;
  kind.d = NormalTensor(random, {1, 2, 2, 1});
  kind.u = NormalTensor(random, {1, 2, 2, 3, 3});
  kind.v = NormalTensor(random, {1, 2, 2, 3, 3});
  ExpectEigenvalues(Computed(kind), at::linalg_eigvals(Explicit(kind)), 1e-11);
}

TEST(EigenvaluesTest, TheDeltaRuleHasOneEigenvalueApartFromOne) {
  Random random({3});
  const at::Tensor key = NormalTensor(random, {1, 4, 2, 8, 1});
  const at::Tensor unit = key / key.norm(2, {-2}, true);
  for (const double beta : {0.3, 1.0, 1.7}) {
    const Eigenvalues found =
        Computed(DiagonalPlusLowRank{at::ones({1, 4, 2, 1}, c10::kDouble), unit * beta, unit});
    EXPECT_EQ(found.layout.multiplicities, (std::vector<int64_t>{7, 1}));
    for (const auto& row : Logs(found)) {
      ASSERT_EQ(row.size(), 2u);
      EXPECT_EQ(row[0], Complex(0, 0));
      EXPECT_NEAR(std::abs(std::exp(row[1]) - (1 - beta)), 0, 1e-14);
    }
  }
}

TEST(EigenvaluesTest, SymmetrisableLowRankEqualsTheGeneralSolver) {
  Random random({4});
  DiagonalPlusLowRank kind;
  kind.d = NormalTensor(random, {2, 2, 2, 7});
  kind.u = NormalTensor(random, {2, 2, 2, 7, 1});
  kind.v = kind.u * NormalTensor(random, {2, 2, 2, 7, 1}).abs();
  const Eigenvalues found = Computed(kind);
  ExpectEigenvalues(found, at::linalg_eigvals(Explicit(kind)), 1e-11);
  kind.similar_to_symmetric = true;
  EXPECT_TRUE(at::equal(Computed(kind).log_magnitude, found.log_magnitude));
  kind.similar_to_symmetric = false;
  kind.v = -kind.v;
  ExpectEigenvalues(Computed(kind), at::linalg_eigvals(Explicit(kind)), 1e-11);
}

// One problem that is not finite must spare the others; one product that is negative takes the general route.
TEST(EigenvaluesTest, SymmetrisableProblemsAreTakenOneByOne) {
  Random random({14});
  DiagonalPlusLowRank kind;
  kind.d = NormalTensor(random, {1, 3, 1, 5});
  kind.u = NormalTensor(random, {1, 3, 1, 5, 1}).abs();
  kind.v = NormalTensor(random, {1, 3, 1, 5, 1}).abs();
  const auto expected = Logs(Computed(kind));
  kind.d = kind.d.clone();
  kind.d[0][1][0][2] = kInfinity;
  const auto found = Logs(Computed(kind));
  EXPECT_EQ(found[0], expected[0]);
  EXPECT_TRUE(std::isnan(found[1][0].real()));
  EXPECT_EQ(found[2], expected[2]);
  kind.d[0][1][0][2] = 1;
  kind.u[0][2][0][4][0] = -3;
  ExpectEigenvalues(Computed(kind), at::linalg_eigvals(Explicit(kind)), 1e-11);
}

TEST(EigenvaluesTest, ManyProblemsAreSolvedInPiecesThatAddUp) {
  Random random({15});
  DiagonalPlusLowRank kind;
  kind.d = NormalTensor(random, {3, 500, 4, 8});
  kind.u = NormalTensor(random, {3, 500, 4, 8, 1}).abs();
  kind.v = NormalTensor(random, {3, 500, 4, 8, 1}).abs();
  const Eigenvalues found = Computed(kind);
  // Traces and determinants of the explicit matrices.
  const at::Tensor matrix = Explicit(kind);
  const at::Tensor sign =
      found.phase.defined() ? found.phase.cos() : at::ones(found.log_magnitude.sizes(), c10::kDouble);
  const at::Tensor values = sign * found.log_magnitude.exp();
  const at::Tensor trace = matrix.diagonal(0, -2, -1).sum({-1});
  EXPECT_LE((values.sum({-1}) - trace).abs().max().item<double>(), 1e-12);
  const at::Tensor general = Computed(Dense{matrix}).log_magnitude;
  EXPECT_LE((general.sum({-1}) - found.log_magnitude.sum({-1})).abs().max().item<double>(), 1e-7);

  StopToken stop;
  stop.Cancel();
  EigenvalueOptions options;
  options.stop = &stop;
  for (const TransitionKind& each : {TransitionKind(kind), TransitionKind(Dense{matrix})}) {
    EXPECT_THAT(ComputeEigenvalues(Transition{each}, options),
                StatusIs(absl::StatusCode::kCancelled, HasSubstr("cancelled")));
  }
}

TEST(EigenvaluesTest, PiecesAreWholePacksWhateverTheClockSays) {
  for (const int64_t pause : {0, 3, 60}) {
    int64_t covered = 0, call = 0;
    const auto solve = [&](int64_t begin, int64_t length) {
      EXPECT_EQ(begin, covered);
      EXPECT_EQ(begin % 8, 0);
      covered = begin + length;
      absl::SleepFor(absl::Milliseconds(call++ % 2 * pause));
      return at::ones({length}, c10::kDouble);
    };
    EIGSVC_ASSERT_OK_AND_ASSIGN(const at::Tensor joined,
                                InPieces(100, SolverOperations(64), 3 * 64 * 64, nullptr, solve));
    EXPECT_EQ(joined.numel(), 100);
    EXPECT_GT(call, 1);
  }
}

TEST(EigenvaluesTest, ARealDecayGivenAsItsLogarithmIsNotTouched) {
  const at::Tensor log = at::tensor({-1e-9f, -2.5f}).view({1, 1, 1, 2});
  const Eigenvalues found = Computed(Diagonal{log, Discretization::kExp});
  EXPECT_EQ(found.log_magnitude.scalar_type(), c10::kFloat);
  EXPECT_EQ(found.log_magnitude.const_data_ptr(), log.const_data_ptr());
  EXPECT_EQ(found.layout.type, c10::kFloat);
  EXPECT_FALSE(found.layout.may_have_phase);
}

TEST(EigenvaluesTest, GeneralLowRankAndDenseEqualTheGeneralSolver) {
  Random random({5});
  DiagonalPlusLowRank kind;
  kind.d = NormalComplex(random, {1, 2, 3, 6});
  kind.u = NormalComplex(random, {1, 2, 3, 6, 2});
  kind.v = NormalComplex(random, {1, 2, 3, 6, 2});
  ExpectEigenvalues(Computed(kind), at::linalg_eigvals(Explicit(kind)), 1e-10);
  const at::Tensor matrix = NormalTensor(random, {1, 2, 3, 6, 6});
  const at::Tensor exponential = at::linalg_matrix_exp(matrix);
  ExpectEigenvalues(Computed(Dense{matrix, Discretization::kExp}), at::linalg_eigvals(exponential), 1e-9);
}

TEST(EigenvaluesTest, AMatrixThatIsNotFiniteGivesNanAndSparesTheOthers) {
  at::Tensor matrix = at::eye(3, c10::kDouble).repeat({1, 2, 1, 1, 1});
  matrix[0][1][0][0][0] = kInfinity;
  const auto rows = Logs(Computed(Dense{matrix}));
  EXPECT_EQ(rows[0][0], Complex(0, 0));
  EXPECT_TRUE(std::isnan(rows[1][0].real()));
}

TEST(DenseEigenvaluesTest, WhatDoesNotConvergeIsRedoneByLapackAndCounted) {
  Random random({23});
  const at::Tensor matrix = NormalTensor(random, {3, 5, 9, 9});
  matrix[1][2].triu_();  // converges without a sweep
  matrix[2][0][0][3].fill_(std::numeric_limits<double>::quiet_NaN());
  int64_t redone = 0;
  const at::Tensor usual = DenseEigenvalues(matrix, &redone);
  EXPECT_EQ(redone, 0);
  const at::Tensor found = DenseEigenvalues(matrix, &redone, /*most_sweeps=*/1);
  EXPECT_EQ(redone, 13);
  EXPECT_EQ(found.sizes(), usual.sizes());
  EXPECT_EQ(at::isfinite(found).sum().item<int64_t>(), 14 * 9);
  // Sums do not depend on the order.
  for (const int power : {1, 2, 3}) {
    EXPECT_LE((found.pow(power).sum(-1) - usual.pow(power).sum(-1)).abs().nan_to_num(0).max().item<double>(),
              1e-10)
        << power;
  }
}

TEST(EigenvaluesTest, AShortConvolutionHasOnlyZeros) {
  const Eigenvalues found = Computed(Nilpotent{5, 3});
  EXPECT_EQ(found.log_magnitude.sizes(), (std::vector<int64_t>{1, 1, 5, 1}));
  EXPECT_EQ(found.layout.multiplicities, std::vector<int64_t>{3});
  EXPECT_TRUE((found.log_magnitude == -kInfinity).all().item<bool>());
}

TEST(EigenvaluesTest, InconsistentShapesAreRefused) {
  const at::Tensor d = at::zeros({1, 1, 1, 4});
  const auto refused = [](TransitionKind kind) { return ComputeEigenvalues(Transition{std::move(kind)}); };
  EXPECT_THAT(refused(ScalarPerUnit{d}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("3 dimensions")));
  EXPECT_THAT(refused(ScalarPerUnit{}), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("undefined")));
  EXPECT_THAT(refused(Dense{at::zeros({1, 1, 1, 4, 3})}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("matrix")));
  EXPECT_THAT(refused(DiagonalPlusLowRank{d, at::zeros({1, 1, 1, 4, 1}), at::zeros({1, 1, 1, 4, 2})}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("v has shape")));
  DiagonalPlusLowRank steps{d, at::zeros({1, 1, 1, 4, 1}), at::zeros({1, 1, 1, 4, 1})};
  steps.step = at::ones({3});
  EXPECT_THAT(refused(steps), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("is constant")));
}

// S4 as a checkpoint holds it: two matrices for six channels, each with its own step.
class S4EigenvaluesTest : public ::testing::Test {
 protected:
  static constexpr int64_t kChannels = 6;

  static Transition Of(const std::vector<testing::S4Problem>& matrices, const std::vector<double>& steps) {
    const auto stack = [&](std::vector<Complex> testing::S4Problem::*part) {
      std::vector<at::Tensor> all;
      for (const auto& matrix : matrices) {
        const std::vector<Complex>& values = matrix.*part;
        at::Tensor x = at::zeros({static_cast<int64_t>(values.size())}, c10::kComplexDouble);
        std::copy(values.begin(), values.end(), reinterpret_cast<Complex*>(x.mutable_data_ptr()));
        all.push_back(x);
      }
      return at::stack(all).unsqueeze(0).unsqueeze(0);
    };
    DiagonalPlusLowRank kind;
    kind.d = stack(&testing::S4Problem::d);
    kind.u = stack(&testing::S4Problem::u).unsqueeze(-1);
    kind.v = stack(&testing::S4Problem::v).unsqueeze(-1);
    kind.step = at::tensor(steps);
    kind.discretization = Discretization::kBilinear;
    return {kind, /*constant=*/true, 0, 0};
  }
};

TEST_F(S4EigenvaluesTest, EachChannelMapsItsMatrixByItsStep) {
  EIGSVC_REQUIRE_ORACLE();
  const std::vector<testing::S4Problem> matrices = {testing::HippoLegs(8, true),
                                                    testing::HippoLegs(8, false)};
  const std::vector<double> steps = {0.001, 0.01, 0.1, 0.05, 0.02, 0.2};
  const auto exact = testing::SolveByOracle(matrices, 60);
  ASSERT_EQ(exact.size(), 2u);
  for (const SolverPrecision precision : {SolverPrecision::kDouble, SolverPrecision::kMulti}) {
    EigenvalueOptions options;
    options.precision = precision;
    EIGSVC_ASSERT_OK_AND_ASSIGN(const Eigenvalues found, ComputeEigenvalues(Of(matrices, steps), options));
    EXPECT_EQ(found.layout.units, kChannels);
    EXPECT_TRUE(found.layout.conditioned);
    EXPECT_EQ(found.bits, precision == SolverPrecision::kMulti ? 256 : 53);
    std::vector<Complex> lambda;
    for (int64_t channel = 0; channel < kChannels; ++channel) {
      for (const Complex& mu : exact[channel % 2].values) {
        const Complex w = steps[channel] * mu / 2.0;
        lambda.push_back((1.0 + w) / (1.0 - w));
      }
    }
    at::Tensor expected = at::zeros({1, 1, kChannels, 8}, c10::kComplexDouble);
    std::copy(lambda.begin(), lambda.end(), reinterpret_cast<Complex*>(expected.mutable_data_ptr()));
    // Condition numbers of 2e4: float64 keeps eleven digits of these.
    ExpectEigenvalues(found, expected, precision == SolverPrecision::kMulti ? 1e-15 : 1e-10);
    EXPECT_NEAR(found.condition.max().item<double>(), 2.0e4, 0.2e4);
    EXPECT_LT(found.error.max().item<double>(), precision == SolverPrecision::kMulti ? 1e-15 : 1e-9);
  }
}

// N = 64: float64 knows that it does not know; multi-precision does.
TEST_F(S4EigenvaluesTest, FullSizeIsUnresolvedInDoubleAndResolvedInMultiPrecision) {
  const Transition transition = Of({testing::HippoLegs(64, false)}, {0.01});
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Eigenvalues rough, ComputeEigenvalues(transition));
  EXPECT_GT(rough.condition.max().item<double>(), 1e12);
  EXPECT_GT(rough.error.max().item<double>(), 0.01);
  EigenvalueOptions options;
  options.precision = SolverPrecision::kMulti;
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Eigenvalues exact, ComputeEigenvalues(transition, options));
  EXPECT_LT(exact.error.max().item<double>(), 1e-14);
  // The trace of the matrix is what its eigenvalues sum to; to first order in Δ so are log|λ|.
  double trace = 0;
  const testing::S4Problem problem = testing::HippoLegs(64, false);
  for (size_t j = 0; j < 64; ++j) trace += (problem.d[j] - problem.u[j] * problem.v[j]).real();
  const at::Tensor a = exact.log_magnitude.exp(), phase = exact.phase;
  Complex sum;
  for (int64_t j = 0; j < 64; ++j) {
    const Complex lambda = std::polar(a[0][0][0][j].item<double>(), phase[0][0][0][j].item<double>());
    sum += 200.0 * (lambda - 1.0) / (lambda + 1.0);  // μ again
  }
  EXPECT_NEAR(sum.real() / trace, 1, 1e-12);
  EXPECT_NEAR(sum.imag() / trace, 0, 1e-12);
}

TEST_F(S4EigenvaluesTest, APoleWithoutCouplingIsItsOwnEigenvalue) {
  testing::S4Problem plain;
  plain.d = {{-0.5, 3}, {-0.5, -3}};
  plain.u = plain.v = {0, 0};
  for (const SolverPrecision precision : {SolverPrecision::kDouble, SolverPrecision::kMulti}) {
    EigenvalueOptions options;
    options.precision = precision;
    EIGSVC_ASSERT_OK_AND_ASSIGN(const Eigenvalues found, ComputeEigenvalues(Of({plain}, {0.1}), options));
    const Complex w = 0.05 * plain.d[0];
    EXPECT_NEAR(found.log_magnitude[0][0][0][0].item<double>(), std::log(std::abs((1.0 + w) / (1.0 - w))),
                1e-15);
  }
}

class GoldenEigenvaluesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    EIGSVC_REQUIRE_SHARED();
    golden_ = nlohmann::json::parse(std::ifstream(testing::SharedPath("golden/eigenvalues.json")));
  }
  static Complex Pair(const nlohmann::json& pair) { return {pair[0].get<double>(), pair[1].get<double>()}; }
  static at::Tensor Tensor(const std::vector<Complex>& values) {
    at::Tensor x = at::zeros({static_cast<int64_t>(values.size())}, c10::kComplexDouble);
    std::copy(values.begin(), values.end(), reinterpret_cast<Complex*>(x.mutable_data_ptr()));
    return x;
  }
  nlohmann::json golden_;
};

TEST_F(GoldenEigenvaluesTest, S4dByExpAndBilinear) {
  const auto& entry = golden_.at("s4d");
  const at::Tensor mu = Tensor({entry["dt"].get<double>() * Pair(entry["A"])}).view({1, 1, 1, 1});
  ExpectEigenvalues(Computed(Diagonal{mu, Discretization::kExp, true}), Tensor({Pair(entry["zoh"])}), 1e-12);
  ExpectEigenvalues(Computed(Diagonal{mu, Discretization::kBilinear, true}),
                    Tensor({Pair(entry["bilinear"])}), 1e-12);
  EXPECT_TRUE(Computed(Diagonal{mu, Discretization::kExp, true}).layout.conjugate_pairs);
}

TEST_F(GoldenEigenvaluesTest, Mamba2AndItsPseudoLti) {
  const auto& entry = golden_.at("mamba2");
  const at::Tensor dt = at::softplus(at::tensor(entry["dt_pre_plus_bias"].get<std::vector<double>>()));
  const at::Tensor log_decay = dt * -std::exp(entry["A_log"].get<double>());
  const Eigenvalues found = Computed(ScalarPerUnit{log_decay.view({1, -1, 1}), 1});
  for (int i = 0; i < 5; ++i) {
    EXPECT_NEAR(found.log_magnitude[0][i][0][0].item<double>(), entry["log_lambda"][i].get<double>(), 1e-12);
  }
  const auto& lti = golden_.at("mamba2_pseudoLTI");
  const at::Tensor constant = -at::softplus(at::full({1, 1, 1}, lti["A_param"].get<double>(), c10::kDouble));
  EXPECT_NEAR(Computed(ScalarPerUnit{constant, 1}).log_magnitude.item<double>(),
              lti["log_lambda"].get<double>(), 1e-12);
}

TEST_F(GoldenEigenvaluesTest, Lru) {
  const auto& entry = golden_.at("lru");
  const Complex mu(-std::exp(entry["nu_log"].get<double>()), std::exp(entry["theta_log"].get<double>()));
  const Eigenvalues found = Computed(Diagonal{Tensor({mu}).view({1, 1, 1, 1}), Discretization::kExp});
  EXPECT_NEAR(std::exp(found.log_magnitude.item<double>()), entry["abs"].get<double>(), 1e-12);
  EXPECT_NEAR(found.phase.item<double>(), entry["phase_rad_0_2pi"].get<double>(), 1e-12);
  ExpectEigenvalues(found, Tensor({{entry["re"].get<double>(), entry["im"].get<double>()}}), 1e-12);
}

TEST_F(GoldenEigenvaluesTest, S4OfOrderTwo) {
  const auto& entry = golden_.at("s4_dplr_N2");
  const double dt = entry["dt"].get<double>();
  std::vector<Complex> d, u, v, exact;
  for (int n = 0; n < 2; ++n) {
    d.push_back(dt * Pair(entry["Lambda"][n]));
    u.push_back(dt * Pair(entry["P"][n]));
    v.push_back(std::conj(Pair(entry["P"][n])));
    exact.push_back(Pair(entry["lambda"][n]));
  }
  const DiagonalPlusLowRank kind{Tensor(d).view({1, 1, 1, 2}), Tensor(u).view({1, 1, 1, 2, 1}),
                                 Tensor(v).view({1, 1, 1, 2, 1}), Discretization::kBilinear};
  ExpectEigenvalues(Computed(kind), Tensor(exact), 1e-12);
}

}  // namespace
}  // namespace eigsvc
