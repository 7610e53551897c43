#include "models/mixers/griffin.h"

#include <cmath>

#include "ATen/TensorOperators.h"
#include "ATen/core/IListRef.h"
#include "ATen/ops/cat.h"
#include "ATen/ops/einsum.h"
#include "ATen/ops/expm1.h"
#include "ATen/ops/matmul.h"
#include "ATen/ops/ones_like.h"
#include "ATen/ops/promote_types.h"
#include "ATen/ops/sigmoid.h"
#include "ATen/ops/softplus.h"
#include "models/base/status_macros.h"
#include "models/layers/conv1d.h"
#include "models/layers/diagonal_scan.h"
#include "models/transition/noise_floor.h"

namespace eigsvc {

void GriffinBlock::Plan(const WeightPlanner& planner) const {
  // The initial values of the authors' code (google-deepmind/recurrentgemma).
  const auto deviation = [](double variance, int64_t fan) {
    return std::sqrt(variance / static_cast<double>(fan));
  };
  const auto linear = [&](const std::string& rest, int64_t out, int64_t in, double variance) {
    planner.Add(Name(rest + ".weight"), {out, in}, DrawNormal(deviation(variance, in)));
    planner.Add(Name(rest + ".bias"), {out}, DrawConstant(0));
  };
  linear("linear_y", spec_.channels, spec_.width, 1);
  linear("linear_x", spec_.channels, spec_.width, 1);
  const Draw tap = DrawNormal(deviation(0.01, spec_.taps));
  if (spec_.time_first) {
    planner.Add(Name("conv_1d.weight"), {spec_.channels, spec_.taps}, tap).transposed = true;
  } else {
    planner.Add(Name("conv_1d.weight"), {spec_.channels, 1, spec_.taps}, tap);
  }
  planner.Add(Name("conv_1d.bias"), {spec_.channels}, DrawConstant(0));
  // a at σ(gate) = 1/8 is uniform on the ring of radii 0.9 and 0.999, in area.
  const Draw decay = [](Random& random) {
    const double square = 0.9 * 0.9 + (0.999 * 0.999 - 0.9 * 0.9) * random.Unit();
    return std::log(std::expm1(-0.5 * std::log(square)));
  };
  planner.Add(Name("rg_lru.recurrent_param"), {spec_.channels}, decay).keep_float32 = true;
  const int64_t block = spec_.channels / spec_.blocks;
  for (const char* gate : {"rg_lru.input_gate", "rg_lru.recurrent_gate"}) {
    planner.Add(Name(std::string(gate) + "_weight"), {spec_.blocks, block, block},
                DrawNormal(deviation(0.01, block)));
    planner.Add(Name(std::string(gate) + "_bias"), {spec_.blocks, block}, DrawConstant(0));
  }
  linear("linear_out", spec_.width, spec_.channels, 2 / static_cast<double>(spec_.depth));
}

at::Tensor GriffinBlock::Convolved(const LayerCall& call, const at::Tensor& x) const {
  at::Tensor weight = Weight(call, "conv_1d.weight").to(x.scalar_type());
  if (spec_.time_first) weight = weight.unsqueeze(1);
  at::Tensor& tail = State(call, "conv_1d");
  CausalConv1dOutput convolved =
      CausalConv1d(x, weight, Weight(call, "conv_1d.bias").to(x.scalar_type()), tail);
  tail = convolved.tail;
  return convolved.output;
}

at::Tensor GriffinBlock::Gate(const LayerCall& call, const std::string& name, const at::Tensor& x) const {
  const at::Tensor blocks =
      at::einsum("bthi,hij->bthj",
                 {x.unflatten(-1, {spec_.blocks, -1}), Weight(call, name + "_weight").to(x.scalar_type())});
  return at::sigmoid(blocks + Weight(call, name + "_bias")).flatten(-2);
}

absl::StatusOr<at::Tensor> GriffinBlock::Run(const LayerCall& call, const at::Tensor& x) const {
  const at::Tensor gate = Activate(spec_.activation, Linear(call, "linear_y", x));
  const auto wide = at::promote_types(x.scalar_type(), at::kFloat);
  const at::Tensor convolved = Convolved(call, Linear(call, "linear_x", x).to(wide));
  EIGSVC_ASSIGN_OR_RETURN(const at::Tensor h, Recurrence(call, convolved, RoundingNoise(x.scalar_type())));
  return Linear(call, "linear_out", h.to(x.scalar_type()) * gate);
}

absl::StatusOr<at::Tensor> GriffinBlock::Recurrence(const LayerCall& call, const at::Tensor& x,
                                                    double noise_floor) const {
  const at::Tensor log_decay = Gate(call, "rg_lru.recurrent_gate", x) *
                               (-8 * at::softplus(Weight(call, "rg_lru.recurrent_param"), 1, 20));
  if (call.Wants(kRgLruMixer)) {
    Transition transition;
    transition.kind = Diagonal{log_decay.detach().unsqueeze(-1), Discretization::kExp};
    transition.first_step = call.state.position;
    transition.noise_floor = noise_floor;
    EIGSVC_RETURN_IF_ERROR(call.Report(kRgLruMixer, UnitKind::kChannel, std::move(transition)));
  }
  // √(1-a²), whose slope is not to reach infinity where a rounds to 1.
  at::Tensor scale = (-at::expm1(2 * log_decay)).clamp_min(1e-30).sqrt();
  if (call.state.position == 0) {  // the first input is taken as it is
    scale = at::cat({at::ones_like(scale.narrow(1, 0, 1)), scale.narrow(1, 1, scale.size(1) - 1)}, 1);
  }
  at::Tensor& state = State(call, "rg_lru");
  const at::Tensor h = DiagonalScan(log_decay, x * Gate(call, "rg_lru.input_gate", x) * scale, state);
  state = h.select(1, h.size(1) - 1).clone();
  return h;
}

std::vector<MixerDescription> GriffinBlock::Mixers() const {
  return {
      {std::string(kRgLruMixer), UnitKind::kChannel, spec_.channels, 1, 1, false, TransitionForm::kDiagonal}};
}

void GriffinMlp::Plan(const WeightPlanner& planner) const {
  planner.Add(Name("up"), {2, spec_.width, spec_.hidden},
              DrawNormal(1 / std::sqrt(static_cast<double>(spec_.width))));
  planner.Add(Name("up_bias"), {2, 1, 1, spec_.hidden}, DrawConstant(0));
  planner.Linear(Name("down_proj"), spec_.width, spec_.hidden, /*bias=*/true);
}

absl::StatusOr<at::Tensor> GriffinMlp::Run(const LayerCall& call, const at::Tensor& x) const {
  const auto half = [&](int64_t i) {
    return at::matmul(x, Weight(call, "up").select(0, i)) + Weight(call, "up_bias").select(0, i);
  };
  return Linear(call, "down_proj", Activate(spec_.activation, half(0)) * half(1));
}

}  // namespace eigsvc
