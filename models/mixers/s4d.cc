#include "models/mixers/s4d.h"

#include <cmath>
#include <numbers>

#include "ATen/TensorOperators.h"
#include "ATen/core/IListRef.h"
#include "ATen/ops/cat.h"
#include "ATen/ops/complex.h"
#include "ATen/ops/exp.h"
#include "ATen/ops/log.h"
#include "ATen/ops/ones_like.h"
#include "ATen/ops/promote_types.h"
#include "ATen/ops/view_as_complex.h"
#include "models/base/status_macros.h"
#include "models/transition/noise_floor.h"

namespace eigsvc {

void S4d::Plan(const WeightPlanner& planner) const {
  const StateSpaceStorage& storage = spec_.storage;
  if (!spec_.minimal) {
    planner.Add(Name("D"), {storage.outputs, storage.width}, DrawNormal(1)).decays = false;
    PlanStateSpace(planner, Name("kernel."), storage);
    return;
  }
  const auto add = [&](const char* name, std::vector<int64_t> shape, Draw draw) -> WeightSpec& {
    WeightSpec& spec = planner.Add(Name(name), std::move(shape), std::move(draw));
    spec.keep_float32 = true;
    spec.decays = false;
    return spec;
  };
  const int64_t width = storage.width, order = storage.order;
  planner.Add(Name("D"), {width}, DrawNormal(1));
  planner.Add(Name("kernel.C"), {width, order, 2}, DrawNormal(std::sqrt(0.5)));
  add("kernel.log_dt", {width}, DrawUniform(std::log(storage.least_step), std::log(storage.largest_step)));
  add("kernel.log_A_real", {width, order}, DrawConstant(std::log(0.5)));
  add("kernel.A_imag", {width, order}, nullptr).draw_tensor = [order](Random&, const Weights&,
                                                                      absl::Span<double> values) {
    for (size_t i = 0; i < values.size(); ++i) values[i] = std::numbers::pi * static_cast<double>(i % order);
  };
}

StateSpaceParts S4d::Parts(const LayerCall& call) const {
  if (!spec_.minimal) return ReadStateSpace(call.weights, Name("kernel."), spec_.storage);
  const auto wide = [&](const char* name) { return Weight(call, name).to(at::kDouble); };
  const at::Tensor a = at::complex(-at::exp(wide("kernel.log_A_real")), wide("kernel.A_imag"));
  return {a, at::ones_like(a), at::view_as_complex(wide("kernel.C").contiguous()).unsqueeze(0),
          at::exp(wide("kernel.log_dt"))};
}

absl::StatusOr<at::Tensor> S4d::Run(const LayerCall& call, const at::Tensor& x) const {
  const StateSpaceParts parts = Parts(call);
  const at::Tensor step = parts.step.unsqueeze(-1), scaled = parts.a * step;  // [D,N/2]
  if (call.WantsConstant(kS4dMixer)) {
    Transition transition;
    transition.kind = Diagonal{scaled.detach().unsqueeze(0).unsqueeze(0),
                               spec_.bilinear ? Discretization::kBilinear : Discretization::kExp,
                               /*conjugate_pairs=*/true};
    transition.constant = true;
    transition.noise_floor = RoundingNoise(at::kDouble);
    EIGSVC_RETURN_IF_ERROR(call.Report(kS4dMixer, UnitKind::kChannel, std::move(transition)));
  }
  // h_t = λ∘h_{t-1} + b̄ u_t with b̄ moved into c; twice, for the conjugates.
  at::Tensor log_lambda = scaled, input;
  if (spec_.bilinear) {
    log_lambda = at::log((1 + scaled / 2) / (1 - scaled / 2));
    input = step / (1 - scaled / 2);
  } else {
    input = (at::exp(scaled) - 1) / parts.a;
  }
  const at::Tensor c = 2 * parts.c * (input * parts.b);  // [M,D,N/2]
  const auto type = at::promote_types(x.scalar_type(), at::kFloat);
  const at::Tensor u = x.to(type), skip = Weight(call, "D").to(type).view({c.size(0), -1});
  at::Tensor& state = State(call, "state");
  const int64_t steps = u.size(1);
  std::vector<at::Tensor> outputs;
  for (int64_t m = 0; m < c.size(0); ++m) {
    const DiagonalSystem system{log_lambda, c[m]};
    at::Tensor y = CausalFftConvolve(u, DiagonalKernel(system, steps).to(type), steps);
    if (state.defined()) y = y + DiagonalResponse(system, state, steps).to(type);
    outputs.push_back(y + u * skip[m]);
  }
  if (call.context.training == nullptr) state = DiagonalState({log_lambda, c[0]}, u, state);
  return (outputs.size() == 1 ? outputs[0] : at::cat(outputs, -1)).to(x.scalar_type());
}

std::vector<MixerDescription> S4d::Mixers() const {
  return {{std::string(kS4dMixer), UnitKind::kChannel, spec_.storage.width, spec_.storage.order, 1,
           /*constant=*/true, TransitionForm::kDiagonal}};
}

double S4d::ExtraOperations() const {
  // Transforms of the channels, and passes over the states of every row of steps.
  const auto width = static_cast<double>(spec_.storage.width),
             order = static_cast<double>(spec_.storage.order);
  return 300 * width * static_cast<double>(10 + 2 * spec_.storage.outputs) + 20 * width * order;
}

}  // namespace eigsvc
