// Every form against LAPACK (through LibTorch) in float64, on what is easy and what is not.
#include "models/kernels/batched_eigenvalues.h"

#include <algorithm>
#include <cmath>
#include <complex>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "ATen/ops/from_blob.h"
#include "ATen/ops/linalg_eigvals.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "models/kernels/bulge_chain_qr.h"
#include "models/kernels/lanes.h"
#include "models/kernels/simd_dispatch.h"
#include "tests/kernels/backward_error.h"
#include "tests/kernels/matrix_kinds.h"
#include "tests/testing/status_matchers.h"

namespace eigsvc {
namespace {

using Complex = std::complex<double>;
using ::testing::HasSubstr;
using testing::StatusIs;

template <typename T>
struct Solved {
  std::vector<T> real, imaginary;
  std::vector<EigenOutcome> outcomes;

  std::vector<Complex> Of(int64_t index, int order) const {
    std::vector<Complex> values;
    for (int i = 0; i < order; ++i) {
      values.emplace_back(real[index * order + i], imaginary[index * order + i]);
    }
    return values;
  }
};

// What a GPU's block of warps does with a matrix, by one lane.
template <typename T>
absl::Status EigenvaluesByChains(const EigenProblem<T>& problem) {
  const int n = problem.order;
  std::vector<T> scratch(n);
  kernels::BulgeChain<T> chain;
  for (int64_t i = 0; i < problem.count; ++i) {
    std::vector<T> matrix(problem.matrices + i * n * n, problem.matrices + (i + 1) * n * n);
    kernels::BulgeChainQr<T, kernels::OneLane> solver(matrix.data(), n, n, scratch.data(), &chain, {});
    problem.outcomes[i] = solver.Run(problem.real + i * n, problem.imaginary + i * n, problem.most_sweeps);
  }
  return absl::OkStatus();
}

// "Plain", "Cpu", which is what analyses take, "Chains", or the name of a SIMD form, of which "Cpu" takes but
// one.
template <typename T>
absl::Status SolveBy(const std::string& form, const EigenProblem<T>& problem) {
  if (form == "Plain") return PlainEigenvalues(problem);
  if (form == "Cpu") return EigenvaluesOnCpu(problem);
  if (form == "Chains") return EigenvaluesByChains(problem);
  for (const kernels::SimdSolver<T>& solver : kernels::SimdSolversHere<T>()) {
    if (solver.name == form) return kernels::EigenvaluesInPacks(solver, problem);
  }
  return absl::NotFoundError(form);
}

template <typename T>
Solved<T> Solve(const std::string& form, const std::vector<double>& matrices, int order,
                int most_sweeps = 0) {
  const std::vector<T> narrow(matrices.begin(), matrices.end());
  const auto count = static_cast<int64_t>(narrow.size()) / (order * order);
  Solved<T> solved;
  solved.real.assign(count * order, -77);
  solved.imaginary.assign(count * order, -77);
  solved.outcomes.assign(count, EigenOutcome::kNotConverged);
  const EigenProblem<T> problem{
      narrow.data(),          count,      order, solved.real.data(), solved.imaginary.data(),
      solved.outcomes.data(), most_sweeps};
  EIGSVC_EXPECT_OK(SolveBy(form, problem));
  return solved;
}

std::vector<Complex> Reference(const double* matrix, int order) {
  const at::Tensor values =
      at::linalg_eigvals(at::from_blob(const_cast<double*>(matrix), {order, order}, at::kDouble));
  const auto* data = static_cast<const Complex*>(values.const_data_ptr());
  return {data, data + order};
}

// The largest distance of matched pairs, nearest first: the multisets are close, so greedy is exact enough.
double Distance(std::vector<Complex> found, std::vector<Complex> expected) {
  double worst = 0;
  for (const Complex& value : found) {
    const auto nearest = std::min_element(
        expected.begin(), expected.end(),
        [&](const Complex& a, const Complex& b) { return std::abs(a - value) < std::abs(b - value); });
    worst = std::max(worst, std::abs(*nearest - value));
    expected.erase(nearest);
  }
  return worst;
}

double Norm(const double* matrix, int order) {
  double sum = 0;
  for (int i = 0; i < order * order; ++i) sum += matrix[i] * matrix[i];
  return std::sqrt(sum);
}

std::vector<double> RandomMatrices(int count, int order, uint64_t seed, double scale = 1) {
  std::mt19937_64 generator(seed);
  std::normal_distribution<double> normal;
  std::vector<double> matrices(static_cast<size_t>(count) * order * order);
  for (double& x : matrices) x = static_cast<float>(scale * normal(generator) / std::sqrt(order));
  return matrices;
}

struct Case {
  std::string form;
  bool single;
};

std::vector<Case> Cases() {
  std::vector<Case> cases;
  for (const bool single : {true, false}) {
    cases.push_back({"Plain", single});
    cases.push_back({"Cpu", single});
    cases.push_back({"Chains", single});
    for (const auto& solver : kernels::SimdSolversHere<float>()) cases.push_back({solver.name, single});
  }
  return cases;
}

class BatchedEigenvaluesTest : public ::testing::TestWithParam<Case> {
 protected:
  // max |Δλ| over the batch, in units of ‖A‖; every outcome must be kConverged.
  template <typename T>
  static double WorstOf(const std::string& form, const std::vector<double>& matrices, int order) {
    const Solved<T> solved = Solve<T>(form, matrices, order);
    double worst = 0;
    for (size_t i = 0; i < solved.outcomes.size(); ++i) {
      EXPECT_EQ(solved.outcomes[i], EigenOutcome::kConverged) << i;
      const double* matrix = matrices.data() + i * order * order;
      const double distance = Distance(solved.Of(static_cast<int64_t>(i), order), Reference(matrix, order));
      worst = std::max(worst, distance / std::max(Norm(matrix, order), 1e-300));
    }
    return worst;
  }
  static double Worst(const std::vector<double>& matrices, int order) {
    return GetParam().single ? WorstOf<float>(GetParam().form, matrices, order)
                             : WorstOf<double>(GetParam().form, matrices, order);
  }
  static double Epsilon() { return GetParam().single ? 0x1p-23 : 0x1p-52; }
};

// Random matrices are well conditioned: κ stays below a few hundred.
TEST_P(BatchedEigenvaluesTest, RandomMatricesOfEveryOrder) {
  for (const int order : {1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 31, 32, 33, 64, 100, 128}) {
    const int count = order <= 32 ? 37 : 5;  // no multiple of any number of lanes
    EXPECT_LE(Worst(RandomMatrices(count, order, order), order), 2000 * Epsilon()) << "order " << order;
  }
}

TEST_P(BatchedEigenvaluesTest, SymmetricAndTriangularOnesToAFewUlps) {
  constexpr int kOrder = 12, kCount = 20;
  std::vector<double> symmetric = RandomMatrices(kCount, kOrder, 5), diagonal = symmetric;
  for (int m = 0; m < kCount; ++m) {
    double* s = symmetric.data() + m * kOrder * kOrder;
    double* d = diagonal.data() + m * kOrder * kOrder;
    for (int i = 0; i < kOrder; ++i) {
      for (int j = 0; j < i; ++j) s[i * kOrder + j] = s[j * kOrder + i];
      for (int j = 0; j < kOrder; ++j) d[i * kOrder + j] *= i == j;
    }
  }
  EXPECT_LE(Worst(symmetric, kOrder), 30 * Epsilon());
  EXPECT_EQ(Worst(diagonal, kOrder), 0);
}

TEST_P(BatchedEigenvaluesTest, WhatLaneSolversStumbleOver) {
  const auto epsilon = Epsilon();
  EXPECT_EQ(Worst(std::vector<double>(25, 0.0), 5), 0);
  EXPECT_EQ(Worst({1, 0, 0, 0, 1, 0, 0, 0, 1}, 3), 0);
  // A cyclic permutation: QR without exceptional shifts stands still on it.
  for (const int order : {3, 4, 7, 16, 32}) {
    std::vector<double> cycle(order * order, 0.0);
    for (int i = 0; i < order; ++i) cycle[i * order + (i + 1) % order] = 1;
    EXPECT_LE(Worst(cycle, order), 20 * epsilon) << order;
  }
  // A rotation beside a double real eigenvalue.
  EXPECT_LE(Worst({0, -1, 0, 0, 1, 0, 0, 0, 0, 0, 0.5, 0, 0, 0, 0, 0.5}, 4), 4 * epsilon);
  // A Jordan block: the answer is the fifth root of rounding, never worse.
  std::vector<double> jordan(25, 0.0);
  for (int i = 0; i < 5; ++i) jordan[i * 6] = 0.5;
  for (int i = 0; i < 4; ++i) jordan[i * 6 + 1] = 1;
  EXPECT_LE(Worst(jordan, 5), std::pow(64 * epsilon, 0.2));
}

TEST_P(BatchedEigenvaluesTest, LanesFollowTheirOwnCourse) {
  // Matrices of very different size, structure and number of sweeps side by side.
  constexpr int kOrder = 10, kCount = 48;
  std::vector<double> mixed = RandomMatrices(kCount, kOrder, 11);
  for (int m = 0; m < kCount; ++m) {
    double* a = mixed.data() + m * kOrder * kOrder;
    const double scale = std::ldexp(1.0, (m % 7 - 3) * 12);
    for (int i = 0; i < kOrder; ++i) {
      for (int j = 0; j < kOrder; ++j) {
        if (m % 3 == 0 && j < i) a[i * kOrder + j] = 0;  // triangular: no sweep at all
        if (m % 5 == 0 && i / 4 != j / 4) a[i * kOrder + j] = 0;
        a[i * kOrder + j] *= scale;
      }
    }
  }
  // Triangular random matrices are worse conditioned than full ones.
  EXPECT_LE(Worst(mixed, kOrder), 1e5 * Epsilon());
}

TEST_P(BatchedEigenvaluesTest, BadlyScaledMatricesAreBalanced) {
  constexpr int kOrder = 6;
  std::vector<double> matrices = RandomMatrices(20, kOrder, 3), scaled = matrices;
  for (int m = 0; m < 20; ++m) {
    for (int i = 0; i < kOrder; ++i) {
      for (int j = 0; j < kOrder; ++j) {
        scaled[(m * kOrder + i) * kOrder + j] *= std::ldexp(1.0, 4 * (i - j));
      }
    }
  }
  // A similarity by powers of two keeps the eigenvalues and spreads the elements over twelve decades.
  const auto solve = [](const std::vector<double>& given, int64_t index) {
    return GetParam().single ? Solve<float>(GetParam().form, given, kOrder).Of(index, kOrder)
                             : Solve<double>(GetParam().form, given, kOrder).Of(index, kOrder);
  };
  for (int64_t m = 0; m < 20; ++m) {
    EXPECT_LE(Distance(solve(scaled, m), solve(matrices, m)), 200 * Epsilon());
  }
}

TEST_P(BatchedEigenvaluesTest, NonFiniteMatricesAreNamedAndHarmTheirNeighboursNot) {
  constexpr int kOrder = 4;
  std::vector<double> matrices = RandomMatrices(40, kOrder, 8);
  matrices[3 * 16 + 5] = std::numeric_limits<double>::quiet_NaN();
  matrices[20 * 16 + 0] = std::numeric_limits<double>::infinity();
  const auto check = [&](const auto& solved) {
    for (int64_t m = 0; m < 40; ++m) {
      if (m == 3 || m == 20) {
        EXPECT_EQ(solved.outcomes[m], EigenOutcome::kNotFinite);
        for (int i = 0; i < kOrder; ++i) EXPECT_TRUE(std::isnan(solved.real[m * kOrder + i]));
      } else {
        EXPECT_EQ(solved.outcomes[m], EigenOutcome::kConverged);
        EXPECT_LE(Distance(solved.Of(m, kOrder), Reference(matrices.data() + m * 16, kOrder)),
                  500 * Epsilon());
      }
    }
  };
  if (GetParam().single) {
    check(Solve<float>(GetParam().form, matrices, kOrder));
  } else {
    check(Solve<double>(GetParam().form, matrices, kOrder));
  }
}

TEST_P(BatchedEigenvaluesTest, AMatrixThatTakesTooManySweepsIsNamedAndHarmsItsNeighboursNot) {
  constexpr int kOrder = 12;
  std::vector<double> matrices = RandomMatrices(40, kOrder, 9);
  for (int m = 0; m < 40; m += 2) {  // triangular: no sweep at all
    for (int i = 0; i < kOrder; ++i) std::fill_n(matrices.begin() + (m * kOrder + i) * kOrder, i, 0.0);
  }
  const auto check = [&](const auto& solved) {
    for (int64_t m = 0; m < 40; ++m) {
      if (m % 2 == 1) {
        EXPECT_EQ(solved.outcomes[m], EigenOutcome::kNotConverged) << m;
        continue;
      }
      EXPECT_EQ(solved.outcomes[m], EigenOutcome::kConverged) << m;
      std::vector<Complex> diagonal;
      for (int i = 0; i < kOrder; ++i) diagonal.emplace_back(matrices[(m * kOrder + i) * kOrder + i]);
      EXPECT_EQ(Distance(solved.Of(m, kOrder), diagonal), 0) << m;
    }
  };
  if (GetParam().single) {
    check(Solve<float>(GetParam().form, matrices, kOrder, /*most_sweeps=*/2));
  } else {
    check(Solve<double>(GetParam().form, matrices, kOrder, /*most_sweeps=*/2));
  }
}

TEST_P(BatchedEigenvaluesTest, ConjugatePairsAreAdjacentPositiveFirst) {
  constexpr int kOrder = 9;
  const std::vector<double> matrices = RandomMatrices(30, kOrder, 21);
  const auto check = [&](const auto& solved) {
    int pairs = 0;
    for (int64_t m = 0; m < 30; ++m) {
      for (int i = 0; i < kOrder; ++i) {
        const auto imaginary = solved.imaginary[m * kOrder + i];
        if (imaginary == 0) continue;
        ASSERT_GT(imaginary, 0);
        ASSERT_LT(i + 1, kOrder);
        EXPECT_EQ(solved.imaginary[m * kOrder + i + 1], -imaginary);
        EXPECT_EQ(solved.real[m * kOrder + i + 1], solved.real[m * kOrder + i]);
        ++i;
        ++pairs;
      }
    }
    EXPECT_GT(pairs, 20);
  };
  if (GetParam().single) {
    check(Solve<float>(GetParam().form, matrices, kOrder));
  } else {
    check(Solve<double>(GetParam().form, matrices, kOrder));
  }
}

// Whatever the condition of the eigenvalues: each is one of a matrix within 20 ε ‖A‖₂ of the given one. In
// one batch, so that lanes follow courses of several kinds.
TEST_P(BatchedEigenvaluesTest, EachIsExactForANearbyMatrixOfEveryKind) {
  constexpr int kOfEach = 3;
  for (const int order : {1, 2, 3, 5, 16, 32, 64, 128}) {
    const size_t most = order <= 64 ? 16 : 6;  // of order 128, singular values take LAPACK milliseconds
    testing::RandomBits bits(order);
    std::vector<double> matrices;
    for (const testing::MatrixKind& kind : testing::kMatrixKinds) {
      for (int i = 0; i < kOfEach; ++i) {
        for (const double x : kind.make(order, i, bits))
          matrices.push_back(GetParam().single ? static_cast<float>(x) : x);
      }
    }
    const auto check = [&](const auto& solved) {
      for (size_t i = 0; i < solved.outcomes.size(); ++i) {
        const std::string where =
            absl::StrCat(testing::kMatrixKinds[i / kOfEach].name, " ", i % kOfEach, " of order ", order);
        EXPECT_EQ(solved.outcomes[i], EigenOutcome::kConverged) << where;
        EXPECT_LE(testing::BackwardError(matrices.data() + i * order * order, order,
                                         solved.Of(static_cast<int64_t>(i), order), most) /
                      Epsilon(),
                  20)
            << where;
      }
    };
    if (GetParam().single) {
      check(Solve<float>(GetParam().form, matrices, order));
    } else {
      check(Solve<double>(GetParam().form, matrices, order));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Forms, BatchedEigenvaluesTest, ::testing::ValuesIn(Cases()), [](const auto& tested) {
  return absl::StrCat(tested.param.form, tested.param.single ? "Float" : "Double");
});

TEST(BatchedEigenvaluesArgumentsTest, AnOrderOutOfRangeIsRefused) {
  for (const int order : {0, -1, 129}) {
    EigenProblem<float> problem;
    problem.order = order;
    EXPECT_THAT(PlainEigenvalues(problem),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(absl::StrCat("order ", order))));
    EXPECT_THAT(EigenvaluesOnCpu(problem), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("128")));
  }
}

}  // namespace
}  // namespace eigsvc
