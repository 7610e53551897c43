// Eigenvalues of windows against the product itself, where it can be formed.
#include "models/transition/windows.h"

#include <algorithm>
#include <cmath>
#include <complex>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <numbers>
#include <vector>

#include "ATen/TensorOperators.h"
#include "ATen/ops/complex.h"
#include "ATen/ops/diag_embed.h"
#include "ATen/ops/equal.h"
#include "ATen/ops/eye.h"
#include "ATen/ops/from_blob.h"
#include "ATen/ops/full.h"
#include "ATen/ops/linalg_eigvals.h"
#include "ATen/ops/matmul.h"
#include "ATen/ops/sigmoid.h"
#include "ATen/ops/tensor.h"
#include "ATen/ops/zeros.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "models/base/random.h"
#include "models/transition/eigenvalues.h"
#include "models/transition/normaliser.h"
#include "tests/kernels/window_factors.h"
#include "tests/testing/paths.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/tensors.h"

namespace eigsvc {
namespace {

using ::absl::StatusCode;
using ::eigsvc::testing::NormalTensor;
using ::eigsvc::testing::StatusIs;
using ::testing::HasSubstr;
using Complex = std::complex<double>;
constexpr double kPi = std::numbers::pi;
constexpr double kInfinity = std::numeric_limits<double>::infinity();

EigenvalueOptions Over(Window window) {
  EigenvalueOptions options;
  options.window = window;
  return options;
}

TEST(WindowTest, WhichWindowsLieInside) {
  const Window window{3, 2};
  EXPECT_EQ(window.Count(2), 0);
  EXPECT_EQ(window.Count(3), 1);
  EXPECT_EQ(window.Count(4), 1);
  EXPECT_EQ(window.Count(5), 2);
  EXPECT_EQ(window.Count(-4), 0);
  EXPECT_EQ(window.End(6, 1), 3);  // steps 1 to 3 and 3 to 5
  EXPECT_EQ(Window().End(6, 1), 6);
  EXPECT_EQ(Window().End(0, 1), 1);
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Window made, MakeWindow(5, 0));
  EXPECT_EQ(made, (Window{5, 5}));
  EXPECT_THAT(MakeWindow(0, 1), StatusIs(StatusCode::kInvalidArgument, HasSubstr("window.length 0")));
  EXPECT_THAT(MakeWindow(3, -1), StatusIs(StatusCode::kInvalidArgument, HasSubstr("window.stride -1")));
  EXPECT_THAT(MakeWindow(70000, 1), StatusIs(StatusCode::kInvalidArgument, HasSubstr("70000")));
}

TEST(WindowEigenvaluesTest, OfScalarsAreProducts) {
  // Logarithms whose product leaves a double by far, and a λ of 0.
  at::Tensor log = at::zeros({1, 9, 2}, at::kFloat);
  for (int64_t step = 0; step < 9; ++step) {
    log[0][step][0] = -400.5 * static_cast<double>(step);
    log[0][step][1] = step == 4 ? -kInfinity : 300.25;
  }
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Eigenvalues values,
                              ComputeEigenvalues({ScalarPerUnit{log, 0}}, Over({3, 2})));
  EXPECT_EQ(values.layout.steps, 4);
  ASSERT_EQ(values.log_magnitude.sizes(), (at::IntArrayRef{1, 4, 2, 1}));
  EXPECT_FALSE(values.phase.defined());
  for (int64_t window = 0; window < 4; ++window) {
    const double begin = 2.0 * static_cast<double>(window);
    EXPECT_EQ(values.log_magnitude[0][window][0][0].item<double>(), -400.5 * (3 * begin + 3));
    EXPECT_EQ(values.log_magnitude[0][window][1][0].item<double>(),
              begin <= 4 && begin + 2 >= 4 ? -kInfinity : 3 * 300.25);
  }
}

