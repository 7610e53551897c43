#include "models/mixers/rwkv.h"

#include <cmath>
#include <vector>

#include "ATen/TensorOperators.h"
#include "ATen/ops/addcmul.h"
#include "ATen/ops/relu.h"
#include "ATen/ops/sigmoid.h"
#include "models/layers/token_shift.h"

namespace eigsvc {

void PlanVector(const WeightPlanner& planner, const std::string& name, int64_t size, bool linear_layout,
                bool keep_float32, const ByChannel& fresh) {
  const std::vector<int64_t> shape =
      linear_layout ? std::vector<int64_t>{size} : std::vector<int64_t>{1, 1, size};
  WeightSpec& spec = planner.Add(name, shape, nullptr);
  spec.draw_tensor =
      DrawByIndex([fresh, size](int64_t index) { return fresh(static_cast<double>(index % size)); });
  spec.keep_float32 = keep_float32;
}

Draw OntoResidual(int64_t fan_in, int64_t layers) {
  const double bound = 1 / std::sqrt(2.0 * static_cast<double>(fan_in * layers));
  return DrawUniform(-bound, bound);
}

Draw WithinRoot(double scale, int64_t width) {
  const double bound = scale / std::sqrt(static_cast<double>(width));
  return DrawUniform(-bound, bound);
}

double FreshShift(double n, int64_t channels, double power, int64_t layer, int64_t layers) {
  const double to_almost_zero = 1 - static_cast<double>(layer) / static_cast<double>(layers);
  return 1 - std::pow(n / static_cast<double>(channels), power * to_almost_zero);
}

void RwkvChannelMix::Plan(const WeightPlanner& planner) const {
  const RwkvChannelMixSpec& spec = spec_;
  const char* const stem = spec.present_shares ? "time_mix_" : "time_maa_";
  for (const char letter : {'k', 'r'}) {
    PlanVector(planner, Name(stem) + letter, spec.width, spec.linear_layout, /*keep_float32=*/false,
               [spec](double n) {
                 const double before = FreshShift(n, spec.width, 1, spec.layer, spec.layers);
                 return spec.present_shares ? 1 - before : before;
               });
  }
  planner.Add(Name("key.weight"), {spec.hidden, spec.width}, WithinRoot(0.5, spec.width));
  planner.Add(Name("receptance.weight"), {spec.width, spec.width}, WithinRoot(0.5, spec.width));
  planner.Add(Name("value.weight"), {spec.width, spec.hidden}, OntoResidual(spec.hidden, spec.layers));
}

absl::StatusOr<at::Tensor> RwkvChannelMix::Run(const LayerCall& call, const at::Tensor& x) const {
  const at::Tensor before = TokenShift(x, State(call, "shift"));
  const auto mixed = [&](const char* letter) {
    if (spec_.present_shares) {
      return at::addcmul(before, x - before, Weight(call, std::string("time_mix_") + letter));
    }
    return at::addcmul(x, before - x, Weight(call, std::string("time_maa_") + letter));
  };
  const at::Tensor hidden = at::relu(Linear(call, "key", mixed("k"))).square();
  return at::sigmoid(Linear(call, "receptance", mixed("r"))) * Linear(call, "value", hidden);
}

}  // namespace eigsvc
