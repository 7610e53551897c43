#include "models/zoo/sequence_model.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "ATen/TensorOperators.h"
#include "ATen/core/IListRef.h"
#include "ATen/ops/cat.h"
#include "ATen/ops/full.h"
#include "absl/strings/str_cat.h"
#include "models/base/status_macros.h"
#include "models/tensor/torch_call.h"

namespace eigsvc {

int64_t PieceSteps(double operations_per_step, const at::Tensor& x) {
  // Two cores, or a device at 40 TFLOP/s in float32 and at 400 in 16 bits.
  const double budget = x.is_cpu() ? 3e9 : x.element_size() > 2 ? 2e12 : 2e13;
  const double steps = budget / (operations_per_step * static_cast<double>(x.size(0)) + 1);
  return static_cast<int64_t>(std::clamp(steps, 64.0, static_cast<double>(std::max<int64_t>(x.size(1), 64))));
}

SequenceModel::SequenceModel(ModelDescription description, WeightPlan plan, ModelWeights weights,
                             at::ScalarType dtype)
    : description_(std::move(description)),
      plan_(std::move(plan)),
      weights_(std::move(weights)),
      dtype_(dtype) {
  description_.parameters = ParameterCount(plan_);
  if (description_.classes == 0) description_.classes = description_.vocab_size;
}

absl::StatusOr<at::Tensor> SequenceModel::Embed(const ModelWeights& weights, const at::Tensor& inputs,
                                                int64_t first_position) const {
  const bool tokens = inputs.scalar_type() == at::kLong;
  if (inputs.dim() != (tokens ? 2 : 3) || inputs.numel() == 0) {
    return absl::InvalidArgumentError(
        "inputs must be tokens [B,T] or real numbers [B,T,channels] with at least one step");
  }
  if (tokens && description_.vocab_size == 0) {
    return absl::InvalidArgumentError(absl::StrCat("this ", description_.family, " model takes ",
                                                   description_.channels,
                                                   " real numbers a step, not tokens"));
  }
  if (!tokens && inputs.size(2) != description_.channels) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the inputs have ", inputs.size(2), " real numbers a step; this ", description_.family,
        " model takes ", description_.channels > 0 ? absl::StrCat(description_.channels) : "tokens"));
  }
  if (description_.max_positions > 0 && first_position + inputs.size(1) > description_.max_positions) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the sequence reaches position ", first_position + inputs.size(1), " but this ", description_.family,
        " model has ", description_.max_positions, "; truncate it (--max-steps)"));
  }
  return CallTorch("embedding", [&] { return DoEmbed(weights, inputs, first_position); });
}

absl::StatusOr<at::Tensor> SequenceModel::Layer(int index, const Weights& weights, const at::Tensor& x,
                                                LayerState* state, const LayerContext& context) const {
  return CallTorch(absl::StrCat("layer ", index), [&]() -> absl::StatusOr<at::Tensor> {
    LayerState own;
    LayerState& carried = state != nullptr ? *state : own;
    const int64_t steps = x.size(1), piece = context.stop != nullptr && context.training == nullptr
                                                 ? StepsPerPiece(weights, x)
                                                 : steps;
    carried.length = std::max(carried.length, carried.position + steps);
    std::vector<at::Tensor> outputs;
    for (int64_t begin = 0; begin < steps; begin += piece) {
      if (context.stop != nullptr) EIGSVC_RETURN_IF_ERROR(context.stop->Check());
      const int64_t length = std::min(piece, steps - begin);
      EIGSVC_ASSIGN_OR_RETURN(at::Tensor output,
                              DoLayer(index, weights, x.narrow(1, begin, length), carried, context));
      outputs.push_back(std::move(output));
      carried.position += length;
    }
    return outputs.size() == 1 ? outputs[0] : at::cat(outputs, 1);
  });
}

int64_t SequenceModel::StepsPerPiece(const Weights&, const at::Tensor& x) const { return x.size(1); }

absl::StatusOr<at::Tensor> SequenceModel::Pool(const ModelWeights& weights, const at::Tensor& x,
                                               const at::Tensor& lengths) const {
  return CallTorch("pooling", [&] { return DoPool(weights, x, lengths); });
}

at::Tensor SequenceModel::DoPool(const ModelWeights&, const at::Tensor& x, const at::Tensor& lengths) const {
  return x.gather(1, (lengths - 1).view({-1, 1, 1}).expand({-1, 1, x.size(2)}));
}

absl::StatusOr<at::Tensor> SequenceModel::Head(const ModelWeights& weights, const at::Tensor& x) const {
  return CallTorch("head", [&] { return DoHead(weights, x); });
}

absl::StatusOr<at::Tensor> SequenceModel::Forward(const ModelWeights& weights, const at::Tensor& inputs,
                                                  const LayerContext& context) const {
  EIGSVC_ASSIGN_OR_RETURN(at::Tensor x, Embed(weights, inputs, 0));
  for (int i = 0; i < static_cast<int>(weights.layers.size()); ++i) {
    if (context.stop != nullptr) EIGSVC_RETURN_IF_ERROR(context.stop->Check());
    EIGSVC_ASSIGN_OR_RETURN(const Weights layer, weights.Layer(i));
    EIGSVC_ASSIGN_OR_RETURN(x, Layer(i, layer, x, nullptr, context));
  }
  if (!description_.pooling.empty()) {
    EIGSVC_ASSIGN_OR_RETURN(const at::Tensor lengths, CallTorch("lengths", [&] {
                              return at::full({x.size(0)}, x.size(1), x.options().dtype(at::kLong));
                            }));
    EIGSVC_ASSIGN_OR_RETURN(x, Pool(weights, x, lengths));
  }
  return Head(weights, x);
}

}  // namespace eigsvc