TEST(WindowEigenvaluesTest, OfDiagonalsAreProducts) {
  Random random({3});
  const Window window{5, 3};
  const at::Tensor values =
      at::complex(NormalTensor(random, {2, 20, 2, 3}), NormalTensor(random, {2, 20, 2, 3}));
  const at::Tensor real = NormalTensor(random, {2, 20, 2, 3});
  for (const bool complex : {true, false}) {
    const at::Tensor& given = complex ? values : real;
    EIGSVC_ASSERT_OK_AND_ASSIGN(const Eigenvalues found, ComputeEigenvalues({Diagonal{given}}, Over(window)));
    ASSERT_EQ(found.log_magnitude.size(1), window.Count(20));
    for (int64_t w = 0; w < window.Count(20); ++w) {
      const at::Tensor product = given.narrow(1, w * 3, 5).prod(1).to(at::kComplexDouble).contiguous();
      const at::Tensor log = found.log_magnitude.select(1, w).contiguous(),
                       phase = found.phase.select(1, w).contiguous();
      for (int64_t i = 0; i < product.numel(); ++i) {
        const Complex exact = reinterpret_cast<const Complex*>(product.const_data_ptr())[i];
        EXPECT_NEAR(log.const_data_ptr<double>()[i], std::log(std::abs(exact)), 1e-12);
        const double difference = phase.const_data_ptr<double>()[i] - std::arg(exact);
        EXPECT_NEAR(std::remainder(difference, 2 * kPi), 0, 1e-12);
        // Products of real numbers are real: their phases are 0 and π themselves.
        if (!complex) {
          EXPECT_EQ(phase.const_data_ptr<double>()[i], exact.real() < 0 ? kPi : 0);
        }
      }
    }
  }
}

TEST(WindowEigenvaluesTest, OfAConstantArePowers) {
  Transition transition{Diagonal{at::complex(at::full({1, 1, 1, 1}, -0.25, at::kDouble),
                                             at::full({1, 1, 1, 1}, 2.0, at::kDouble)),
                                 Discretization::kExp},
                        /*constant=*/true};
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Eigenvalues found, ComputeEigenvalues(transition, Over({4, 1})));
  EXPECT_EQ(found.log_magnitude.item<double>(), -1);
  EXPECT_NEAR(found.phase.item<double>(), 8 - 2 * kPi, 1e-14);
  EXPECT_EQ(found.layout.steps, 1);
}

TEST(WindowEigenvaluesTest, AConstantMatrixHasItsOwnPowers) {
  // S4's form, whose errors grow with the window.
  Random random({8});
  const at::Tensor d =
      at::complex(at::full({1, 1, 2, 3}, -0.5, at::kDouble), NormalTensor(random, {1, 1, 2, 3}, 9));
  const at::Tensor u =
      at::complex(NormalTensor(random, {1, 1, 2, 3, 1}), NormalTensor(random, {1, 1, 2, 3, 1}));
  DiagonalPlusLowRank kind{d, u, u.conj().resolve_conj(), Discretization::kBilinear};
  kind.step = at::full({4}, 0.125, at::kDouble);
  const Transition transition{kind, /*constant=*/true};
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Eigenvalues step, ComputeEigenvalues(transition));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Eigenvalues window, ComputeEigenvalues(transition, Over({16, 16})));
  EXPECT_TRUE(window.log_magnitude.equal(step.log_magnitude * 16));
  EXPECT_TRUE(window.error.equal(step.error * 16));
  EXPECT_TRUE(window.condition.equal(step.condition));
}

