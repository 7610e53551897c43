// PAPER_COMPAT against golden/eigenvalues.json and plain loops in the words of theory.md 1.4 of what the
// released analysis computes.
#include "models/transition/paper_compat.h"

#include <cmath>
#include <complex>
#include <fstream>
#include <nlohmann/json.hpp>
#include <vector>

#include "ATen/TensorOperators.h"
#include "ATen/ops/complex.h"
#include "ATen/ops/imag.h"
#include "ATen/ops/real.h"
#include "ATen/ops/tensor.h"
#include "ATen/ops/zeros.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "models/tensor/attention_lse.h"
#include "models/transition/normaliser.h"
#include "tests/testing/paths.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/tensors.h"

namespace eigsvc {
namespace {

using testing::NormalTensor;
using testing::StatusIs;

Departures Only(bool Departures::*first, bool Departures::*second = nullptr) {
  Departures departures;
  departures.*first = true;
  if (second != nullptr) departures.*second = true;
  return departures;
}

at::Tensor Rows(const nlohmann::json& rows) {  // [1,1,T,2]
  std::vector<double> flat;
  for (const auto& row : rows) {
    for (const auto& value : row) flat.push_back(value.get<double>());
  }
  return at::tensor(flat).view({1, 1, -1, 2});
}

TEST(PaperCompatTest, SoftmaxMatchesTheGoldenEntry) {
  EIGSVC_REQUIRE_SHARED();
  const auto golden = nlohmann::json::parse(std::ifstream(testing::SharedPath("golden/eigenvalues.json")));
  EIGSVC_ASSERT_OK_AND_ASSIGN(
      const at::Tensor log_eta,
      CompatLogSoftmaxNormaliser(Rows(golden["q"]), Rows(golden["k"]), /*length=*/5,
                                 Only(&Departures::unscaled_scores, &Departures::masked_as_zero), nullptr));
  const at::Tensor found =
      LogMagnitude(std::get<ScalarPerUnit>(NormaliserTransition(log_eta, {}, 0, 0, 0.0).kind)).exp();
  for (int i = 0; i < 4; ++i) {
    const double exact = golden["softmax_lambda_compat_released_code"][i].get<double>();
    EXPECT_NEAR(found[0][i][0].item<double>() / exact, 1, 1e-12);
  }
}

// ν_t = Σ_{j<=t} e^{s_tj - m_t} + (T-1-t), m_t = max_j s_tj with s_tj = 0 for j > t; η_t = ν_t e^{m_t}.
TEST(PaperCompatTest, EachSoftmaxDepartureEqualsAPlainLoop) {
  Random random({9});
  constexpr int64_t kSteps = 700;  // several blocks of rows for this many heads
  const at::Tensor q = NormalTensor(random, {2, 4, kSteps, 8}) * 2,
                   k = NormalTensor(random, {2, 4, kSteps, 8});
  for (const bool unscaled : {false, true}) {
    for (const bool as_zero : {false, true}) {
      Departures departures;
      departures.unscaled_scores = unscaled;
      departures.masked_as_zero = as_zero;
      EIGSVC_ASSERT_OK_AND_ASSIGN(const at::Tensor log_eta,
                                  CompatLogSoftmaxNormaliser(q, k, kSteps, departures, nullptr));
      // The last steps of a chunk of which 100 more follow.
      EIGSVC_ASSERT_OK_AND_ASSIGN(
          const at::Tensor chunk,
          CompatLogSoftmaxNormaliser(q.slice(2, 350, 600), k.slice(2, 0, 600), kSteps, departures, nullptr));
      EXPECT_LE((chunk - log_eta.slice(2, 350, 600)).abs().max().item<double>(), 1e-12);
      for (const int64_t t : {0, 1, 350, 698, 699}) {
        const at::Tensor row = (k[1][3] * q[1][3][t]).sum({-1}) / (unscaled ? 1 : std::sqrt(8.0));
        double largest = as_zero && t < kSteps - 1 ? 0 : -1e300;
        for (int64_t j = 0; j <= t; ++j) largest = std::max(largest, row[j].item<double>());
        double nu = as_zero ? static_cast<double>(kSteps - 1 - t) : 0;
        for (int64_t j = 0; j <= t; ++j) nu += std::exp(row[j].item<double>() - largest);
        EXPECT_NEAR(log_eta[1][3][t].item<double>(), largest + std::log(nu), 1e-12)
            << unscaled << as_zero << " step " << t;
      }
    }
  }
}

TEST(PaperCompatTest, WithoutDeparturesSoftmaxIsExact) {
  Random random({2});
  const at::Tensor q = NormalTensor(random, {1, 2, 300, 16}), k = NormalTensor(random, {1, 2, 300, 16});
  EIGSVC_ASSERT_OK_AND_ASSIGN(const AttentionOutput attention, CausalAttention(q, k, k));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const at::Tensor log_eta,
                              CompatLogSoftmaxNormaliser(q, k, 300, Departures(), nullptr));
  EXPECT_LE((log_eta - attention.lse).abs().max().item<double>(), 1e-12);
}

TEST(PaperCompatTest, ZeroScoresBesideMaskedZerosGiveOneEverywhere) {
  const at::Tensor zero = at::zeros({1, 1, 50, 4});
  EIGSVC_ASSERT_OK_AND_ASSIGN(
      const at::Tensor log_eta,
      CompatLogSoftmaxNormaliser(zero, zero, 50, Only(&Departures::masked_as_zero), nullptr));
  for (int t = 0; t < 50; ++t) EXPECT_NEAR(log_eta[0][0][t].item<double>(), std::log(50.0), 1e-14);
}

TEST(PaperCompatTest, SoftmaxObeysAStop) {
  StopToken stop;
  stop.Cancel();
  const at::Tensor zero = at::zeros({1, 1, 5, 4});
  EXPECT_THAT(CompatLogSoftmaxNormaliser(zero, zero, 5, Departures::All(), &stop),
              StatusIs(absl::StatusCode::kCancelled, ::testing::HasSubstr("cancelled")));
}

TEST(PaperCompatTest, NormalisersOfZeroBecomeTheReleasedConstant) {
  const double infinity = std::numeric_limits<double>::infinity();
  const at::Tensor linear = at::tensor({0.5, -infinity}).view({1, 1, 2});
  const at::Tensor clamped = CompatLogLinearNormaliser(linear, Only(&Departures::clamp_zero));
  EXPECT_EQ(clamped[0][0][0].item<double>(), 0.5);
  EXPECT_DOUBLE_EQ(clamped[0][0][1].item<double>(), std::log(2e-23));
  EXPECT_EQ(CompatLogLinearNormaliser(linear, Departures())[0][0][1].item<double>(), -infinity);

  // exp(-f) in float32 is 0 from f = 104 on: such heads all get λ = 1, and their neighbours jump.
  const at::Tensor f = at::tensor({1.0, 100.0, 110.0, 5000.0}).view({1, 1, 4});
  const at::Tensor single = CompatLogNormNormaliser(f, at::kFloat, Only(&Departures::clamp_zero));
  EXPECT_NEAR(single[0][0][0].item<double>(), 1, 1e-7);
  EXPECT_NEAR(single[0][0][1].item<double>(), 100, 0.02);  // a denormal: five bits are left of it
  EXPECT_DOUBLE_EQ(single[0][0][2].item<double>(), -std::log(2e-23));
  EXPECT_EQ(single[0][0][2].item<double>(), single[0][0][3].item<double>());
  EXPECT_EQ(CompatLogNormNormaliser(f, at::kFloat, Departures())[0][0][3].item<double>(), 5000);
}

TEST(PaperCompatTest, NormWithoutUnderflowMatchesTheGoldenEntries) {
  EIGSVC_REQUIRE_SHARED();
  const auto golden = nlohmann::json::parse(std::ifstream(testing::SharedPath("golden/eigenvalues.json")));
  const at::Tensor a =
      at::tensor(golden["norm_preactivation_a=n+offset"].get<std::vector<double>>()).view({1, 1, -1});
  const at::Tensor log_eta = LogNormNormaliser(a, NormMap::kExp, NormStyle::kExponential);
  const at::Tensor compat = CompatLogNormNormaliser(log_eta, at::kDouble, Only(&Departures::clamp_zero));
  const at::Tensor found =
      LogMagnitude(std::get<ScalarPerUnit>(NormaliserTransition(compat, {}, 0, 1, 0.0).kind));
  for (int i = 0; i < 4; ++i)
    EXPECT_NEAR(found[0][i][0].item<double>(), golden["norm_expf_log_lambda_exp"][i].get<double>(), 1e-12);
}

TEST(PaperCompatTest, ADecayBelowTheTypesResolutionIsOne) {
  const at::Tensor decay = at::tensor({-1e-9, -1e-6, -3.0});
  const at::Tensor single = LogOfRounded(decay, at::kFloat);
  EXPECT_EQ(single[0].item<double>(), 0);
  EXPECT_NEAR(single[1].item<double>(), -1e-6, 6e-8);
  EXPECT_NEAR(LogOfRounded(decay, at::kDouble)[0].item<double>(), -1e-9, 2e-16);
}

TEST(PaperCompatTest, TheReleasedS4OfOrderTwo) {
  EIGSVC_REQUIRE_SHARED();
  const auto golden = nlohmann::json::parse(std::ifstream(testing::SharedPath("golden/eigenvalues.json")));
  const auto& entry = golden.at("s4_dplr_N2");
  const auto vector = [](const nlohmann::json& pairs) {
    return at::complex(at::tensor({pairs[0][0].get<double>(), pairs[1][0].get<double>()}),
                       at::tensor({pairs[0][1].get<double>(), pairs[1][1].get<double>()}));
  };
  const at::Tensor found =
      CompatS4Eigenvalues(vector(entry["Lambda"]), vector(entry["P"]), entry["dt"].get<double>());
  ASSERT_EQ(found.scalar_type(), at::kComplexFloat);
  for (const auto& pair : entry["lambda"]) {
    double nearest = 1;
    for (int i = 0; i < 2; ++i) {
      const std::complex<double> difference(at::real(found[i]).item<double>() - pair[0].get<double>(),
                                            at::imag(found[i]).item<double>() - pair[1].get<double>());
      nearest = std::min(nearest, std::abs(difference));
    }
    EXPECT_LE(nearest, 3e-6);  // complex64 at 2/Δ = 40
  }
}

}  // namespace
}  // namespace eigsvc
