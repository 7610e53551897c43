#include "models/mixers/rwkv4.h"

#include <cmath>
#include <utility>

#include "ATen/TensorOperators.h"
#include "ATen/ops/addcmul.h"
#include "ATen/ops/exp.h"
#include "ATen/ops/log_sigmoid.h"
#include "ATen/ops/promote_types.h"
#include "ATen/ops/sigmoid.h"
#include "models/base/status_macros.h"
#include "models/layers/token_shift.h"
#include "models/layers/wkv.h"
#include "models/mixers/rwkv.h"
#include "models/transition/noise_floor.h"

namespace eigsvc {

// As RWKV-LM initialises it (RWKV-v4neo/src/model.py), but for output projections, which are small instead of
// zero, and projections that are zero there: layers that are the identity would show nothing.
void Rwkv4TimeMix::Plan(const WeightPlanner& planner) const {
  const Rwkv4Spec& spec = spec_;
  const int64_t width = spec.width, channels = spec.channels;
  const double to_one =
      spec.layers > 1 ? static_cast<double>(spec.layer) / static_cast<double>(spec.layers - 1) : 0;
  WeightSpec& decay = planner.Add(Name("time_decay"), {channels}, nullptr);
  decay.draw_tensor = DrawByIndex([=](int64_t index) {
    const double ramp = channels > 1 ? static_cast<double>(index) / static_cast<double>(channels - 1) : 0;
    return -5 + 8 * std::pow(ramp, 0.7 + 1.3 * to_one);
  });
  decay.keep_float32 = true;
  WeightSpec& first = planner.Add(Name("time_first"), {channels}, nullptr);
  first.draw_tensor = DrawByIndex(
      [](int64_t index) { return std::log(0.3) + 0.5 * static_cast<double>((index + 1) % 3 - 1); });
  first.keep_float32 = true;
  for (const char letter : {'k', 'v', 'r'}) {
    PlanVector(planner, Name("time_mix_") + letter, width, /*linear_layout=*/false, /*keep_float32=*/false,
               [=](double n) {
                 const double before = FreshShift(n, width, letter == 'r' ? 0.5 : 1, spec.layer, spec.layers);
                 return 1 - before + (letter == 'v' ? 0.3 * to_one : 0);
               });
  }
  for (const char* const name : {"key", "value", "receptance"}) {
    planner.Add(Name(name) + ".weight", {channels, width}, WithinRoot(0.5, width));
  }
  planner.Add(Name("output.weight"), {width, channels}, OntoResidual(channels, spec.layers));
}

absl::StatusOr<at::Tensor> Rwkv4TimeMix::Run(const LayerCall& call, const at::Tensor& x) const {
  const auto type = at::promote_types(x.scalar_type(), at::kFloat);
  const at::Tensor before = TokenShift(x, State(call, "shift")), change = x - before;
  const auto mixed = [&](const char* letter) {
    return at::addcmul(before, change, Weight(call, std::string("time_mix_") + letter));
  };
  WkvInput input;
  input.k = Linear(call, "key", mixed("k")).to(type);
  input.v = Linear(call, "value", mixed("v")).to(type);
  input.decay = at::exp(Weight(call, "time_decay").to(at::kDouble));
  input.bonus = Weight(call, "time_first");
  input.log_weight = State(call, "log_weight");
  input.average = State(call, "average");
  const WkvOutput output = Wkv(input);
  State(call, "log_weight") = output.log_weight;
  State(call, "average") = output.average;
  if (call.Wants(kRwkv4Mixer)) {
    EIGSVC_RETURN_IF_ERROR(Report(call, input.k, output.earlier, input.decay, x.scalar_type()));
  }
  const at::Tensor receptance = at::sigmoid(Linear(call, "receptance", mixed("r")));
  return Linear(call, "output", receptance * output.y.to(x.scalar_type()));
}

absl::Status Rwkv4TimeMix::Report(const LayerCall& call, const at::Tensor& k, const at::Tensor& earlier,
                                  const at::Tensor& decay, at::ScalarType dtype) const {
  const int64_t position = call.state.position;
  if (call.context.convention.gauge == Gauge::kRaw) {
    if (position > 0) return absl::OkStatus();
    return call.Report(kRwkv4Mixer, UnitKind::kChannel,
                       {ScalarPerUnit{-decay.detach().view({1, 1, -1})}, /*constant=*/true, /*first_step=*/0,
                        RoundingNoise(dtype)});
  }
  const int64_t skipped = position == 0 ? 1 : 0, steps = k.size(1) - skipped;
  if (steps == 0) return absl::OkStatus();
  // λ = e^{-w}·b_{t-1}/b_t = σ(log b_{t-1} - w - k_t).
  const at::Tensor keys = k.detach().narrow(1, skipped, steps).to(at::kDouble);
  const at::Tensor logits = earlier.detach().narrow(1, skipped, steps) - decay.detach() - keys;
  // Keys are off by roundings of their size, twice.
  Transition transition{ScalarPerUnit{at::log_sigmoid(logits)}, /*constant=*/false, position + skipped};
  SetNoiseFloor(NoiseOfLargest(2 * RoundingNoise(dtype), keys.abs()), transition);
  return call.Report(kRwkv4Mixer, UnitKind::kChannel, std::move(transition));
}

std::vector<MixerDescription> Rwkv4TimeMix::Mixers() const {
  return {{std::string(kRwkv4Mixer), UnitKind::kChannel, spec_.channels}};
}

double Rwkv4TimeMix::ExtraOperations() const {
  // Some ten passes of the scan over logarithms and averages, each worth some 300 operations of a matrix
  // product an element.
  return 10 * 300 * static_cast<double>(spec_.channels);
}

}  // namespace eigsvc