// Every eigenvalue of each window's product, formed, has its own among those found. Windows are short.
void ExpectProducts(const at::Tensor& matrices, const Window& window, const Eigenvalues& found,
                    const std::vector<int64_t>& multiplicities, double tolerance = 1e-9) {
  const int64_t count = window.Count(matrices.size(1)), size = matrices.size(-1);
  EXPECT_EQ(found.layout.multiplicities, multiplicities);
  ASSERT_EQ(found.log_magnitude.sizes(), (at::IntArrayRef{matrices.size(0), count, matrices.size(2),
                                                          static_cast<int64_t>(multiplicities.size())}));
  for (int64_t row = 0; row < matrices.size(0); ++row) {
    for (int64_t w = 0; w < count; ++w) {
      for (int64_t unit = 0; unit < matrices.size(2); ++unit) {
        at::Tensor product = at::eye(size, matrices.options());
        for (int64_t k = 0; k < window.length; ++k)
          product = at::matmul(matrices[row][w * window.stride + k][unit], product);
        const at::Tensor exact = at::linalg_eigvals(product).contiguous();
        const auto* values = reinterpret_cast<const Complex*>(exact.const_data_ptr());
        std::vector<Complex> left(values, values + size);
        for (size_t i = 0; i < multiplicities.size(); ++i) {
          const Complex value =
              std::polar(std::exp(found.log_magnitude[row][w][unit][i].item<double>()),
                         found.phase.defined() ? found.phase[row][w][unit][i].item<double>() : 0);
          for (int64_t copy = 0; copy < multiplicities[i]; ++copy) {
            const auto nearest =
                std::min_element(left.begin(), left.end(), [&](const Complex& a, const Complex& b) {
                  return std::abs(a - value) < std::abs(b - value);
                });
            EXPECT_LT(std::abs(*nearest - value), tolerance)
                << row << " " << w << " " << unit << ": " << value;
            left.erase(nearest);
          }
        }
      }
    }
  }
}

DiagonalPlusLowRank LowRank(Random& random, int64_t steps, int64_t size, int64_t rank, int64_t gates) {
  DiagonalPlusLowRank kind;
  kind.d = at::sigmoid(NormalTensor(random, {2, steps, 3, gates}) + 2);
  kind.v = NormalTensor(random, {2, steps, 3, size, rank}, 1 / std::sqrt(static_cast<double>(size)));
  kind.u = kind.v * kind.d.narrow(3, 0, 1).unsqueeze(-1) *
           at::sigmoid(NormalTensor(random, {2, steps, 3, 1, rank}));
  return kind;
}

at::Tensor Matrices(const DiagonalPlusLowRank& kind) {
  return at::diag_embed(kind.d.expand(kind.u.sizes().slice(0, 4))) -
         at::matmul(kind.u, kind.v.transpose(-1, -2));
}

TEST(WindowEigenvaluesTest, OfGatedDeltaStepsAreProducts) {
  Random random({11});
  for (const int64_t rank : {1, 2}) {
    const DiagonalPlusLowRank kind = LowRank(random, 11, /*size=*/7, rank, /*gates=*/1);
    for (const Window window : {Window{2, 1}, Window{3, 4}, Window{5, 5}, Window{9, 2}, Window{1, 3}}) {
      EIGSVC_ASSERT_OK_AND_ASSIGN(const Eigenvalues found, ComputeEigenvalues({kind}, Over(window)));
      const int64_t moved = rank * window.length;
      std::vector<int64_t> multiplicities(std::min<int64_t>(moved, 7), 1);
      if (moved < 7) multiplicities.insert(multiplicities.begin(), 7 - moved);
      ExpectProducts(Matrices(kind), window, found, multiplicities);
    }
  }
}

TEST(WindowEigenvaluesTest, OfTheSameKeyAgainAndAgainAreExact) {
  // (1-β)^W along the key, far below the rounding of the other eigenvalues.
  for (const int64_t length : {4, 24}) {
    DiagonalPlusLowRank kind;
    kind.d = at::full({1, length, 1, 1}, 0.5, at::kDouble);
    kind.v = at::zeros({1, length, 1, 32, 1}, at::kDouble);
    kind.v.select(3, 3).fill_(0.6);
    kind.v.select(3, 4).fill_(0.8);
    kind.u = kind.v * (0.5 * 0.999);
    EIGSVC_ASSERT_OK_AND_ASSIGN(const Eigenvalues found, ComputeEigenvalues({kind}, Over({length, length})));
    const at::Tensor logs = std::get<0>(found.log_magnitude.flatten().sort());
    const double gate = static_cast<double>(length) * std::log(0.5);
    ASSERT_EQ(logs.numel(), length + 1);
    EXPECT_NEAR(logs[0].item<double>(), gate + static_cast<double>(length) * std::log(0.001), 1e-9);
    EXPECT_NEAR(logs[1].item<double>(), gate, 1e-10);
    EXPECT_NEAR(logs[length].item<double>(), gate, 1e-10);
  }
}

