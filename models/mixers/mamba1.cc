#include "models/mixers/mamba1.h"

#include <algorithm>
#include <cmath>

#include "ATen/TensorOperators.h"
#include "ATen/core/IListRef.h"
#include "ATen/ops/cat.h"
#include "ATen/ops/exp.h"
#include "ATen/ops/linear.h"
#include "ATen/ops/ones.h"
#include "ATen/ops/promote_types.h"
#include "ATen/ops/silu.h"
#include "ATen/ops/softplus.h"
#include "models/base/status_macros.h"
#include "models/layers/norm.h"
#include "models/mixers/short_convolution.h"
#include "models/transition/noise_floor.h"

namespace eigsvc {
namespace {

// Steps whose [B,t,channels,N] are made at once, in a handful of tensors: on a CPU few enough to stay in its
// caches, on a device enough to fill it. A scan in one pass makes none: what is reported may be made one.
int64_t StretchSteps(const SelectiveScanInput& input, bool reported) {
  const bool one_pass = ScansInOnePass(input);
  if (one_pass && !reported) return input.x.size(1);
  const int64_t elements = input.x.size(0) * input.a.numel();
  if (one_pass) return std::max<int64_t>((int64_t{1} << 26) / elements, 8);
  return std::clamp<int64_t>((input.x.is_cpu() ? int64_t{1} << 19 : int64_t{1} << 25) / elements, 8, 1024);
}

}  // namespace

void Mamba1::Plan(const WeightPlanner& planner) const {
  // The initial values of the reference (state-spaces/mamba, modules/mamba_simple.py).
  const double out_bound =
      1 / std::sqrt(static_cast<double>(spec_.channels) * static_cast<double>(spec_.depth));
  const double step_bound = 1 / std::sqrt(static_cast<double>(spec_.rank));
  planner.Add(Name("in_proj.weight"), {2 * spec_.channels, spec_.width}, DrawLinear(spec_.width));
  if (spec_.projection_bias) planner.Add(Name("in_proj.bias"), {2 * spec_.channels}, DrawConstant(0));
  PlanShortConvolution(planner, Name("conv1d"), spec_.channels, spec_.taps, spec_.conv_bias);
  planner.Add(Name("x_proj.weight"), {spec_.rank + 2 * spec_.order, spec_.channels},
              DrawLinear(spec_.channels));
  if (spec_.inner_norm == Mamba1Spec::InnerNorm::kWeighted) {
    planner.Add(Name("dt_layernorm.weight"), {spec_.rank}, DrawConstant(1));
    planner.Add(Name("b_layernorm.weight"), {spec_.order}, DrawConstant(1));
    planner.Add(Name("c_layernorm.weight"), {spec_.order}, DrawConstant(1));
  }
  planner.Add(Name("dt_proj.weight"), {spec_.channels, spec_.rank}, DrawUniform(-step_bound, step_bound));
  planner.Add(Name("dt_proj.bias"), {spec_.channels}, DrawStepBias(0.001, 0.1)).keep_float32 = true;
  WeightSpec& a_log = planner.Add(Name("A_log"), {spec_.channels, spec_.order}, nullptr);
  a_log.keep_float32 = true;
  a_log.decays = false;
  a_log.draw_tensor = DrawByIndex(
      [order = spec_.order](int64_t i) { return std::log(1.0 + static_cast<double>(i % order)); });
  planner.Add(Name("D"), {spec_.channels}, DrawConstant(1)).keep_float32 = true;
  planner.Add(Name("out_proj.weight"), {spec_.width, spec_.channels}, DrawUniform(-out_bound, out_bound));
  if (spec_.projection_bias) planner.Add(Name("out_proj.bias"), {spec_.width}, DrawConstant(0));
}

absl::StatusOr<at::Tensor> Mamba1::Run(const LayerCall& call, const at::Tensor& x) const {
  const std::vector<at::Tensor> parts = Linear(call, "in_proj", x).chunk(2, -1);
  EIGSVC_ASSIGN_OR_RETURN(const at::Tensor y,
                          Scan(call, Selected(call, parts[0]), RoundingNoise(parts[0].scalar_type())));
  return Linear(call, "out_proj", (y * at::silu(parts[1].to(y.scalar_type()))).to(x.scalar_type()));
}

SelectiveScanInput Mamba1::Selected(const LayerCall& call, const at::Tensor& x) const {
  const auto type = at::promote_types(x.scalar_type(), at::kFloat);
  SelectiveScanInput inputs;
  inputs.x = ShortConvolution(call, Name("conv1d"), x.to(type), /*silu=*/true);
  const std::vector<at::Tensor> parts = Linear(call, "x_proj", inputs.x.to(x.scalar_type()))
                                            .split_with_sizes({spec_.rank, spec_.order, spec_.order}, -1);
  const auto normed = [&](const at::Tensor& part, absl::string_view name) {
    switch (spec_.inner_norm) {
      case Mamba1Spec::InnerNorm::kNone:
        break;
      case Mamba1Spec::InnerNorm::kPlain:
        return RmsNorm(part, at::ones({1}, part.options()), spec_.inner_norm_eps);
      case Mamba1Spec::InnerNorm::kWeighted:
        return RmsNorm(part, Weight(call, name), spec_.inner_norm_eps);
    }
    return part;
  };
  const at::Tensor steps =
      at::linear(normed(parts[0], "dt_layernorm.weight"), Weight(call, "dt_proj.weight")).to(type);
  inputs.dt = at::softplus(steps + Weight(call, "dt_proj.bias"), 1, 20);
  inputs.b = normed(parts[1], "b_layernorm.weight").to(type);
  inputs.c = normed(parts[2], "c_layernorm.weight").to(type);
  inputs.a = -at::exp(Weight(call, "A_log"));
  inputs.d = Weight(call, "D");
  return inputs;
}

absl::StatusOr<at::Tensor> Mamba1::Scan(const LayerCall& call, const SelectiveScanInput& inputs,
                                        double noise_floor) const {
  const bool asked = call.Wants(kMamba1Mixer);
  const int64_t steps = inputs.x.size(1), stretch = StretchSteps(inputs, asked);
  at::Tensor& state = State(call, "ssm");  // [B,channels,N]
  std::vector<at::Tensor> outputs;
  for (int64_t begin = 0; begin < steps; begin += stretch) {
    SelectiveScanInput part = inputs;
    for (at::Tensor* tensor : {&part.x, &part.dt, &part.b, &part.c})
      *tensor = tensor->narrow(1, begin, std::min(stretch, steps - begin));
    if (asked) {
      Transition transition;
      transition.kind = Diagonal{.values = part.dt.detach().unsqueeze(-1),
                                 .discretization = Discretization::kExp,
                                 .factors = part.a.detach()};
      transition.first_step = call.state.position + begin;
      transition.noise_floor = noise_floor;
      EIGSVC_RETURN_IF_ERROR(call.Report(kMamba1Mixer, UnitKind::kChannel, std::move(transition)));
    }
    outputs.push_back(SelectiveScan(part, state));
  }
  return outputs.size() == 1 ? outputs[0] : at::cat(outputs, 1);
}

std::vector<MixerDescription> Mamba1::Mixers() const {
  return {{std::string(kMamba1Mixer), UnitKind::kChannel, spec_.channels, spec_.order, 1, false,
           TransitionForm::kDiagonal}};
}

// Each element of the states goes through an exponential and a few passes of memory.
double Mamba1::ExtraOperations() const {
  return 150 * static_cast<double>(spec_.channels) * static_cast<double>(spec_.order);
}

}  // namespace eigsvc
