#include "models/mixers/short_convolution.h"

#include "models/layers/conv1d.h"

namespace eigsvc {

void PlanShortConvolution(const WeightPlanner& planner, const std::string& name, int64_t channels,
                          int64_t taps, bool bias) {
  planner.Add(name + ".weight", {channels, 1, taps}, DrawLinear(taps));
  if (bias) planner.Add(name + ".bias", {channels}, DrawLinear(taps));
}

at::Tensor ShortConvolution(const LayerCall& call, const std::string& name, const at::Tensor& x, bool silu) {
  const std::string bias = name + ".bias";
  at::Tensor& tail = call.state.tensors[name];
  CausalConv1dOutput convolved = CausalConv1d(
      x, call.weights[name + ".weight"].to(x.scalar_type()),
      call.weights.Has(bias) ? call.weights[bias].to(x.scalar_type()) : at::Tensor(), tail, silu);
  tail = convolved.tail;
  return convolved.output;
}

}  // namespace eigsvc
