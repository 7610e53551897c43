#include "models/zoo/sequence_model.h"

#include <map>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "models/base/status_macros.h"
#include "models/tensor/torch_call.h"

namespace eigsvc {

void Weights::Set(absl::string_view name, at::Tensor tensor) {
  tensors_[std::string(name)] = std::move(tensor);
}
bool Weights::Has(absl::string_view name) const { return tensors_.contains(name); }
const at::Tensor& Weights::operator[](absl::string_view name) const { return tensors_.find(name)->second; }

std::vector<at::Tensor> ModelWeights::Distinct() const {
  std::vector<at::Tensor> distinct;
  std::set<const void*> seen;
  const auto add = [&](const Weights& weights) {
    for (const auto& [name, tensor] : weights.all()) {
      if (seen.insert(tensor.unsafeGetTensorImpl()).second) distinct.push_back(tensor);
    }
  };
  add(outer);
  for (const Weights& layer : layers) add(layer);
  return distinct;
}

ModelWeights ModelWeights::Clone(bool requires_grad) const {
  std::map<const void*, at::Tensor> copies;
  const auto clone = [&](const Weights& weights) {
    Weights result;
    for (const auto& [name, tensor] : weights.all()) {
      at::Tensor& copy = copies[tensor.unsafeGetTensorImpl()];
      if (!copy.defined()) copy = tensor.detach().clone().set_requires_grad(requires_grad);
      result.Set(name, copy);
    }
    return result;
  };
  ModelWeights result;
  result.outer = clone(outer);
  for (const Weights& layer : layers) result.layers.push_back(clone(layer));
  return result;
}

SequenceModel::SequenceModel(ModelDescription description, WeightPlan plan, ModelWeights weights,
                             at::ScalarType dtype)
    : description_(std::move(description)),
      plan_(std::move(plan)),
      weights_(std::move(weights)),
      dtype_(dtype) {
  description_.parameters = 0;
  for (const at::Tensor& tensor : weights_.Distinct()) description_.parameters += tensor.numel();
}

absl::StatusOr<at::Tensor> SequenceModel::Embed(const ModelWeights& weights, const at::Tensor& tokens,
                                                int64_t first_position) const {
  if (tokens.dim() != 2 || tokens.numel() == 0) {
    return absl::InvalidArgumentError("tokens must be [B,T] with at least one step");
  }
  if (description_.max_positions > 0 && first_position + tokens.size(1) > description_.max_positions) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the sequence reaches position ", first_position + tokens.size(1), " but this ", description_.family,
        " model has ", description_.max_positions, "; truncate it (--max-steps)"));
  }
  return CallTorch("embedding", [&] { return DoEmbed(weights, tokens, first_position); });
}

absl::StatusOr<at::Tensor> SequenceModel::Layer(int index, const Weights& weights, const at::Tensor& x,
                                                LayerState* state, const LayerContext& context) const {
  return CallTorch(absl::StrCat("layer ", index), [&] { return DoLayer(index, weights, x, state, context); });
}

absl::StatusOr<at::Tensor> SequenceModel::Head(const ModelWeights& weights, const at::Tensor& x) const {
  return CallTorch("head", [&] { return DoHead(weights, x); });
}

absl::StatusOr<at::Tensor> SequenceModel::Forward(const ModelWeights& weights, const at::Tensor& tokens,
                                                  const LayerContext& context) const {
  EIGSVC_ASSIGN_OR_RETURN(at::Tensor x, Embed(weights, tokens, 0));
  for (size_t i = 0; i < weights.layers.size(); ++i) {
    if (context.stop != nullptr) EIGSVC_RETURN_IF_ERROR(context.stop->Check());
    EIGSVC_ASSIGN_OR_RETURN(x, Layer(static_cast<int>(i), weights.layers[i], x, nullptr, context));
  }
  return Head(weights, x);
}

}  // namespace eigsvc
