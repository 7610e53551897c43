#include "models/mixers/min_rnn.h"

#include "ATen/TensorOperators.h"
#include "ATen/ops/linear.h"
#include "ATen/ops/promote_types.h"
#include "ATen/ops/sigmoid.h"
#include "ATen/ops/softplus.h"
#include "ATen/ops/where.h"
#include "models/base/status_macros.h"
#include "models/layers/diagonal_scan.h"
#include "models/mixers/short_convolution.h"
#include "models/transition/noise_floor.h"

namespace eigsvc {

void MinRnn::Plan(const WeightPlanner& planner) const {
  planner.Add(Name(projection() + ".weight"), {(spec_.lstm ? 3 : 2) * spec_.channels, spec_.width},
              DrawLinear(spec_.width));
  if (spec_.output_projection) {
    planner.Add(Name("to_out.weight"), {spec_.width, spec_.channels}, DrawLinear(spec_.channels));
  }
}

absl::StatusOr<at::Tensor> MinRnn::Run(const LayerCall& call, const at::Tensor& x) const {
  const auto wide = at::promote_types(x.scalar_type(), at::kFloat);
  const std::vector<at::Tensor> parts = Linear(call, projection(), x).to(wide).chunk(spec_.lstm ? 3 : 2, -1);
  // What weighs the old state against the new one, λ = σ(-balance).
  const at::Tensor balance = spec_.lstm ? at::softplus(-parts[1]) - at::softplus(-parts[2]) : parts[1];
  const at::Tensor log_decay = -at::softplus(balance);
  if (call.Wants(mixer())) {
    Transition transition;
    transition.kind = Diagonal{log_decay.detach().unsqueeze(-1), Discretization::kExp};
    transition.first_step = call.state.position;
    transition.noise_floor = RoundingNoise(x.scalar_type());
    EIGSVC_RETURN_IF_ERROR(call.Report(mixer(), UnitKind::kChannel, std::move(transition)));
  }
  const at::Tensor candidate = at::where(parts[0] >= 0, parts[0] + 0.5, at::sigmoid(parts[0]));
  at::Tensor& state = State(call, "h");
  const at::Tensor h = DiagonalScan(log_decay, at::sigmoid(balance) * candidate, state);
  state = h.select(1, h.size(1) - 1).clone();
  const at::Tensor y = h.to(x.scalar_type());
  return spec_.output_projection ? Linear(call, "to_out", y) : y;
}

std::vector<MixerDescription> MinRnn::Mixers() const {
  return {{std::string(mixer()), UnitKind::kChannel, spec_.channels, 1, 1, false, TransitionForm::kDiagonal}};
}

void SeparableConvolution::Plan(const WeightPlanner& planner) const {
  PlanShortConvolution(planner, Name("net.0"), width_, taps_, /*bias=*/true);
  planner.Add(Name("net.1.weight"), {width_, width_, 1}, DrawLinear(width_));
  planner.Add(Name("net.1.bias"), {width_}, DrawLinear(width_));
}

absl::StatusOr<at::Tensor> SeparableConvolution::Run(const LayerCall& call, const at::Tensor& x) const {
  return at::linear(ShortConvolution(call, Name("net.0"), x), Weight(call, "net.1.weight").squeeze(-1),
                    Weight(call, "net.1.bias"));
}

}  // namespace eigsvc
