#include "models/mixers/mlstm.h"

#include <cmath>
#include <utility>

#include "ATen/TensorOperators.h"
#include "ATen/core/IListRef.h"
#include "ATen/ops/cat.h"
#include "ATen/ops/log_sigmoid.h"
#include "ATen/ops/promote_types.h"
#include "ATen/ops/sigmoid.h"
#include "ATen/ops/silu.h"
#include "ATen/ops/tanh.h"
#include "ATen/ops/zeros_like.h"
#include "models/base/status_macros.h"
#include "models/layers/mlp.h"
#include "models/layers/mlstm.h"
#include "models/layers/norm.h"
#include "models/mixers/short_convolution.h"
#include "models/transition/noise_floor.h"

namespace eigsvc {
namespace {

double ForgetBias(int64_t head, int64_t heads) {
  return heads > 1 ? 3 + 3 * static_cast<double>(head) / static_cast<double>(heads - 1) : 3;
}

// A gate's logits [B,T,H], in at least float32.
at::Tensor GateLogits(const LayerCall& call, const std::string& name, const at::Tensor& x) {
  const at::Tensor& weight = call.weights[name + ".weight"];
  return Linear(x.to(weight.scalar_type()), weight, call.weights[name + ".bias"]);
}

// As the authors initialise them: weights of zero, biases of forget gates from 3 to 6.
void PlanGates(const WeightPlanner& planner, const std::string& input, const std::string& forget,
               int64_t heads, int64_t inputs, const Draw& input_bias) {
  for (const std::string& name : {input, forget}) {
    planner.Add(name + ".weight", {heads, inputs}, DrawConstant(0)).keep_float32 = true;
    WeightSpec& bias = planner.Add(name + ".bias", {heads}, input_bias);
    if (name == forget) bias.draw_tensor = DrawByIndex([heads](int64_t i) { return ForgetBias(i, heads); });
    bias.keep_float32 = true;
  }
}

absl::Status Report(const LayerCall& call, const MlstmCellSpec& spec, const at::Tensor& log_forget,
                    const at::Tensor& log_normalizer, const at::Tensor& last, const NoiseFloor& noise) {
  const int64_t multiplicity = spec.key_size * spec.value_size, position = call.state.position;
  at::Tensor log_magnitude = log_forget.detach().to(at::kDouble);
  int64_t first = position;
  if (call.context.convention.gauge != Gauge::kRaw) {
    // f_i·η_{i-1}/η_i; the first step of a sequence has none.
    const at::Tensor all = last.defined() ? at::cat({last, log_normalizer}, 1) : log_normalizer;
    const int64_t steps = all.size(1) - 1, skipped = log_normalizer.size(1) - steps;
    if (steps == 0) return absl::OkStatus();
    log_magnitude =
        log_magnitude.narrow(1, skipped, steps) + (all.narrow(1, 0, steps) - all.narrow(1, 1, steps));
    first += skipped;
  }
  Transition transition{ScalarPerUnit{log_magnitude, multiplicity}, /*constant=*/false, first};
  SetNoiseFloor(noise, transition);
  return call.Report(kMlstmMixer, UnitKind::kHead, std::move(transition));
}

}  // namespace

absl::StatusOr<at::Tensor> RunMlstm(const LayerCall& call, const std::string& name, const MlstmCellSpec& spec,
                                    const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                    const at::Tensor& input_logits, const at::Tensor& forget_logits,
                                    at::ScalarType dtype) {
  auto& kept = call.state.tensors;
  MlstmInput input;
  input.q = q / std::sqrt(static_cast<double>(spec.key_size));
  input.k = k;
  input.v = v;
  input.log_input = input_logits;
  input.log_forget = at::log_sigmoid(forget_logits);
  input.eps = spec.eps;
  input.first_unit = spec.first_unit;
  input.memory = kept[name + "memory"];
  input.unit = kept[name + "unit"];
  input.bound = kept[name + "bound"];
  const MlstmOutput output = Mlstm(input);
  kept[name + "memory"] = output.memory;
  kept[name + "unit"] = output.unit;
  kept[name + "bound"] = output.bound;
  const at::Tensor previous = kept[name + "log_normalizer"];
  kept[name + "log_normalizer"] = output.log_normalizer.narrow(1, v.size(1) - 1, 1).clone();
  if (call.Wants(kMlstmMixer)) {
    const bool raw = call.context.convention.gauge == Gauge::kRaw;
    const double noise = 2 * RoundingNoise(dtype);
    EIGSVC_RETURN_IF_ERROR(Report(call, spec, input.log_forget, output.log_normalizer, previous,
                                  raw ? noise : NoiseOfLargest(noise, output.amplification)));
  }
  return output.h;
}

MixerDescription DescribeMlstm(const MlstmCellSpec& spec) {
  return {std::string(kMlstmMixer), UnitKind::kHead, spec.heads, 1, spec.key_size * spec.value_size};
}

double MlstmOperations(const MlstmCellSpec& spec) {
  // Products inside a block of 64 steps, and the state's update and reading.
  const auto k = static_cast<double>(spec.key_size), v = static_cast<double>(spec.value_size);
  return 2 * static_cast<double>(spec.heads) * (64 * (k + v) + 2 * k * v);
}

void MlstmLayer::Plan(const WeightPlanner& planner) const {
  const MlstmCellSpec& cell = spec_.cell;
  const int64_t keys = cell.heads * cell.key_size, values = cell.heads * cell.value_size;
  if (spec_.fused) {
    planner.Linear(Name("qkv_opreact"), 2 * keys + 2 * values, spec_.width, /*bias=*/false);
    planner.Add(Name("ifgate_preact.weight"), {2 * cell.heads, spec_.width}, DrawConstant(0)).keep_float32 =
        true;
    WeightSpec& bias = planner.Add(Name("ifgate_preact.bias"), {2 * cell.heads}, nullptr);
    bias.draw_tensor = DrawByIndex(
        [heads = cell.heads](int64_t i) { return i < heads ? -10.0 : ForgetBias(i - heads, heads); });
    bias.keep_float32 = true;
  } else {
    planner.Linear(Name("q"), keys, spec_.width, /*bias=*/false);
    planner.Linear(Name("k"), keys, spec_.width, /*bias=*/false);
    planner.Linear(Name("v"), values, spec_.width, /*bias=*/false);
    planner.Linear(Name("ogate_preact"), values, spec_.width, /*bias=*/false);
    PlanGates(planner, Name("igate_preact"), Name("fgate_preact"), cell.heads, spec_.width,
              DrawConstant(-10));
  }
  planner.Add(Name("multihead_norm.weight"), {values}, DrawConstant(1));
  planner.ResidualLinear(Name("out_proj"), spec_.width, values, /*bias=*/false);
}

absl::StatusOr<at::Tensor> MlstmLayer::Run(const LayerCall& call, const at::Tensor& x) const {
  const MlstmCellSpec& cell = spec_.cell;
  const auto type = at::promote_types(x.scalar_type(), at::kFloat);
  const int64_t keys = cell.heads * cell.key_size, values = cell.heads * cell.value_size;
  std::vector<at::Tensor> parts, gates;
  if (spec_.fused) {
    parts = Linear(call, "qkv_opreact", x).split_with_sizes({keys, keys, values, values}, -1);
    gates = GateLogits(call, Name("ifgate_preact"), x).chunk(2, -1);
  } else {
    for (const char* const part : {"q", "k", "v", "ogate_preact"}) parts.push_back(Linear(call, part, x));
    for (const char* const gate : {"igate_preact", "fgate_preact"}) {
      gates.push_back(GateLogits(call, Name(gate), x));
    }
  }
  for (at::Tensor& gate : gates) gate = at::tanh(gate / spec_.gate_cap) * spec_.gate_cap;
  const auto heads = [&](int part, int64_t size) {
    return parts[part].to(type).unflatten(-1, {cell.heads, size});
  };
  EIGSVC_ASSIGN_OR_RETURN(const at::Tensor h,
                          RunMlstm(call, name(), cell, heads(0, cell.key_size), heads(1, cell.key_size),
                                   heads(2, cell.value_size), gates[0], gates[1], x.scalar_type()));
  const at::Tensor& weight = Weight(call, "multihead_norm.weight");
  const at::Tensor normed = GroupNorm(h, weight, at::zeros_like(weight), spec_.norm_eps);
  return Linear(call, "out_proj", at::sigmoid(parts[3]) * normed);
}

void MlstmBlock::Plan(const WeightPlanner& planner) const {
  const auto width = static_cast<double>(spec_.width);
  const Draw small = DrawNormal(std::sqrt(2 / (5 * width)));
  const auto linear = [&](const std::string& rest, std::vector<int64_t> shape, int64_t out,
                          const Draw& draw) {
    planner.Add(Name(rest + ".weight"), std::move(shape), draw);
    if (spec_.bias) planner.Add(Name(rest + ".bias"), {out}, DrawConstant(0));
  };
  linear("proj_up", {2 * spec_.inner, spec_.width}, 2 * spec_.inner, small);
  const int64_t block = spec_.inner / spec_.blocks;
  for (const char* const rest : {"q_proj", "k_proj", "v_proj"}) {
    linear(rest, {spec_.blocks, block, block}, spec_.inner, small);
  }
  PlanShortConvolution(planner, Name("conv1d.conv"), spec_.inner, spec_.taps, /*bias=*/true);
  PlanGates(planner, Name("mlstm_cell.igate"), Name("mlstm_cell.fgate"), spec_.cell.heads, 3 * spec_.inner,
            DrawNormal(0.1));
  planner.Add(Name("mlstm_cell.outnorm.weight"), {spec_.inner}, DrawConstant(0));
  planner.Add(Name("learnable_skip"), {spec_.inner}, DrawConstant(1));
  linear("proj_down", {spec_.width, spec_.inner}, spec_.width,
         DrawNormal(2 / static_cast<double>(spec_.depth) / std::sqrt(width)));
}

absl::StatusOr<at::Tensor> MlstmBlock::Run(const LayerCall& call, const at::Tensor& x) const {
  const auto type = at::promote_types(x.scalar_type(), at::kFloat);
  const std::vector<at::Tensor> up = Linear(call, "proj_up", x).chunk(2, -1);
  const at::Tensor convolved = ShortConvolution(call, Name("conv1d.conv"), up[0], /*silu=*/true);
  const auto projected = [&](const std::string& rest, const at::Tensor& input) {
    const at::Tensor y = HeadwiseLinear(input, Weight(call, rest + ".weight"));
    return spec_.bias ? y + Weight(call, rest + ".bias") : y;
  };
  const at::Tensor q = projected("q_proj", convolved), k = projected("k_proj", convolved),
                   v = projected("v_proj", up[0]), all = at::cat({q, k, v}, -1);
  const auto heads = [&](const at::Tensor& part) {
    return part.to(type).unflatten(-1, {spec_.cell.heads, spec_.cell.key_size});
  };
  EIGSVC_ASSIGN_OR_RETURN(const at::Tensor h,
                          RunMlstm(call, name(), spec_.cell, heads(q), heads(k), heads(v),
                                   GateLogits(call, Name("mlstm_cell.igate"), all),
                                   GateLogits(call, Name("mlstm_cell.fgate"), all), x.scalar_type()));
  const at::Tensor weight = Weight(call, "mlstm_cell.outnorm.weight") + 1;
  const at::Tensor normed = GroupNorm(h, weight, at::zeros_like(weight), 1e-5);
  return Linear(call, "proj_down", (normed + Weight(call, "learnable_skip") * convolved) * at::silu(up[1]));
}

}  // namespace eigsvc
