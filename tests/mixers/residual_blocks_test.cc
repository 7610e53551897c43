// What blocks do in training alone: dropout, and batch normalisation by the batch. The rest of them is held
// to independent implementations by tests/conformance.
#include "models/mixers/residual_blocks.h"

#include <cmath>
#include <memory>
#include <string>
#include <utility>

#include "ATen/CPUGeneratorImpl.h"
#include "ATen/TensorOperators.h"
#include "ATen/core/grad_mode.h"
#include "ATen/ops/empty.h"
#include "ATen/ops/equal.h"
#include "ATen/ops/ones.h"
#include "ATen/ops/rsqrt.h"
#include "gtest/gtest.h"
#include "models/base/random.h"
#include "models/layers/dropout.h"
#include "models/mixers/gated_units.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/tensors.h"

namespace eigsvc {
namespace {

using Kind = NormalizedAttentionSpec::Kind;
using testing::MaxDifference;
using testing::NormalTensor;

at::Generator MakeGenerator(uint64_t seed) { return at::make_generator<at::CPUGeneratorImpl>(seed); }

TEST(DropoutTest, KeepsTheMeanAndTiesSteps) {
  const at::Tensor x = at::ones({20, 50, 100}, at::kFloat);
  for (const bool tied : {false, true}) {
    const at::Tensor y = Dropout(x, 0.3, tied, MakeGenerator(1));
    EXPECT_TRUE(((y == 0).logical_or((y - 1 / 0.7).abs() < 1e-6)).all().item<bool>());
    EXPECT_NEAR((y == 0).to(at::kDouble).mean().item<double>(), 0.3, tied ? 0.05 : 0.01);
    EXPECT_EQ(at::equal(y.select(1, 0), y.select(1, 49)), tied);
    EXPECT_TRUE(at::equal(y, Dropout(x, 0.3, tied, MakeGenerator(1))));
    EXPECT_FALSE(at::equal(y, Dropout(x, 0.3, tied, MakeGenerator(2))));
  }
}

// A module with weights drawn away from what is special about fresh ones.
struct Drawn {
  Weights weights;

  Drawn(const Module& module, uint64_t seed) {
    WeightPlan plan;
    module.Plan(WeightPlanner(plan, 0, "", {}, LinearStyle{}));
    Random random({seed});
    for (const WeightSpec& spec : plan) {
      at::Tensor value = NormalTensor(random, spec.shape, 0.4);
      if (spec.name == "norm.weight" || spec.name == "norm.running_var") value = value.abs() + 0.5;
      weights.Set(spec.name, value, spec.trained);
    }
  }
  at::Tensor Run(const Module& module, const at::Tensor& x, TrainingMode* training) const {
    LayerState state;
    LayerContext context;
    context.training = training;
    at::Tensor beside;
    return *module.Run({0, weights, state, context, beside}, x);
  }
};

TEST(BatchNormTest, TrainsByTheBatchAndKeepsRunningStatistics) {
  const at::NoGradGuard no_grad;
  for (const auto& [momentum, unbiased] : {std::pair(0.1, true), std::pair(0.01, false)}) {
    SsmBlockSpec spec;
    spec.width = 6;
    spec.norm = {NormSpec::Kind::kBatch, 1e-5, momentum, unbiased};
    const SsmBlock block(spec, std::make_unique<GatedLinearUnit>("unit.", 6));
    const Drawn drawn(block, 1);
    Random random({2});
    const at::Tensor x = NormalTensor(random, {3, 7, 6}, 2, 1);
    const LayerState state;
    const at::Tensor mean = x.mean(at::IntArrayRef{0, 1}),
                     variance = (x - mean).square().mean(at::IntArrayRef{0, 1});
    const at::Tensor before_mean = drawn.weights["norm.running_mean"].clone(),
                     before_var = drawn.weights["norm.running_var"].clone();
    const at::Tensor used = drawn.Run(block, x, nullptr);
    EXPECT_TRUE(at::equal(drawn.weights["norm.running_mean"], before_mean));

    TrainingMode training{MakeGenerator(1)};
    LayerState own;
    LayerContext context;
    context.training = &training;
    at::Tensor beside;
    const at::Tensor normed = ApplyNorm(spec.norm, {0, drawn.weights, own, context, beside}, "norm", x);
    const at::Tensor exact =
        (x - mean) * at::rsqrt(variance + 1e-5) * drawn.weights["norm.weight"] + drawn.weights["norm.bias"];
    EXPECT_LE(MaxDifference(normed, exact), 1e-12);
    const double correction = unbiased ? 21.0 / 20 : 1;
    EXPECT_LE(
        MaxDifference(drawn.weights["norm.running_mean"], before_mean * (1 - momentum) + mean * momentum),
        1e-12);
    EXPECT_LE(MaxDifference(drawn.weights["norm.running_var"],
                            before_var * (1 - momentum) + variance * (momentum * correction)),
              1e-9);
    EXPECT_GT(MaxDifference(drawn.Run(block, x, nullptr), used), 1e-6);
  }
}

TEST(AttentionBlockTest, DropsInTrainingOnlyAsItsSeedSays) {
  const at::NoGradGuard no_grad;
  for (const Kind kind : {Kind::kSoftmax, Kind::kLinear, Kind::kNorm}) {
    NormalizedAttentionSpec attention;
    attention.kind = kind;
    attention.width = 8;
    attention.heads = 2;
    attention.key_rows = 6;
    attention.dropout = 0.2;
    attention.dropout_on_scores = kind == Kind::kSoftmax;
    AttentionBlockSpec spec;
    spec.width = 8;
    spec.norm.kind = NormSpec::Kind::kLayer;
    spec.dropout = 0.1;
    const AttentionBlock block(spec, std::make_unique<NormalizedAttention>("attention.", attention),
                               std::make_unique<MixedUnit>("mixer.", 8, 0.1));
    const Drawn drawn(block, 3);
    Random random({4});
    const at::Tensor x = NormalTensor(random, {2, 9, 8});
    const at::Tensor used = drawn.Run(block, x, nullptr);
    EXPECT_TRUE(at::equal(drawn.Run(block, x, nullptr), used));
    TrainingMode one{MakeGenerator(1)}, same{MakeGenerator(1)}, other{MakeGenerator(2)};
    const at::Tensor trained = drawn.Run(block, x, &one);
    EXPECT_TRUE(at::equal(drawn.Run(block, x, &same), trained));
    EXPECT_GT(MaxDifference(drawn.Run(block, x, &other), trained), 1e-3);
    EXPECT_GT(MaxDifference(trained, used), 1e-3);
  }
}

// Dropout on scores needs them as a matrix; without anything dropped it is the same attention.
TEST(NormalizedAttentionTest, TheDenseFormEqualsTheOthers) {
  const at::NoGradGuard no_grad;
  for (const Kind kind : {Kind::kSoftmax, Kind::kLinear, Kind::kNorm}) {
    NormalizedAttentionSpec spec;
    spec.kind = kind;
    spec.width = 8;
    spec.heads = 2;
    spec.key_rows = 6;
    spec.offset = true;
    spec.dropout = 1e-15;
    spec.dropout_on_scores = true;
    const NormalizedAttention attention("attention.", spec);
    const Drawn drawn(attention, 5);
    Random random({6});
    const at::Tensor x = NormalTensor(random, {2, 9, 8});
    TrainingMode training{MakeGenerator(1)};
    EXPECT_LE(MaxDifference(drawn.Run(attention, x, &training), drawn.Run(attention, x, nullptr)), 1e-12);
  }
}

}  // namespace
}  // namespace eigsvc
