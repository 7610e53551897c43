#include "models/mixers/lru.h"

#include <cmath>

#include "ATen/TensorOperators.h"
#include "ATen/ops/complex.h"
#include "ATen/ops/exp.h"
#include "models/transition/noise_floor.h"

namespace eigsvc {

void Lru::Plan(const WeightPlanner& planner) const {
  const auto add = [&](const std::string& weight, std::vector<int64_t> shape, Draw draw) -> WeightSpec& {
    WeightSpec& spec = planner.Add(Name(weight), std::move(shape), std::move(draw));
    spec.keep_float32 = true;
    spec.decays = false;
    return spec;
  };
  const double low = spec_.least * spec_.least, high = spec_.most * spec_.most;
  add("nu_log", {order()},
      [low, high](Random& random) { return std::log(-0.5 * std::log(random.Unit() * (high - low) + low)); });
  add("theta_log", {order()},
      [phase = spec_.phase](Random& random) { return std::log(phase * random.Unit()); });
  // So that states have the variance of their inputs: γ = √(1 - |λ|²).
  add("gamma_log", {order()}, nullptr).draw_tensor = [nu = Name("nu_log")](Random&, const Weights& earlier,
                                                                           absl::Span<double> values) {
    const at::Tensor nu_log = earlier[nu].to(at::kCPU, at::kDouble).contiguous();
    for (size_t i = 0; i < values.size(); ++i) {
      values[i] = 0.5 * std::log(-std::expm1(-2 * std::exp(nu_log.const_data_ptr<double>()[i])));
    }
  };
  const double input = 1 / std::sqrt(2 * static_cast<double>(width())),
               output = 1 / std::sqrt(static_cast<double>(order()));
  for (const char* part : {"B_re", "B_im"}) {
    planner.Add(Name(part), {order(), width()}, DrawNormal(input)).decays = false;
  }
  for (const char* part : {"C_re", "C_im"}) planner.Add(Name(part), {width(), order()}, DrawNormal(output));
  planner.Add(Name("D"), {width()}, DrawNormal(1));
}

DiagonalLayer::System Lru::MakeSystem(const LayerCall& call) const {
  const auto wide = [&](const char* weight) { return Weight(call, weight).to(at::kDouble); };
  const at::Tensor log_lambda = at::complex(-at::exp(wide("nu_log")), at::exp(wide("theta_log")));
  const at::Tensor gamma = at::exp(Weight(call, "gamma_log")).unsqueeze(-1);
  Transition transition;
  transition.kind = Diagonal{log_lambda.detach().view({1, 1, 1, -1}), Discretization::kExp};
  transition.constant = true;
  transition.noise_floor = RoundingNoise(at::kDouble);
  return {log_lambda,           Weight(call, "B_re") * gamma, Weight(call, "B_im") * gamma,
          Weight(call, "C_re"), Weight(call, "C_im"),         Weight(call, "D"),
          std::move(transition)};
}

}  // namespace eigsvc
