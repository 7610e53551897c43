// A trained Llama (data/checkpoints/stories260K) against its golden.json, computed with a float64 NumPy
// reference, and its float32 eigenvalues at 512 steps, where scores reach 360, against float64 with the whole
// matrix of scores. Its float64 eigenvalues are a case of tests/conformance.
#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "ATen/Parallel.h"
#include "ATen/TensorOperators.h"
#include "ATen/core/grad_mode.h"
#include "ATen/ops/linear.h"
#include "ATen/ops/log_softmax.h"
#include "ATen/ops/logsumexp.h"
#include "ATen/ops/matmul.h"
#include "ATen/ops/ones.h"
#include "ATen/ops/tensor.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "models/archive/archive.h"
#include "models/layers/norm.h"
#include "models/layers/rope.h"
#include "models/zoo/registry.h"
#include "tests/testing/paths.h"
#include "tests/testing/recording_tap.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/tensors.h"

namespace eigsvc {
namespace {

using testing::MaxDifference;
using testing::RandomTokens;
using testing::RecordingTap;

class Stories260kTest : public ::testing::Test {
 protected:
  void SetUp() override {
    EIGSVC_REQUIRE_SHARED();
    at::set_num_threads(1);  // a token at a time: threads would only wait for each other
    const std::string folder = testing::SharedPath("data/checkpoints/stories260K/");
    checkpoint_ = folder + "stories260K.safetensors";
    golden_ = nlohmann::json::parse(std::ifstream(folder + "golden.json"));
  }

  std::shared_ptr<const SequenceModel> Load(c10::ScalarType dtype) const {
    const absl::StatusOr<Archive> archive = Archive::Open(checkpoint_);
    EIGSVC_EXPECT_OK(archive);
    LoadOptions options;
    options.dtype = dtype;
    const auto model = LoadModel(*archive, {}, options);
    EIGSVC_EXPECT_OK(model);
    return *model;
  }

  at::NoGradGuard no_grad_;
  std::string checkpoint_;
  nlohmann::json golden_;
};

TEST_F(Stories260kTest, TellsTheGoldenStoryWithTheGoldenLogits) {
  const auto model = Load(c10::kFloat);
  EXPECT_EQ(model->description().layout, "meta");
  EXPECT_EQ(model->description().mixers[0][0].units, 8);
  const auto golden_ids = golden_["greedy_ids"].get<std::vector<int64_t>>();
  std::vector<LayerState> states(model->weights().layers.size());
  std::vector<int64_t> ids = {golden_ids[0]};
  const auto compare = [](const at::Tensor& logits, const nlohmann::json& golden) {
    for (int v = 0; v < 512; ++v)
      EXPECT_NEAR(logits[0][0][v].item<double>(), golden[v].get<double>(), 1e-4) << v;
  };
  while (ids.size() < golden_ids.size()) {
    const int64_t position = static_cast<int64_t>(ids.size()) - 1;
    const at::Tensor token = at::tensor({ids.back()}).view({1, 1});
    EIGSVC_ASSERT_OK_AND_ASSIGN(at::Tensor x, model->Embed(model->weights(), token, position));
    for (size_t i = 0; i < states.size(); ++i) {
      EIGSVC_ASSERT_OK_AND_ASSIGN(
          x, model->Layer(static_cast<int>(i), model->weights().layers[i], x, &states[i], {}));
    }
    EIGSVC_ASSERT_OK_AND_ASSIGN(const at::Tensor logits, model->Head(model->weights(), x));
    if (position == 0) compare(logits, golden_["first_logits"]);
    if (position == golden_["last_logits_pos"].get<int64_t>()) compare(logits, golden_["last_logits"]);
    ids.push_back(logits.argmax(-1).item<int64_t>());
  }
  EXPECT_EQ(ids, golden_ids);
}

TEST_F(Stories260kTest, GivesASentenceTheGoldenLikelihood) {
  const auto model = Load(c10::kFloat);
  const auto ids = golden_["encode_ids"].get<std::vector<int64_t>>();
  const at::Tensor tokens = at::tensor(ids).unsqueeze(0);
  EIGSVC_ASSERT_OK_AND_ASSIGN(const at::Tensor logits, model->Forward(model->weights(), tokens));
  const at::Tensor log_probability = at::log_softmax(logits.to(c10::kDouble), -1);
  double total = 0;
  for (size_t i = 1; i < ids.size(); ++i) {
    const double nll = -log_probability[0][static_cast<int64_t>(i) - 1][ids[i]].item<double>();
    EXPECT_NEAR(nll, golden_["encode_nll_per_token"][i - 1].get<double>(), 1e-4);
    total += nll;
  }
  EXPECT_NEAR(total / static_cast<double>(ids.size() - 1), golden_["encode_mean_nll"].get<double>(), 1e-5);
}

// What float32 analyses promise: log λ within max(5e-6, 4 ulp of the largest score) on the same q and k,
// which are recomputed here with the layers' own functions.
TEST_F(Stories260kTest, Float32EigenvaluesEqualTheFullMatrixOnTheSameQueriesAndKeys) {
  const auto model = Load(c10::kFloat);
  Random random({5});
  const at::Tensor tokens = RandomTokens(random, 1, 512, 512);
  const Rotary rotary({8, 10000, {}, RotaryPairs::kInterleaved}, c10::kFloat);
  const at::Tensor future = at::ones({512, 512}, c10::kBool).triu(1);
  double largest_of_all = 0;
  EIGSVC_ASSERT_OK_AND_ASSIGN(at::Tensor x, model->Embed(model->weights(), tokens, 0));
  for (int layer = 0; layer < 5; ++layer) {
    const Weights& weights = model->weights().layers[layer];
    const at::Tensor normed = RmsNorm(x, weights["input_layernorm.weight"], 1e-5);
    const auto heads = [&](const std::string& name, int64_t count) {
      const at::Tensor projected = at::linear(normed, weights["self_attn." + name + ".weight"]);
      return rotary.Turn(projected.view({1, 512, count, 8}), 0, 512).transpose(1, 2);
    };
    const at::Tensor q = heads("q_proj", 8), k = heads("k_proj", 4);
    const at::Tensor scores =
        at::matmul(q.to(c10::kDouble), k.to(c10::kDouble).repeat_interleave(2, 1).transpose(2, 3)) /
        std::sqrt(8.0);
    const double largest = scores.masked_fill(future, 0).abs().max().item<double>();
    const at::Tensor lse =
        at::logsumexp(scores.masked_fill(future, -std::numeric_limits<double>::infinity()), -1);
    const at::Tensor exact = (lse.narrow(2, 0, 511) - lse.narrow(2, 1, 511)).transpose(1, 2);
    RecordingTap tap;
    EIGSVC_ASSERT_OK_AND_ASSIGN(x, model->Layer(layer, weights, x, nullptr, {&tap}));
    largest_of_all = std::max(largest_of_all, largest);
    const double ulp = std::ldexp(1.0, std::ilogb(largest) - 23);
    EXPECT_LE(MaxDifference(tap.LogMagnitude(layer), exact), std::max(5e-6, 4 * ulp)) << "layer " << layer;
    EXPECT_LE(MaxDifference(tap.LogMagnitude(layer), exact), tap.seen[layer][0].transition.noise_floor);
  }
  EXPECT_GT(largest_of_all, 200);  // the point of this checkpoint
}

}  // namespace
}  // namespace eigsvc
