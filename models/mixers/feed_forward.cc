#include "models/mixers/feed_forward.h"

#include <vector>

#include "ATen/TensorOperators.h"
#include "ATen/ops/elu.h"
#include "ATen/ops/gelu.h"
#include "ATen/ops/promote_types.h"
#include "ATen/ops/relu.h"
#include "ATen/ops/sigmoid.h"
#include "ATen/ops/silu.h"
#include "ATen/ops/tanh.h"
#include "absl/strings/str_cat.h"
#include "models/layers/mlp.h"

namespace eigsvc {

absl::StatusOr<Activation> ActivationOf(absl::string_view setting, absl::string_view name) {
  if (name == "silu" || name == "swish") return Activation::kSilu;
  if (name == "gelu") return Activation::kGelu;
  if (name == "gelu_new" || name == "gelu_pytorch_tanh") return Activation::kGeluTanh;
  if (name == "relu") return Activation::kRelu;
  if (name == "relu2") return Activation::kReluSquared;
  if (name == "sigmoid") return Activation::kSigmoid;
  if (name == "tanh") return Activation::kTanh;
  return absl::FailedPreconditionError(
      absl::StrCat("setting \"", setting, "\" is \"", name,
                   "\"; supported: silu, gelu, gelu_new, gelu_pytorch_tanh, relu, relu2, sigmoid, tanh"));
}

at::Tensor Activate(Activation activation, const at::Tensor& x) {
  switch (activation) {
    case Activation::kSilu:
      return at::silu(x);
    case Activation::kGelu:
      return at::gelu(x, "none");
    case Activation::kGeluTanh:
      return at::gelu(x, "tanh");
    case Activation::kRelu:
      return at::relu(x);
    case Activation::kReluSquared:
      return at::relu(x).square();
    case Activation::kSigmoid:
      return at::sigmoid(x);
    case Activation::kTanh:
      return at::tanh(x);
    case Activation::kEluPlusOne:
      return at::elu(x) + 1;
    case Activation::kIdentity:
      break;
  }
  return x;
}

void GatedFeedForward::Plan(const WeightPlanner& planner) const {
  planner.Linear(Name("gate_proj"), (spec_.fused_gate ? 2 : 1) * spec_.hidden, spec_.width, spec_.bias);
  if (!spec_.fused_gate) planner.Linear(Name("up_proj"), spec_.hidden, spec_.width, spec_.bias);
  planner.ResidualLinear(Name("down_proj"), spec_.width, spec_.hidden, spec_.bias);
  if (spec_.weighed) planner.Linear(Name("share"), 1, spec_.width, /*bias=*/false);
}

absl::StatusOr<at::Tensor> GatedFeedForward::Run(const LayerCall& call, const at::Tensor& x) const {
  const at::Tensor output = Output(call, x);
  if (!spec_.weighed) return output;
  // A product with a single row would be rounded as its weights happen to lie in memory.
  const auto wide = at::promote_types(x.scalar_type(), at::kFloat);
  const at::Tensor share = (x.to(wide) * Weight(call, "share.weight").squeeze(0)).sum(-1, /*keepdim=*/true);
  return output * at::sigmoid(share).to(output.scalar_type());
}

at::Tensor GatedFeedForward::Output(const LayerCall& call, const at::Tensor& x) const {
  if (spec_.fused_gate) {
    const std::vector<at::Tensor> halves = Linear(call, "gate_proj", x).chunk(2, -1);
    const at::Tensor gate = Activate(spec_.activation, Scaled(halves[spec_.gate_last ? 1 : 0]));
    return Linear(call, "down_proj", gate * halves[spec_.gate_last ? 0 : 1]);
  }
  if (spec_.activation == Activation::kSilu && spec_.gate_scale == 1) {
    return SwiGlu(x, {Weight(call, "gate_proj.weight"), WeightOrNone(call, "gate_proj.bias"),
                      Weight(call, "up_proj.weight"), WeightOrNone(call, "up_proj.bias"),
                      Weight(call, "down_proj.weight"), WeightOrNone(call, "down_proj.bias")});
  }
  const at::Tensor gate = Activate(spec_.activation, Scaled(Linear(call, "gate_proj", x)));
  return Linear(call, "down_proj", gate * Linear(call, "up_proj", x));
}

at::Tensor GatedFeedForward::Scaled(const at::Tensor& gate) const {
  return spec_.gate_scale == 1 ? gate : gate * spec_.gate_scale;
}

void FeedForward::Plan(const WeightPlanner& planner) const {
  planner.Linear(Name("up_proj"), spec_.hidden, spec_.width, spec_.bias);
  planner.ResidualLinear(Name("down_proj"), spec_.width, spec_.hidden, spec_.bias);
}

absl::StatusOr<at::Tensor> FeedForward::Run(const LayerCall& call, const at::Tensor& x) const {
  const at::Tensor hidden = Activate(spec_.activation, Linear(call, "up_proj", x));
  return Dropped(call, Linear(call, "down_proj", Dropped(call, hidden, spec_.dropout)), spec_.dropout);
}

}  // namespace eigsvc
