// Products of matrices against mpmath (golden/windows.json, by oracle_windows.py), closed forms, and the
// solver of single matrices.
#include "models/kernels/periodic_eigenvalues.h"

#include <algorithm>
#include <cmath>
#include <complex>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <numbers>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/kernels/relative_errors.h"
#include "tests/kernels/window_factors.h"
#include "tests/testing/paths.h"
#include "tests/testing/status_matchers.h"

namespace eigsvc {
namespace {

using Complex = std::complex<double>;
using ::eigsvc::testing::Draw;
using ::eigsvc::testing::RelativeErrors;
using ::eigsvc::testing::StatusIs;
using ::eigsvc::testing::WindowFactors;
constexpr double kPi = std::numbers::pi;
constexpr double kInfinity = std::numeric_limits<double>::infinity();

struct Solved {
  std::vector<double> log_magnitude, phase;
  std::vector<EigenOutcome> outcomes;

  std::vector<Complex> Logs(int64_t product, int order) const {
    std::vector<Complex> logs;
    for (int64_t i = product * order; i < (product + 1) * order; ++i)
      logs.emplace_back(log_magnitude[i], phase[i]);
    return logs;
  }
};

Solved Solve(const std::vector<double>& matrices, int order, Window window, int64_t rows = 1,
             int64_t units = 1) {
  PeriodicProblem problem;
  problem.matrices = matrices.data();
  problem.order = order;
  problem.rows = rows;
  problem.units = units;
  problem.steps = static_cast<int64_t>(matrices.size()) / (rows * units * order * order);
  problem.window = window;
  Solved solved;
  solved.log_magnitude.assign(problem.Count() * order, -77);
  solved.phase = solved.log_magnitude;
  solved.outcomes.assign(problem.Count(), EigenOutcome::kNotConverged);
  problem.log_magnitude = solved.log_magnitude.data();
  problem.phase = solved.phase.data();
  problem.outcomes = solved.outcomes.data();
  EIGSVC_EXPECT_OK(PeriodicEigenvaluesOnCpu(problem, 0, problem.Count()));
  return solved;
}

TEST(PeriodicEigenvaluesTest, AgreeWithManyDigits) {
  const nlohmann::json golden =
      nlohmann::json::parse(std::ifstream(testing::SourcePath("tests/kernels/golden/windows.json")));
  int long_windows = 0;
  for (const nlohmann::json& entry : golden.at("cases")) {
    const int order = entry.at("order");
    const int64_t length = entry.at("length");
    const std::string kind = entry.at("kind");
    const std::vector<double> factors = WindowFactors(kind, order, length, entry.at("seed"));
    const Solved solved = Solve(factors, order, {length, length});
    ASSERT_EQ(solved.outcomes, std::vector<EigenOutcome>{EigenOutcome::kConverged});
    const std::vector<double> log_magnitude = entry.at("log_magnitude"), phase = entry.at("phase");
    std::vector<Complex> expected;
    for (int i = 0; i < order; ++i) expected.emplace_back(log_magnitude[i], phase[i]);
    const std::vector<double> errors = RelativeErrors(solved.Logs(0, order), expected);
    EXPECT_LT(*std::max_element(errors.begin(), errors.end()), 1e-9)
        << kind << ", order " << order << ", length " << length;
    long_windows += length == 256;
  }
  EXPECT_EQ(long_windows, 4);
}

TEST(PeriodicEigenvaluesTest, WindowsAreWhereTheyBelong) {
  // Diagonal steps, whose windows are sums.
  const int64_t rows = 2, steps = 7, units = 3;
  const int order = 2;
  const Window window{3, 2};
  std::vector<double> matrices;
  const auto log = [](int64_t row, int64_t step, int64_t unit, int i) {
    return static_cast<double>(row * 100 + step * 10 + unit * 3 + i) / 64;
  };
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t step = 0; step < steps; ++step) {
      for (int64_t unit = 0; unit < units; ++unit)
        matrices.insert(matrices.end(),
                        {std::exp(log(row, step, unit, 0)), 0, 0, -std::exp(log(row, step, unit, 1))});
    }
  }
  const Solved solved = Solve(matrices, order, window, rows, units);
  ASSERT_EQ(solved.outcomes.size(), 18u);
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t w = 0; w < 3; ++w) {
      for (int64_t unit = 0; unit < units; ++unit) {
        const int64_t product = (row * 3 + w) * units + unit;
        const double sum =
            log(row, 2 * w, unit, 0) + log(row, 2 * w + 1, unit, 0) + log(row, 2 * w + 2, unit, 0);
        const std::vector<double> errors =
            RelativeErrors(solved.Logs(product, order), {{sum, 0}, {sum + 3.0 / 64, kPi}});
        EXPECT_LT(errors[0], 1e-13);
        EXPECT_LT(errors[1], 1e-13);
      }
    }
  }
}

TEST(PeriodicEigenvaluesTest, OfOneFactorAreThoseOfAMatrix) {
  for (const int order : {1, 2, 3, 5, 16, 33}) {
    const std::vector<double> matrix = WindowFactors("iid", order, 1, 7 + order);
    std::vector<double> real(order), imaginary(order);
    EigenOutcome outcome;
    EIGSVC_ASSERT_OK(PlainEigenvalues(
        EigenProblem<double>{matrix.data(), 1, order, real.data(), imaginary.data(), &outcome}));
    std::vector<Complex> expected;
    for (int i = 0; i < order; ++i) expected.push_back(std::log(Complex(real[i], imaginary[i])));
    const std::vector<double> errors = RelativeErrors(Solve(matrix, order, {1, 1}).Logs(0, order), expected);
    EXPECT_LT(*std::max_element(errors.begin(), errors.end()), 1e-11) << order;
  }
}

