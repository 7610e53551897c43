#include "models/zoo/stack.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "ATen/TensorOperators.h"
#include "ATen/ops/arange.h"
#include "ATen/ops/embedding.h"
#include "ATen/ops/relu.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "models/base/status_macros.h"
#include "models/layers/mlp.h"
#include "models/zoo/weight_loader.h"

namespace eigsvc {
namespace {

constexpr const char* kPoolingNames[] = {"none", "mean", "max", "sum", "cls", "last"};

WeightPlan StackPlan(const StackSpec& spec) {
  WeightPlan plan;
  const ModelDescription& description = spec.description;
  const WeightPlanner outer(plan, WeightSpec::kOuter, "", spec.outer_keys, spec.linear);
  if (spec.encoder == StackSpec::Encoder::kEmbedding) {
    outer.Add("embedding.weight", {description.vocab_size, description.width}, DrawNormal(1));
    if (spec.positions > 0) {
      outer.Add("positions.weight", {spec.positions, description.width}, DrawNormal(1));
    }
  } else {
    outer.Linear("encoder", description.width, description.channels, true);
  }
  if (spec.norm) PlanNorm(outer, "norm", *spec.norm, description.width);
  const int64_t hidden = spec.classifier_width;
  if (hidden > 0) outer.Linear("hidden", hidden, description.width, true);
  outer.Linear("head", description.classes, hidden > 0 ? hidden : description.width, spec.head_bias);
  for (size_t layer = 0; layer < spec.layers.size(); ++layer) {
    const auto numbered = [&](const std::string& text) {
      return absl::StrReplaceAll(text, {{"#", absl::StrCat(layer)}});
    };
    KeyMap keys = spec.layer_keys;
    for (auto& [canonical, key] : keys) key = numbered(key);
    spec.layers[layer]->Plan(
        WeightPlanner(plan, static_cast<int>(layer), numbered(spec.layer_prefix), keys, spec.linear));
  }
  return plan;
}

ModelDescription Described(const StackSpec& spec) {
  ModelDescription description = spec.description;
  description.layers = static_cast<int64_t>(spec.layers.size());
  if (spec.pooling != Pooling::kNone) description.pooling = PoolingName(spec.pooling);
  for (const std::unique_ptr<const Module>& layer : spec.layers) {
    description.mixers.push_back(layer->Mixers());
  }
  return description;
}

class Stack final : public SequenceModel {
 public:
  Stack(StackSpec spec, WeightPlan plan, ModelWeights weights, at::ScalarType dtype)
      : SequenceModel(Described(spec), std::move(plan), std::move(weights), dtype), spec_(std::move(spec)) {}

 private:
  at::Tensor DoEmbed(const ModelWeights& weights, const at::Tensor& inputs,
                     int64_t first_position) const override {
    if (spec_.encoder == StackSpec::Encoder::kEmbedding) {
      const at::Tensor words = at::embedding(weights.outer["embedding.weight"], inputs);
      if (spec_.positions == 0) return words;
      return words + weights.outer["positions.weight"].narrow(0, first_position, inputs.size(1));
    }
    const at::Tensor& weight = weights.outer["encoder.weight"];
    const at::Tensor& bias = weights.outer["encoder.bias"];
    // A one-hot vector picks a column.
    if (inputs.scalar_type() == at::kLong) return at::embedding(weight.t(), inputs) + bias;
    return Linear(inputs.to(weight.scalar_type()), weight, bias);
  }

  absl::StatusOr<at::Tensor> DoLayer(int index, const Weights& weights, const at::Tensor& x,
                                     LayerState& state, const LayerContext& context) const override {
    at::Tensor beside;
    return spec_.layers[index]->Run({index, weights, state, context, beside}, x);
  }

  int64_t StepsPerPiece(const Weights& weights, const at::Tensor& x) const override {
    double per_step = 0;
    for (const std::unique_ptr<const Module>& layer : spec_.layers) {
      per_step = std::max(per_step, layer->ExtraOperations());
    }
    for (const auto& [name, tensor] : weights.all()) per_step += 2.0 * static_cast<double>(tensor.numel());
    return PieceSteps(per_step, x);
  }

  at::Tensor Normed(const ModelWeights& weights, const at::Tensor& x) const {
    return spec_.norm ? ApplyNorm(*spec_.norm, weights.outer, "norm", x) : x;
  }

  at::Tensor DoPool(const ModelWeights& weights, const at::Tensor& x,
                    const at::Tensor& lengths) const override {
    if (spec_.pooling == Pooling::kNone || spec_.pooling == Pooling::kLast) {
      const at::Tensor last = SequenceModel::DoPool(weights, x, lengths);
      return spec_.pooling == Pooling::kLast ? Normed(weights, last) : last;
    }
    if (spec_.pooling == Pooling::kFirst) return Normed(weights, x.narrow(1, 0, 1));
    const at::Tensor normed = Normed(weights, x);
    const at::Tensor padding =
        (at::arange(x.size(1), lengths.options()) >= lengths.unsqueeze(-1)).unsqueeze(-1);  // [B,T,1]
    if (spec_.pooling == Pooling::kMax) {
      return normed.masked_fill(padding, -std::numeric_limits<double>::infinity()).amax(1, /*keepdim=*/true);
    }
    const at::Tensor sum = normed.masked_fill(padding, 0).sum(1, /*keepdim=*/true);
    return spec_.pooling == Pooling::kSum ? sum : sum / lengths.view({-1, 1, 1});
  }

  at::Tensor DoHead(const ModelWeights& weights, const at::Tensor& x) const override {
    const auto linear = [&](const std::string& name, bool bias, const at::Tensor& input) {
      return Linear(input, weights.outer[name + ".weight"],
                    bias ? weights.outer[name + ".bias"] : at::Tensor());
    };
    at::Tensor hidden = spec_.pooling == Pooling::kNone ? Normed(weights, x) : x;
    if (spec_.classifier_width > 0) hidden = at::relu(linear("hidden", true, hidden));
    return linear("head", spec_.head_bias, hidden);
  }

  const StackSpec spec_;
};

}  // namespace

std::string PoolingName(Pooling pooling) { return kPoolingNames[static_cast<int>(pooling)]; }

absl::StatusOr<Pooling> PoolingOf(const std::string& name, const std::vector<Pooling>& supported) {
  std::vector<std::string> names;
  for (const Pooling pooling : supported) {
    names.push_back(PoolingName(pooling));
    if (names.back() == name) return pooling;
  }
  return absl::FailedPreconditionError(
      absl::StrCat("setting \"pooling\" is \"", name, "\"; supported: ", absl::StrJoin(names, ", ")));
}

absl::StatusOr<std::shared_ptr<const SequenceModel>> LoadStack(StackSpec spec, const Archive& archive,
                                                               const LoadOptions& options) {
  WeightPlan plan = StackPlan(spec);
  EIGSVC_ASSIGN_OR_RETURN(ModelWeights weights,
                          LoadWeights(archive, plan, spec.ignored_keys, spec.description.settings, options));
  return std::make_shared<Stack>(std::move(spec), std::move(plan), std::move(weights), options.dtype);
}

absl::StatusOr<std::shared_ptr<const SequenceModel>> InitializeStack(StackSpec spec, uint64_t seed,
                                                                     const LoadOptions& options) {
  WeightPlan plan = StackPlan(spec);
  EIGSVC_ASSIGN_OR_RETURN(ModelWeights weights,
                          InitializeWeights(plan, spec.description.settings, seed, options));
  return std::make_shared<Stack>(std::move(spec), std::move(plan), std::move(weights), options.dtype);
}

}  // namespace eigsvc