TEST(WindowEigenvaluesTest, AGateOfZeroLeavesNothing) {
  Random random({12});
  DiagonalPlusLowRank kind = LowRank(random, 6, 7, 1, 1);
  kind.d.select(1, 4).zero_();
  kind.u.select(1, 4).zero_();
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Eigenvalues found, ComputeEigenvalues({kind}, Over({3, 3})));
  EXPECT_TRUE(found.log_magnitude.select(1, 0).isfinite().all().item<bool>());
  EXPECT_TRUE((found.log_magnitude.select(1, 1) == -kInfinity).all().item<bool>());
}

TEST(WindowEigenvaluesTest, OfDiagonalGatesAndOfMatricesAreProducts) {
  Random random({13});
  const DiagonalPlusLowRank kind = LowRank(random, 9, 5, 1, 5);
  const at::Tensor matrices = NormalTensor(random, {2, 9, 3, 5, 5}, 0.5);
  for (const Window window : {Window{2, 1}, Window{4, 3}, Window{6, 6}, Window{1, 2}}) {
    EIGSVC_ASSERT_OK_AND_ASSIGN(const Eigenvalues gated, ComputeEigenvalues({kind}, Over(window)));
    ExpectProducts(Matrices(kind), window, gated, std::vector<int64_t>(5, 1));
    EIGSVC_ASSERT_OK_AND_ASSIGN(const Eigenvalues dense,
                                ComputeEigenvalues({Dense{matrices, {}, 3}}, Over(window)));
    EXPECT_EQ(dense.layout.multiplicities, std::vector<int64_t>(5, 3));
    Eigenvalues once = dense;
    once.layout.multiplicities.assign(5, 1);
    ExpectProducts(matrices, window, once, std::vector<int64_t>(5, 1));
  }
}

TEST(WindowEigenvaluesTest, LongWindowsOfMatricesKeepTheirSmallEigenvalues) {
  // Where the product itself has lost them: the share of eigenvalues within 10 %.
  const nlohmann::json golden =
      nlohmann::json::parse(std::ifstream(testing::SourcePath("tests/kernels/golden/windows.json")));
  int64_t ours = 0, naive = 0, all = 0;
  for (const nlohmann::json& entry : golden.at("cases")) {
    const int64_t order = entry.at("order"), length = entry.at("length");
    if (length != 256) continue;
    std::vector<double> factors =
        testing::WindowFactors(entry.at("kind"), static_cast<int>(order), length, entry.at("seed"));
    const at::Tensor matrices = at::from_blob(factors.data(), {1, length, 1, order, order}, at::kDouble);
    EIGSVC_ASSERT_OK_AND_ASSIGN(const Eigenvalues found,
                                ComputeEigenvalues({Dense{matrices}}, Over({length, length})));
    const std::vector<double> log_magnitude = entry.at("log_magnitude");
    const auto within = [&](at::Tensor logs) {  // by size: pairs have the same
      logs = std::get<0>(logs.flatten().sort(0, /*descending=*/true)).contiguous();
      int64_t count = 0;
      for (int64_t i = 0; i < order; ++i)
        count += std::abs(std::expm1(logs.const_data_ptr<double>()[i] - log_magnitude[i])) < 0.1;
      return count;
    };
    ours += within(found.log_magnitude);
    at::Tensor product = at::eye(order, matrices.options());
    double scale = 0;
    for (int64_t k = 0; k < length; ++k) {
      product = at::matmul(matrices[0][k][0], product);
      const double size = product.abs().max().item<double>();
      product = product / size;
      scale += std::log(size);
    }
    naive += within(at::linalg_eigvals(product).abs().log() + scale);
    all += order;
  }
  EXPECT_EQ(ours, all);
  EXPECT_LT(naive, 2 * all / 3);
}