TEST(PeriodicEigenvaluesTest, RotationsKeepTheirModulusAndAddTheirAngles) {
  std::vector<double> factors;
  double angle = 0;
  for (int k = 0; k < 200; ++k) {
    const double turn = 0.01 * k;
    angle += turn;
    factors.insert(factors.end(), {std::cos(turn), -std::sin(turn), std::sin(turn), std::cos(turn)});
  }
  const Solved solved = Solve(factors, 2, {200, 200});
  EXPECT_NEAR(solved.log_magnitude[0], 0, 1e-13);
  EXPECT_NEAR(solved.log_magnitude[1], 0, 1e-13);
  EXPECT_NEAR(std::remainder(solved.phase[0] - std::abs(std::remainder(angle, 2 * kPi)), 2 * kPi), 0, 1e-11);
  EXPECT_EQ(solved.phase[0], -solved.phase[1]);
}

TEST(PeriodicEigenvaluesTest, NothingOverflows) {
  // The logarithms are those of the unscaled factors, moved.
  const std::vector<double> factors = WindowFactors("gated", 6, 40, 3);
  const std::vector<Complex> plain = Solve(factors, 6, {40, 40}).Logs(0, 6);
  for (const int exponent : {900, -900}) {
    std::vector<double> scaled = factors;
    for (double& x : scaled) x = std::ldexp(x, exponent);
    std::vector<Complex> moved = Solve(scaled, 6, {40, 40}).Logs(0, 6);
    for (int i = 0; i < 6; ++i)
      EXPECT_NEAR(moved[i].real() - plain[i].real(), 40 * exponent * std::log(2.0), 1e-9);
  }
}

TEST(PeriodicEigenvaluesTest, EmptyRowsAndColumnsGiveZerosThemselves) {
  // Units that are off at one step or another, as a ReLU's: one is on throughout.
  const int order = 6;
  std::vector<double> factors = WindowFactors("iid", order, 20, 11);
  for (int k = 0; k < 20; ++k) {
    for (int j = 0; j < order; ++j) factors[(k * order + 1 + k % 5) * order + j] = 0;
  }
  const Solved solved = Solve(factors, order, {20, 20});
  const auto zeros = std::count(solved.log_magnitude.begin(), solved.log_magnitude.end(), -kInfinity);
  // Each step leaves five of six.
  EXPECT_EQ(zeros, 1);
  EXPECT_EQ(solved.outcomes[0], EigenOutcome::kConverged);
  // A step that lets nothing through.
  std::fill_n(factors.begin() + 7 * order * order, order * order, 0.0);
  const Solved none = Solve(factors, order, {20, 20});
  EXPECT_EQ(std::count(none.log_magnitude.begin(), none.log_magnitude.end(), -kInfinity), order);
  // What is off after one step feeds what is off before the next: nilpotent.
  const Solved shift = Solve({0, 1, 0, 0, 0, 1, 0, 0, 0}, 3, {1, 1});
  EXPECT_EQ(std::count(shift.log_magnitude.begin(), shift.log_magnitude.end(), -kInfinity), 3);
}

TEST(PeriodicEigenvaluesTest, SingularFactorsConverge) {
  for (const int length : {2, 16, 64}) {
    for (const int order : {3, 4, 8}) {
      std::vector<double> factors = WindowFactors("iid", order, length, 5 * length + order);
      std::fill_n(factors.begin() + length / 2 * order * order, order * order, 1.0);  // rank 1
      // λ = 1ᵀ A_0…(without the middle) 1, cyclically.
      double mantissa_sum = 0, scale = 0;
      std::vector<double> x(order, 1.0);
      for (int k = 1; k < length; ++k) {
        const double* a = factors.data() + (length / 2 + k) % length * order * order;
        std::vector<double> y(order, 0.0);
        double largest = 0;
        for (int i = 0; i < order; ++i) {
          for (int j = 0; j < order; ++j) y[i] += a[i * order + j] * x[j];
          largest = std::max(largest, std::abs(y[i]));
        }
        scale += std::log(largest);
        for (int i = 0; i < order; ++i) x[i] = y[i] / largest;
      }
      for (const double value : x) mantissa_sum += value;
      const Solved solved = Solve(factors, order, {length, length});
      EXPECT_EQ(solved.outcomes[0], EigenOutcome::kConverged);
      const double largest = *std::max_element(solved.log_magnitude.begin(), solved.log_magnitude.end());
      EXPECT_NEAR(largest, scale + std::log(std::abs(mantissa_sum)), 1e-8) << length << ", " << order;
      const auto rest = std::count_if(solved.log_magnitude.begin(), solved.log_magnitude.end(),
                                      [&](double log) { return log > largest - 20; });
      EXPECT_EQ(rest, 1) << length << ", " << order;
    }
  }
}

TEST(PeriodicEigenvaluesTest, WhatIsNotFiniteIsSaid) {
  std::vector<double> factors = WindowFactors("iid", 4, 6, 2);
  factors[3 * 16 + 5] = std::numeric_limits<double>::quiet_NaN();
  const Solved solved = Solve(factors, 4, {3, 3});
  EXPECT_EQ(solved.outcomes[0], EigenOutcome::kConverged);
  EXPECT_EQ(solved.outcomes[1], EigenOutcome::kNotFinite);
  for (int i = 4; i < 8; ++i) EXPECT_TRUE(std::isnan(solved.log_magnitude[i]));
  EXPECT_THAT(PeriodicEigenvaluesOnCpu({}, 0, 0),
              StatusIs(absl::StatusCode::kInvalidArgument, ::testing::HasSubstr("order 0")));
}

}  // namespace
}  // namespace eigsvc
