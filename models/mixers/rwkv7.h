// RWKV-7's time mix (arXiv 2503.14456): a delta rule with decays per key dimension, whose inputs are mixes of
// each step with the one before. And its channel mix.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "models/mixers/module.h"

namespace eigsvc {

struct Rwkv7Spec {
  int64_t width = 0;
  int64_t heads = 0, head_size = 0;  // of keys and values alike
  // Ranks of the low-rank maps: decay, in-context learning rate, value residual, gate.
  int64_t decay_rank = 0, rate_rank = 0, value_rank = 0, gate_rank = 0;
  double norm_eps = 64e-5;  // of the norm over each head
  // κ̂ = κ·rsqrt(Σκ² + eps), or, for 0, torch's normalize: κ/max(‖κ‖, 1e-12).
  double key_eps = 0;
  bool output_bias = false;
  // As flash-linear-attention stores it: low-rank maps are transposed, and vectors have one dimension.
  bool linear_layout = false;
  bool fused_shifts = false;      // x_x [6,D] in place of x_r, x_w, x_k, x_v, x_a, x_g
  int64_t layer = 0, layers = 1;  // the first one's values go to all others; fresh weights depend on both
};

inline constexpr absl::string_view kRwkv7Mixer = "rwkv7";

// Weights x_r ... x_g, w0, w1, w2, a0, ..., k_k, k_a, r_k, receptance, key, value, output, ln_x; the state
// keeps "shift" and "state".
class Rwkv7TimeMix final : public Module {
 public:
  Rwkv7TimeMix(std::string name, Rwkv7Spec spec) : Module(std::move(name)), spec_(spec) {}
  void Plan(const WeightPlanner& planner) const override;
  absl::StatusOr<at::Tensor> Run(const LayerCall& call, const at::Tensor& x) const override;
  std::vector<MixerDescription> Mixers() const override;
  double ExtraOperations() const override;

 private:
  const Rwkv7Spec spec_;
};

// value(relu(key(x + (x_{t-1} - x)∘x_k))²).
struct Rwkv7ChannelMixSpec {
  int64_t width = 0, hidden = 0;
  bool linear_layout = false;
  int64_t layer = 0, layers = 1;
};
class Rwkv7ChannelMix final : public Module {
 public:
  Rwkv7ChannelMix(std::string name, Rwkv7ChannelMixSpec spec) : Module(std::move(name)), spec_(spec) {}
  void Plan(const WeightPlanner& planner) const override;
  absl::StatusOr<at::Tensor> Run(const LayerCall& call, const at::Tensor& x) const override;

 private:
  const Rwkv7ChannelMixSpec spec_;
};

}  // namespace eigsvc