TEST(WindowEigenvaluesTest, WhatHasNoExactRouteIsNamed) {
  Random random({14});
  DiagonalPlusLowRank kind = LowRank(random, 4, 5, 1, 5);
  kind.discretization = Discretization::kExp;
  EXPECT_THAT(
      ComputeEigenvalues({kind}, Over({2, 2})),
      StatusIs(StatusCode::kInvalidArgument, HasSubstr("diagonal plus low rank, changes with the step")));
  EIGSVC_EXPECT_OK(ComputeEigenvalues({kind}));
  const at::Tensor matrix = NormalTensor(random, {1, 4, 1, 2, 2});
  EXPECT_THAT(ComputeEigenvalues({Dense{at::complex(matrix, matrix)}}, Over({2, 2})),
              StatusIs(StatusCode::kInvalidArgument, HasSubstr("--window")));
  EXPECT_THAT(ComputeEigenvalues({Dense{matrix}}, Over({5, 5})),
              StatusIs(StatusCode::kInvalidArgument, HasSubstr("fewer steps than a window has, 5")));
}

TEST(WindowStreamTest, ChunksMakeTheWindowsOfTheWhole) {
  Random random({5});
  const at::Tensor log = NormalTensor(random, {2, 23, 3});
  for (const Window window : {Window{4, 1}, Window{3, 5}, Window{6, 6}, Window{1, 4}}) {
    for (const int64_t chunk : {1, 2, 7, 23}) {
      WindowStream stream(window);
      int64_t seen = 1;
      for (int64_t first = 0; first < 23; first += chunk) {
        Transition part{ScalarPerUnit{log.narrow(1, first, std::min<int64_t>(chunk, 23 - first))}, false,
                        first, 0.5};
        const std::optional<Transition> whole = stream.Add(part, /*first_counted=*/1);
        if (!whole.has_value()) continue;
        EXPECT_EQ(whole->first_step, seen);
        EXPECT_EQ(whole->noise_floor, 0.5 * static_cast<double>(window.length));
        EIGSVC_ASSERT_OK_AND_ASSIGN(const Eigenvalues values, ComputeEigenvalues(*whole, Over(window)));
        for (int64_t w = 0; w < values.layout.steps; ++w, ++seen) {
          const at::Tensor sum =
              log.narrow(1, 1 + (seen - 1) * window.stride, window.length).sum(1).unsqueeze(-1);
          EXPECT_LT((values.log_magnitude.select(1, w) - sum).abs().max().item<double>(), 1e-13);
        }
      }
      EXPECT_EQ(stream.origin(), 1);
      EXPECT_EQ(seen, window.End(23, 1));
    }
  }
}

TEST(WindowStreamTest, NormalisersAreTakenAsTheirDifferences) {
  Random random({6});
  const at::Tensor log_eta = NormalTensor(random, {2, 3, 23});  // [B,U,T]
  const at::Tensor log = (log_eta.narrow(2, 0, 22) - log_eta.narrow(2, 1, 22)).transpose(1, 2);
  const Window window{4, 2};
  for (const int64_t chunk : {2, 7, 23}) {
    WindowStream given(window), formed(window);
    for (int64_t first = 0; first < 23; first += chunk) {
      const int64_t steps = std::min<int64_t>(chunk, 23 - first);
      const at::Tensor previous = first > 0 ? log_eta.narrow(2, first - 1, 1) : at::Tensor();
      const Transition part = NormaliserTransition(log_eta.narrow(2, first, steps), previous, first, 1, 0.5);
      Transition same = part;
      same.kind = ScalarPerUnit{log.narrow(1, part.first_step - 1, steps - (first > 0 ? 0 : 1))};
      const std::optional<Transition> found = given.Add(part, 1), expected = formed.Add(same, 1);
      ASSERT_EQ(found.has_value(), expected.has_value());
      if (!found.has_value()) continue;
      EXPECT_EQ(found->first_step, expected->first_step);
      EIGSVC_ASSERT_OK_AND_ASSIGN(const Eigenvalues values, ComputeEigenvalues(*found, Over(window)));
      EIGSVC_ASSERT_OK_AND_ASSIGN(const Eigenvalues sums, ComputeEigenvalues(*expected, Over(window)));
      EXPECT_TRUE(at::equal(values.log_magnitude, sums.log_magnitude));
    }
  }
}

}  // namespace
}  // namespace eigsvc
