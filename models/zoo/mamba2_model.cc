#include "models/zoo/mamba2_model.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "ATen/TensorOperators.h"
#include "ATen/core/IListRef.h"
#include "ATen/ops/addcmul.h"
#include "ATen/ops/cat.h"
#include "ATen/ops/clamp.h"
#include "ATen/ops/exp.h"
#include "ATen/ops/promote_types.h"
#include "ATen/ops/silu.h"
#include "ATen/ops/softplus.h"
#include "models/base/status_macros.h"
#include "models/layers/conv1d.h"
#include "models/layers/ssd.h"
#include "models/mixers/mamba2.h"
#include "models/transition/noise_floor.h"

namespace eigsvc {
namespace {

at::Tensor JoinSteps(const std::vector<at::Tensor>& parts) {
  return parts.size() == 1 ? parts[0] : at::cat(parts, 1);
}

}  // namespace

Mamba2Model::SsmOutput Mamba2Model::RunSsm(const Weights& weights, const at::Tensor& xbc,
                                           const at::Tensor& dt_raw, LayerState& state) const {
  const auto type = at::promote_types(xbc.scalar_type(), at::kFloat);
  at::Tensor mixed = xbc.to(type);
  if (shape_.taps > 0) {
    const at::Tensor bias = weights.Has("conv1d.bias") ? weights["conv1d.bias"].to(type) : at::Tensor();
    at::Tensor& tail = state.tensors["conv"];
    CausalConv1dOutput convolved = CausalConv1d(mixed, weights["conv1d.weight"].to(type), bias, tail);
    mixed = at::silu(convolved.output);
    tail = convolved.tail;
  }
  at::Tensor dt = at::softplus(dt_raw.to(type) + weights["dt_bias"], 1, 20);
  if (shape_.dt_min > 0 || std::isfinite(shape_.dt_max)) dt = at::clamp(dt, shape_.dt_min, shape_.dt_max);
  const at::Tensor log_decay = dt * -at::exp(weights["A_log"]);

  const std::vector<at::Tensor> parts = mixed.split_with_sizes(
      {shape_.inner(), shape_.groups * shape_.order, shape_.groups * shape_.order}, -1);
  const at::Tensor x = parts[0].unflatten(-1, {shape_.heads, shape_.head_width});
  at::Tensor& carried = state.tensors["ssm"];
  if (!carried.defined() && weights.Has("init_states")) {
    carried = weights["init_states"].to(type).expand({x.size(0), -1, -1, -1});
  }
  const SsdOutput scanned = Ssd({x, dt, log_decay, parts[1].unflatten(-1, {shape_.groups, shape_.order}),
                                 parts[2].unflatten(-1, {shape_.groups, shape_.order}), carried});
  carried = scanned.final_state;
  const at::Tensor skip =
      weights["D"].view({shape_.heads, -1});  // [H,1], or [H,P] where each channel has its own
  return {at::addcmul(scanned.y, x, skip).flatten(-2), log_decay};
}

int64_t Mamba2Model::SegmentSteps(const Weights& weights, const at::Tensor& x) const {
  // Operations between two looks at the stop token: well under 100 ms on two cores, or on a device that is
  // 100 times faster. It also bounds what a segment allocates.
  const double budget = x.is_cpu() ? 6e9 : 6e11;
  double per_step = 2.0 * shape_.inner() * (2 * shape_.order + kSsdBlock);
  for (const auto& [name, tensor] : weights.all()) per_step += 2.0 * tensor.numel();
  // The passes over each element of the decay matrix and of the channels cost as much as some 300 operations
  // of a matrix product (measured on a CPU).
  per_step += 300.0 * (shape_.heads * kSsdBlock + shape_.inner() + shape_.conv_rows());
  const auto blocks = static_cast<int64_t>(budget / (per_step * x.size(0) * kSsdBlock));
  return std::max<int64_t>(blocks, 1) * kSsdBlock;
}

absl::StatusOr<at::Tensor> Mamba2Model::DoLayer(int index, const Weights& weights, const at::Tensor& x,
                                                LayerState& carried, const LayerContext& context) const {
  const bool wanted = context.tap != nullptr && context.tap->Wants(index, kMamba2Mixer);
  const int64_t steps = x.size(1), segment = SegmentSteps(weights, x);
  std::vector<at::Tensor> outputs, decays;
  for (int64_t begin = 0; begin < steps; begin += segment) {
    if (context.stop != nullptr) EIGSVC_RETURN_IF_ERROR(context.stop->Check());
    SegmentOutput output = Segment(weights, x.narrow(1, begin, std::min(segment, steps - begin)), carried);
    outputs.push_back(std::move(output.x));
    if (wanted) decays.push_back(output.log_decay.detach());
  }
  if (wanted) {
    Transition transition;
    transition.kind = ScalarPerUnit{JoinSteps(decays), shape_.head_width * shape_.order};
    transition.first_step = carried.position;
    transition.noise_floor = RoundingNoise(dtype());
    EIGSVC_RETURN_IF_ERROR(
        context.tap->OnTransition(index, kMamba2Mixer, UnitKind::kHead, std::move(transition)));
  }
  return JoinSteps(outputs);
}

void PlanSsm(const SsmShape& shape, int layer, const std::string& prefix, bool conv_bias, int64_t skip_size,
             WeightPlan& plan) {
  const auto add = [&](const std::string& name, std::vector<int64_t> size, Draw draw, bool keep_float32) {
    plan.push_back({layer, name, prefix + name, std::move(size), std::move(draw), false, keep_float32, ""});
  };
  // Initial values of the reference (state-spaces/mamba, modules/mamba2.py): A uniform in [1,16], Δ
  // log-uniform in [0.001, 0.1] through the inverse of softplus.
  const Draw a_log = [](Random& random) { return std::log(1 + 15 * random.Unit()); };
  const Draw dt_bias = [](Random& random) {
    const double dt = std::exp(std::log(0.001) + random.Unit() * (std::log(0.1) - std::log(0.001)));
    return dt + std::log(-std::expm1(-dt));
  };
  add("A_log", {shape.heads}, a_log, true);
  add("D", {skip_size}, DrawConstant(1), true);
  add("dt_bias", {shape.heads}, dt_bias, true);
  if (shape.taps > 0) {
    add("conv1d.weight", {shape.conv_rows(), 1, shape.taps}, DrawLinear(shape.taps), false);
    if (conv_bias) add("conv1d.bias", {shape.conv_rows()}, DrawLinear(shape.taps), false);
  }
}

void DescribeSsm(const SsmShape& shape, int64_t layers, ModelDescription& description) {
  description.layers = layers;
  description.mixers.assign(
      layers, {{std::string(kMamba2Mixer), UnitKind::kHead, shape.heads, 1, shape.head_width * shape.order}});
}

}  // namespace eigsvc
