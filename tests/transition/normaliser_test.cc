// log η of linear and norm attention against golden/eigenvalues.json and plain loops.
#include "models/transition/normaliser.h"

#include <cmath>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <vector>

#include "ATen/TensorOperators.h"
#include "ATen/ops/elu.h"
#include "ATen/ops/equal.h"
#include "ATen/ops/ones.h"
#include "ATen/ops/tensor.h"
#include "ATen/ops/zeros.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "models/transition/eigenvalues.h"
#include "tests/testing/paths.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/tensors.h"

namespace eigsvc {
namespace {

using testing::NormalTensor;

at::Tensor Row(const nlohmann::json& values) {
  return at::tensor(values.get<std::vector<double>>()).view({1, 1, -1});
}
at::Tensor Rows(const nlohmann::json& rows) {  // [1,1,T,2]
  std::vector<double> flat;
  for (const auto& row : rows) {
    for (const auto& value : row) flat.push_back(value.get<double>());
  }
  return at::tensor(flat).view({1, 1, -1, 2});
}

// log λ of the only head.
std::vector<double> LogLambda(const at::Tensor& log_eta) {
  const Transition transition = NormaliserTransition(log_eta, {}, 0, 1, 0.0);
  EXPECT_EQ(transition.first_step, 1);
  const at::Tensor values = LogMagnitude(std::get<ScalarPerUnit>(transition.kind)).contiguous();
  return {values.const_data_ptr<double>(), values.const_data_ptr<double>() + values.numel()};
}

class GoldenNormaliserTest : public ::testing::Test {
 protected:
  void SetUp() override {
    EIGSVC_REQUIRE_SHARED();
    golden_ = nlohmann::json::parse(std::ifstream(testing::SharedPath("golden/eigenvalues.json")));
  }
  nlohmann::json golden_;
};

TEST(NoiseFloorTest, GrowsWithTheLargestNumberAboveOne) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity(), kNan = NAN;
  const auto floor_of = [](const std::vector<double>& sizes, c10::ScalarType type) {
    Transition transition;
    SetNoiseFloor(NoiseOfLargest(0x1p-7, at::tensor(sizes).to(type)), transition);
    EXPECT_FALSE(transition.device_noise_floor.defined());
    return transition.noise_floor;
  };
  for (const c10::ScalarType type : {c10::kDouble, c10::kFloat, c10::kBFloat16}) {
    EXPECT_EQ(floor_of({0.25, 3.5, -8}, type), 3.5 * 0x1p-7);
    EXPECT_EQ(floor_of({0.25, -8}, type), 0x1p-7);
    EXPECT_EQ(floor_of({2, kNan, 3}, type), 0x1p-7);
    EXPECT_EQ(floor_of({2, kInfinity}, type), kInfinity);
  }
  Transition transition;
  SetNoiseFloor(0.125, transition);
  EXPECT_EQ(transition.noise_floor, 0.125);
}

TEST_F(GoldenNormaliserTest, LinearAttention) {
  const at::Tensor q = at::elu(Rows(golden_["q"])) + 1, k = at::elu(Rows(golden_["k"])) + 1;
  at::Tensor carried;
  const at::Tensor log_eta = LogLinearNormaliser(q, k, carried);
  const std::vector<double> found = LogLambda(log_eta);
  ASSERT_EQ(found.size(), 4u);
  for (int i = 0; i < 5; ++i)
    EXPECT_NEAR(log_eta[0][0][i].item<double>(), std::log(golden_["linear_elu1_eta"][i].get<double>()),
                1e-12);
  for (int i = 0; i < 4; ++i)
    EXPECT_NEAR(std::exp(found[i]) / golden_["linear_elu1_lambda"][i].get<double>(), 1, 1e-12);
}

TEST_F(GoldenNormaliserTest, NormAttentionOfBothConventions) {
  const struct {
    const char* key;
    NormMap map;
    NormStyle style;
  } cases[] = {
      {"norm_expf_log_lambda_exp", NormMap::kExp, NormStyle::kExponential},
      {"norm_expf_log_lambda_softplus", NormMap::kSoftplus, NormStyle::kExponential},
      {"norm_expf_log_lambda_sigmoid", NormMap::kSigmoid, NormStyle::kExponential},
      {"norm_expf_log_lambda_elu", NormMap::kElu, NormStyle::kExponential},
      {"norm_dsf2024_log_lambda_exp", NormMap::kExp, NormStyle::kPlain},
      {"norm_dsf2024_log_lambda_softplus", NormMap::kSoftplus, NormStyle::kPlain},
      {"norm_dsf2024_log_lambda_sigmoid", NormMap::kSigmoid, NormStyle::kPlain},
  };
  const at::Tensor a = Row(golden_["norm_preactivation_a=n+offset"]);
  for (const auto& c : cases) {
    const std::vector<double> found = LogLambda(LogNormNormaliser(a, c.map, c.style));
    ASSERT_EQ(found.size(), 4u);
    for (int i = 0; i < 4; ++i) EXPECT_NEAR(found[i], golden_[c.key][i].get<double>(), 1e-12) << c.key;
  }
}

TEST(NormaliserTest, SoftplusKeepsItsLogarithmFarBelowZero) {
  const at::Tensor a = at::tensor({-2000.0, -700.5, -699.5, -30.0, 0.0, 50.0}).view({1, 1, -1});
  const at::Tensor log_eta = LogNormNormaliser(a, NormMap::kSoftplus, NormStyle::kPlain);
  const double exact[] = {
      -2000, -700.5, -699.5, std::log(std::log1p(std::exp(-30.0))), std::log(std::log(2.0)), std::log(50.0)};
  for (int i = 0; i < 6; ++i)
    EXPECT_NEAR(log_eta[0][0][i].item<double>(), exact[i], 1e-12 * std::abs(exact[i]));
}

TEST(NormaliserTest, ChunksOfLinearAttentionContinueTheSum) {
  Random random({5});
  const at::Tensor q = NormalTensor(random, {2, 3, 11, 4}).abs(),
                   k = NormalTensor(random, {2, 3, 11, 4}).abs();
  at::Tensor whole_sum, sum;
  const at::Tensor whole = LogLinearNormaliser(q, k, whole_sum);
  for (int64_t begin = 0; begin < 11; begin += 4) {
    const int64_t length = std::min<int64_t>(4, 11 - begin);
    const at::Tensor part = LogLinearNormaliser(q.narrow(2, begin, length), k.narrow(2, begin, length), sum);
    EXPECT_LE((part - whole.narrow(2, begin, length)).abs().max().item<double>(), 1e-14);
  }
  EXPECT_LE((sum - whole_sum).abs().max().item<double>(), 1e-13);
  // A plain loop over one head.
  for (int64_t i = 0; i < 11; ++i) {
    const double eta = (q[1][2][i] * k[1][2].narrow(0, 0, i + 1).sum({0})).sum().item<double>();
    EXPECT_NEAR(whole[1][2][i].item<double>(), std::log(eta), 1e-12);
  }
}

TEST(NormaliserTest, EqualFeaturesGiveStepsOverStepsPlusOne) {
  const at::Tensor ones = at::ones({1, 1, 100, 3});
  at::Tensor carried;
  const std::vector<double> found = LogLambda(LogLinearNormaliser(ones, ones, carried));
  for (int i = 1; i < 100; ++i) EXPECT_NEAR(found[i - 1], std::log(i / (i + 1.0)), 1e-13);
}

TEST(NormaliserTest, ANormaliserThatVanishesOrIsNegativeIsNoEigenvalue) {
  const at::Tensor q = at::tensor({1.0, 1.0, 1.0}).view({1, 1, 3, 1});
  const at::Tensor k = at::tensor({1.0, -1.0, -1.0}).view({1, 1, 3, 1});
  at::Tensor carried;
  const std::vector<double> found = LogLambda(LogLinearNormaliser(q, k, carried));
  EXPECT_EQ(found[0], std::numeric_limits<double>::infinity());  // counted apart, as NaN is
  EXPECT_TRUE(std::isnan(found[1]));
}

}  // namespace
}  // namespace eigsvc
