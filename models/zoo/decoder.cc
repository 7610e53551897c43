#include "models/zoo/decoder.h"

#include <algorithm>
#include <utility>

#include "ATen/TensorOperators.h"
#include "ATen/core/IListRef.h"
#include "ATen/core/grad_mode.h"
#include "ATen/ops/cat.h"
#include "ATen/ops/embedding.h"
#include "ATen/ops/tanh.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "models/base/status_macros.h"
#include "models/layers/mlp.h"
#include "models/zoo/weight_loader.h"

namespace eigsvc {
namespace {

WeightPlan DecoderPlan(const DecoderSpec& spec) {
  WeightPlan plan;
  const int64_t width = spec.description.width, vocabulary = spec.description.vocab_size;
  const Draw draw = DrawNormal(spec.draw_deviation);
  const KeyMap outer_keys = {{"embedding", spec.embedding_key},
                             {"positions", spec.positions_key},
                             {"embedding_norm", spec.embedding_norm_key},
                             {"norm", spec.norm_key},
                             {"head", spec.head_key}};
  const WeightPlanner outer(plan, WeightSpec::kOuter, "", outer_keys, draw);
  outer.Linear("embedding", vocabulary, width, /*bias=*/false);
  if (!spec.positions_key.empty()) {
    outer.Linear("positions", spec.description.max_positions, width, /*bias=*/false);
  }
  if (!spec.embedding_norm_key.empty()) PlanNorm(outer, "embedding_norm", spec.norm, width);
  const int64_t head_width = spec.head_width > 0 ? spec.head_width : width;
  if (!spec.norm_key.empty()) PlanNorm(outer, "norm", spec.norm, head_width);
  outer.Linear("head", vocabulary, head_width, spec.head_bias);
  if (spec.tied) (spec.head_bias ? plan[plan.size() - 2] : plan.back()).tied_to = "embedding.weight";
  if (spec.plan_shared) spec.plan_shared(outer);

  LinearStyle style{draw, nullptr, spec.transposed_projections};
  if (spec.residual_draw_deviation > 0) style.residual_draw = DrawNormal(spec.residual_draw_deviation);
  for (size_t layer = 0; layer < spec.layers.size(); ++layer) {
    const std::string number = absl::StrCat(spec.first_layer + layer);
    const std::string prefix = absl::StrReplaceAll(spec.layer_prefix, {{"#", number}});
    KeyMap keys = spec.layer_keys;
    for (auto& [canonical, stored] : keys) stored = absl::StrReplaceAll(stored, {{"#", number}});
    const WeightPlanner planner(plan, static_cast<int>(layer), prefix, keys, style);
    std::string last_norm;  // branches side by side may share one
    for (const Sublayer& sublayer : spec.layers[layer]) {
      for (const Branch& branch : sublayer.branches) {
        if (!branch.norm.empty() && branch.norm != last_norm)
          PlanNorm(planner, branch.norm, spec.norm, width);
        last_norm = branch.norm;
        branch.module->Plan(planner);
      }
      if (!sublayer.post_norm.empty()) PlanNorm(planner, sublayer.post_norm, spec.norm, width);
    }
  }
  if (spec.adjust) std::for_each(plan.begin(), plan.end(), spec.adjust);
  return plan;
}

ModelDescription Described(const DecoderSpec& spec) {
  ModelDescription description = spec.description;
  description.layers = static_cast<int64_t>(spec.layers.size());
  description.mixers.clear();
  for (const std::vector<Sublayer>& layer : spec.layers) {
    std::vector<MixerDescription>& mixers = description.mixers.emplace_back();
    for (const Sublayer& sublayer : layer) {
      for (const Branch& branch : sublayer.branches) {
        for (MixerDescription& mixer : branch.module->Mixers()) mixers.push_back(std::move(mixer));
      }
    }
  }
  return description;
}

// x + update, in the update's own buffer where nothing else needs it: one large buffer less to fault in.
at::Tensor AddedTo(const at::Tensor& x, const at::Tensor& update) {
  const bool recorded = at::GradMode::is_enabled() && (x.requires_grad() || update.requires_grad());
  return recorded || x.scalar_type() != update.scalar_type() ? x + update : update.add_(x);
}

class Decoder final : public SequenceModel {
 public:
  Decoder(DecoderSpec spec, WeightPlan plan, ModelWeights weights, at::ScalarType dtype)
      : SequenceModel(Described(spec), std::move(plan), std::move(weights), dtype), spec_(std::move(spec)) {
    for (const std::vector<Sublayer>& layer : spec_.layers) {
      for (const Sublayer& sublayer : layer) {
        double extra = 0;
        for (const Branch& branch : sublayer.branches) extra += branch.module->ExtraOperations();
        most_extra_ = std::max(most_extra_, extra);
      }
    }
  }

 private:
  // Of x in [x | what layers hand on]; where the layers change its width, they hand on nothing.
  int64_t WidthOf(const at::Tensor& carried) const {
    return spec_.head_width > 0 ? carried.size(-1) : description().width;
  }

