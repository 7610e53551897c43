// What the generations of RWKV share: weights of one value a channel, how fresh projections are drawn, and
// the channel mix of RWKV-4 (arXiv 2305.13048) and RWKV-6 (arXiv 2404.05892).
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <utility>

#include "models/mixers/module.h"

namespace eigsvc {

using ByChannel = std::function<double(double channel)>;

// One value a channel, stored [1,1,size], or [size] with `linear_layout`.
void PlanVector(const WeightPlanner& planner, const std::string& name, int64_t size, bool linear_layout,
                bool keep_float32, const ByChannel& fresh);
// Uniform within ±1/√(2·fan_in·layers): of a projection onto the residual stream.
Draw OntoResidual(int64_t fan_in, int64_t layers);
// Uniform within ±scale/√width.
Draw WithinRoot(double scale, int64_t width);

// How much of the step before RWKV-LM's initialiser mixes into channel n of a fresh layer, before it is
// adapted to what is mixed: 1 - (n/channels)^(power·(1 - layer/layers)).
double FreshShift(double n, int64_t channels, double power, int64_t layer, int64_t layers);

// σ(receptance(x_r))∘value(relu(key(x_k))²), x_k and x_r mixes of each step with the one before.
struct RwkvChannelMixSpec {
  int64_t width = 0, hidden = 0;
  // time_mix_k and time_mix_r hold the share of the present step, as RWKV-4 has it; otherwise time_maa_k and
  // time_maa_r that of the one before.
  bool present_shares = false;
  bool linear_layout = false;
  int64_t layer = 0, layers = 1;
};

// The state keeps "shift".
class RwkvChannelMix final : public Module {
 public:
  RwkvChannelMix(std::string name, RwkvChannelMixSpec spec) : Module(std::move(name)), spec_(spec) {}
  void Plan(const WeightPlanner& planner) const override;
  absl::StatusOr<at::Tensor> Run(const LayerCall& call, const at::Tensor& x) const override;

 private:
  const RwkvChannelMixSpec spec_;
};

}  // namespace eigsvc
