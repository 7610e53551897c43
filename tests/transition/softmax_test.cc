#include "models/transition/softmax.h"

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <vector>

#include "ATen/TensorOperators.h"
#include "ATen/core/IListRef.h"
#include "ATen/ops/cat.h"
#include "ATen/ops/empty.h"
#include "ATen/ops/equal.h"
#include "ATen/ops/full.h"
#include "ATen/ops/ones.h"
#include "ATen/ops/tensor.h"
#include "ATen/ops/zeros.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "models/base/random.h"
#include "models/kernels/score_bound.h"
#include "models/tensor/attention_lse.h"
#include "models/transition/normaliser.h"
#include "tests/testing/paths.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/tensors.h"

namespace eigsvc {
namespace {

using testing::NormalTensor;

at::Tensor SmallFloor() { return at::full({}, 5e-6, at::kDouble); }

at::Tensor LogMagnitude(const Transition& transition) {
  return eigsvc::LogMagnitude(std::get<ScalarPerUnit>(transition.kind));
}

at::Tensor Rows(const nlohmann::json& rows) {
  const auto values = rows.get<std::vector<std::vector<double>>>();
  at::Tensor x = at::empty({1, 1, static_cast<int64_t>(values.size()), 2}, c10::kDouble);
  for (size_t i = 0; i < values.size(); ++i) {
    for (int d = 0; d < 2; ++d) x.mutable_data_ptr<double>()[2 * i + d] = values[i][d];
  }
  return x;
}

TEST(SoftmaxTransitionTest, MatchesTheGoldenEntries) {
  EIGSVC_REQUIRE_SHARED();
  const auto golden = nlohmann::json::parse(std::ifstream(testing::SharedPath("golden/eigenvalues.json")));
  const at::Tensor q = Rows(golden.at("q")), k = Rows(golden.at("k"));
  for (const bool fused : {true, false}) {
    AttentionOptions options;
    options.use_fused = fused;
    EIGSVC_ASSERT_OK_AND_ASSIGN(const AttentionOutput attention, CausalAttention(q, k, k, options));
    const at::Tensor found = LogMagnitude(SoftmaxTransition(attention.lse, {}, 0, SmallFloor()));
    ASSERT_EQ(found.sizes(), (std::vector<int64_t>{1, 4, 1}));
    for (int i = 0; i < 5; ++i) {
      EXPECT_NEAR(attention.lse[0][0][i].item<double>(), golden["softmax_lse"][i].get<double>(), 1e-12);
    }
    for (int i = 0; i < 4; ++i) {
      EXPECT_NEAR(found[0][i][0].item<double>(), golden["softmax_log_lambda"][i].get<double>(), 1e-12);
      EXPECT_NEAR(std::exp(found[0][i][0].item<double>()), golden["softmax_lambda"][i].get<double>(), 1e-11);
    }
  }
}

TEST(SoftmaxTransitionTest, EqualScoresGiveStepsOverStepsPlusOne) {
  const at::Tensor q = at::ones({1, 2, 300, 4}, c10::kDouble);
  EIGSVC_ASSERT_OK_AND_ASSIGN(const AttentionOutput attention, CausalAttention(q, q, q));
  const at::Tensor found = LogMagnitude(SoftmaxTransition(attention.lse, {}, 0, SmallFloor()));
  for (int i = 1; i < 300; ++i) {
    EXPECT_NEAR(found[0][i - 1][1].item<double>(), std::log(i / (i + 1.0)), 1e-13);
  }
}

TEST(SoftmaxTransitionTest, LogsTelescopeToTheEndsOfTheSequence) {
  Random random({4});
  at::Tensor q = at::empty({2, 3, 97, 8}, c10::kDouble);
  for (int64_t i = 0; i < q.numel(); ++i) q.mutable_data_ptr<double>()[i] = 3 * random.Normal();
  const at::Tensor k = q.flip(2).contiguous();
  EIGSVC_ASSERT_OK_AND_ASSIGN(const AttentionOutput attention, CausalAttention(q, k, k));
  const Transition transition = SoftmaxTransition(attention.lse, {}, 0, SmallFloor());
  const at::Tensor total = LogMagnitude(transition).sum(1);
  const at::Tensor ends = attention.lse.select(-1, 0) - attention.lse.select(-1, 96);
  EXPECT_LE((total - ends).abs().max().item<double>(), 1e-12);
  EXPECT_EQ(transition.first_step, 1);
  EXPECT_FALSE(transition.constant);
}

TEST(SoftmaxTransitionTest, AChunkContinuesWhereTheLastOneEnded) {
  const at::Tensor lse = at::tensor({0.5f, 1.5f, 1.25f, 7.0f, -3.0f}).view({1, 1, 5});
  const Transition whole = SoftmaxTransition(lse, {}, 0, SmallFloor());
  const Transition first = SoftmaxTransition(lse.narrow(2, 0, 2), {}, 0, SmallFloor());
  const Transition second = SoftmaxTransition(lse.narrow(2, 2, 3), lse.narrow(2, 1, 1), 2, SmallFloor());
  EXPECT_EQ(second.first_step, 2);
  EXPECT_TRUE(at::equal(at::cat({LogMagnitude(first), LogMagnitude(second)}, 1), LogMagnitude(whole)));
}

// Scores of at most `largest`: q of one head along an axis, k a unit vector.
double FloorOf(double largest, c10::ScalarType type, double cap = 0, const at::Tensor& sinks = {}) {
  const at::Tensor q = at::tensor({0.0, largest / -0.5}, at::kDouble).view({1, 1, 1, 2}).to(type),
                   k = at::tensor({0.0, 1.0}, at::kDouble).view({1, 1, 1, 2}).to(type);
  return BoundScores(q, k, -0.5, cap, sinks).noise_floor.item<double>();
}

TEST(BoundScoresTest, TheNoiseFloorGrowsWithTheScores) {
  EXPECT_EQ(FloorOf(3, c10::kFloat), 5e-6);
  EXPECT_EQ(FloorOf(360, c10::kFloat), 4 * std::ldexp(1.0, 8 - 23));
  EXPECT_EQ(FloorOf(360, c10::kBFloat16), 4 * std::ldexp(1.0, 8 - 23));
  EXPECT_EQ(FloorOf(512, c10::kFloat), 4 * std::ldexp(1.0, 9 - 23));
  EXPECT_EQ(FloorOf(360, c10::kDouble), 1e-9);
  EXPECT_EQ(FloorOf(360, c10::kFloat, /*cap=*/50), 4 * std::ldexp(1.0, 5 - 23));
  EXPECT_EQ(FloorOf(3, c10::kFloat, 0, at::tensor({-70.0})), 4 * std::ldexp(1.0, 6 - 23));
  for (const double unusable : {0.0, HUGE_VAL, std::nan("")}) EXPECT_EQ(FloorOf(unusable, c10::kFloat), 5e-6);
}

// Grouped heads, strided rows and every element type against the plain form of the kernel, whose answer is
// the power of two below the largest ‖q‖‖k‖.
TEST(BoundScoresTest, TheNoiseFloorEqualsTheKernelsPlainForm) {
  Random random({5});
  for (const auto& [type, element] : {std::pair(at::kFloat, Element::kFloat32),
                                      {at::kDouble, Element::kFloat64},
                                      {at::kHalf, Element::kFloat16},
                                      {at::kBFloat16, Element::kBFloat16}}) {
    const at::Tensor q = (NormalTensor(random, {2, 7, 6, 20}) * 9).to(type).transpose(1, 2),
                     k = (NormalTensor(random, {2, 11, 3, 20}) * 9).to(type).transpose(1, 2);
    const auto rows = [](const at::Tensor& x) {
      return HeadRows{x.const_data_ptr(), x.size(1), x.size(2), x.stride(0), x.stride(1), x.stride(2)};
    };
    const bool full = type == at::kDouble;
    double floor = 0;
    ScoreBoundProblem problem{
        element, 2, 20, rows(q), rows(k), -0.3, 0, full ? 1e-9 : 5e-6, full ? 0x1p-50 : 0x1p-21};
    std::vector<double> norms(problem.NormRoom(), 1e300);  // nothing is asked of what it held
    problem.norms = norms.data();
    problem.noise_floor = &floor;
    BoundPlainly(problem);
    EXPECT_EQ(BoundScores(q, k, -0.3).noise_floor.item<double>(), floor) << c10::toString(type);
    if (!full) {
      EXPECT_GT(floor, 5e-6);
    }
  }
}

}  // namespace
}  // namespace eigsvc