  at::Tensor DoEmbed(const ModelWeights& weights, const at::Tensor& tokens,
                     int64_t first_position) const override {
    at::Tensor x = at::embedding(weights.outer["embedding.weight"], tokens);
    if (spec_.embedding_scale != 1) x = x * spec_.embedding_scale;
    if (!spec_.positions_key.empty()) {
      x = x + weights.outer["positions.weight"].narrow(0, first_position, tokens.size(1));
    }
    if (!spec_.embedding_norm_key.empty()) x = ApplyNorm(spec_.norm, weights.outer, "embedding_norm", x);
    return spec_.carries_embedding ? at::cat({x, x}, -1) : x;
  }

  absl::StatusOr<at::Tensor> DoLayer(int index, const Weights& weights, const at::Tensor& input,
                                     LayerState& state, const LayerContext& context) const override {
    const int64_t width = WidthOf(input), extra = input.size(-1) - width;
    at::Tensor x = input.narrow(-1, 0, width), beside;
    if (extra > 0) beside = input.narrow(-1, width, extra);
    const LayerCall call{index, weights, state, context, beside};
    for (const Sublayer& sublayer : spec_.layers[index]) {
      at::Tensor sum, normed;
      std::string last_norm;
      for (const Branch& branch : sublayer.branches) {
        if (branch.norm.empty()) {
          normed = x.to(dtype());
        } else if (branch.norm != last_norm) {
          normed = ApplyNorm(spec_.norm, weights, branch.norm, x);
        }
        last_norm = branch.norm;
        at::Tensor scaled = branch.input_scale == 1 ? normed : normed * branch.input_scale;
        if (branch.takes_embedding) scaled = at::cat({scaled, beside.to(scaled.scalar_type())}, -1);
        EIGSVC_ASSIGN_OR_RETURN(at::Tensor output, branch.module->Run(call, scaled));
        if (branch.output_scale != 1) output = output * branch.output_scale;
        sum = sum.defined() ? AddedTo(sum, output) : output;
      }
      if (!sublayer.post_norm.empty()) sum = ApplyNorm(spec_.norm, weights, sublayer.post_norm, sum);
      if (spec_.residual_in_float32 && dtype() != at::kDouble) x = x.to(at::kFloat);
      x = sublayer.residual ? AddedTo(x, sum) : sum;
      if (sublayer.output_scale != 1) x = x * sublayer.output_scale;
    }
    return beside.defined() ? at::cat({x, beside.to(x.scalar_type())}, -1) : x;
  }

  int64_t StepsPerPiece(const Weights& weights, const at::Tensor& x) const override {
    double per_step = most_extra_;
    for (const auto& [name, tensor] : weights.all()) per_step += 2.0 * static_cast<double>(tensor.numel());
    return PieceSteps(per_step, x);
  }

  at::Tensor DoHead(const ModelWeights& weights, const at::Tensor& output) const override {
    const at::Tensor x = output.narrow(-1, 0, WidthOf(output));
    const at::Tensor normed =
        spec_.norm_key.empty() ? x.to(dtype()) : ApplyNorm(spec_.norm, weights.outer, "norm", x);
    at::Tensor logits = Linear(normed, weights.outer["head.weight"],
                               spec_.head_bias ? weights.outer["head.bias"] : at::Tensor());
    if (spec_.logits_scale != 1) logits = logits * spec_.logits_scale;
    if (spec_.logits_cap > 0) logits = at::tanh(logits / spec_.logits_cap) * spec_.logits_cap;
    return logits;
  }

  const DecoderSpec spec_;
  double most_extra_ = 0;
};

}  // namespace

std::vector<Sublayer> MixerAndNetwork(Branch mixer, Branch network) {
  std::vector<Sublayer> layer(2);
  layer[0].branches.push_back(std::move(mixer));
  layer[1].branches.push_back(std::move(network));
  return layer;
}

absl::StatusOr<std::shared_ptr<const SequenceModel>> LoadDecoder(DecoderSpec spec, const Archive& archive,
                                                                 const LoadOptions& options) {
  WeightPlan plan = DecoderPlan(spec);
  EIGSVC_ASSIGN_OR_RETURN(ModelWeights weights,
                          LoadWeights(archive, plan, spec.ignored_keys, spec.description.settings, options));
  return std::make_shared<Decoder>(std::move(spec), std::move(plan), std::move(weights), options.dtype);
}

absl::StatusOr<std::shared_ptr<const SequenceModel>> InitializeDecoder(DecoderSpec spec, uint64_t seed,
                                                                       const LoadOptions& options) {
  WeightPlan plan = DecoderPlan(spec);
  EIGSVC_ASSIGN_OR_RETURN(ModelWeights weights,
                          InitializeWeights(plan, spec.description.settings, seed, options));
  return std::make_shared<Decoder>(std::move(spec), std::move(plan), std::move(weights), options.dtype);
}

}  // namespace eigsvc
