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
#include "ATen/ops/ones.h"
#include "ATen/ops/tensor.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "models/base/random.h"
#include "models/tensor/attention_lse.h"
#include "tests/testing/paths.h"
#include "tests/testing/status_matchers.h"

namespace eigsvc {
namespace {

at::Tensor LogMagnitude(const Transition& transition) {
  return std::get<ScalarPerUnit>(transition.kind).log_magnitude;
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
    const at::Tensor found = LogMagnitude(SoftmaxTransition(attention.lse, {}, 0, 1));
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
  const at::Tensor found = LogMagnitude(SoftmaxTransition(attention.lse, {}, 0, 1));
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
  const Transition transition = SoftmaxTransition(attention.lse, {}, 0, 1);
  const at::Tensor total = LogMagnitude(transition).sum(1);
  const at::Tensor ends = attention.lse.select(-1, 0) - attention.lse.select(-1, 96);
  EXPECT_LE((total - ends).abs().max().item<double>(), 1e-12);
  EXPECT_EQ(transition.first_step, 1);
  EXPECT_FALSE(transition.constant);
}

TEST(SoftmaxTransitionTest, AChunkContinuesWhereTheLastOneEnded) {
  const at::Tensor lse = at::tensor({0.5f, 1.5f, 1.25f, 7.0f, -3.0f}).view({1, 1, 5});
  const Transition whole = SoftmaxTransition(lse, {}, 0, 1);
  const Transition first = SoftmaxTransition(lse.narrow(2, 0, 2), {}, 0, 1);
  const Transition second = SoftmaxTransition(lse.narrow(2, 2, 3), lse.narrow(2, 1, 1), 2, 1);
  EXPECT_EQ(second.first_step, 2);
  EXPECT_TRUE(at::equal(at::cat({LogMagnitude(first), LogMagnitude(second)}, 1), LogMagnitude(whole)));
}

TEST(SoftmaxTransitionTest, TheNoiseFloorGrowsWithTheScores) {
  const auto floor = [](double largest, c10::ScalarType type) {
    return SoftmaxTransition(at::ones({1, 1, 2}, type), {}, 0, largest).noise_floor;
  };
  EXPECT_EQ(floor(3, c10::kFloat), 5e-6);
  EXPECT_EQ(floor(360, c10::kFloat), 4 * std::ldexp(1.0, 8 - 23));
  EXPECT_EQ(floor(360, c10::kDouble), 1e-9);
}

TEST(SoftmaxTransitionTest, TheLargestScoreIsABoundThatParallelVectorsReach) {
  const at::Tensor q = at::tensor({3.0, 4.0, 0.0, 1.0}).view({1, 2, 1, 2});
  const at::Tensor k = at::tensor({1.0, 0.0, -6.0, -8.0}).view({1, 1, 2, 2});
  EXPECT_NEAR(LargestScore(q, k, -0.5), 25, 1e-5);
}

}  // namespace
}  // namespace eigsvc
