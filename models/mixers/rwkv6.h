// RWKV-6's time mix (arXiv 2404.05892): linear attention with a decay a key dimension and a bonus for the
// present step. Its inputs are mixes of each step with the one before, in shares that the input decides.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "models/mixers/module.h"

namespace eigsvc {

struct Rwkv6Spec {
  int64_t width = 0;
  int64_t heads = 0, key_size = 0, value_size = 0;
  int64_t mix_rank = 0, decay_rank = 0;  // of the low-rank maps to the shares and to the decay
  double norm_eps = 64e-5;               // of the norm over each head
  // As flash-linear-attention stores it: the low-rank maps are transposed, vectors have one dimension, and
  // the shares are in one tensor x_bias [5,width], in the order r, w, k, v, g instead of w, k, v, r, g.
  bool linear_layout = false;
  int64_t layer = 0, layers = 1;  // fresh weights depend on both
};

inline constexpr absl::string_view kRwkv6Mixer = "rwkv6";

// Weights time_maa_x, time_maa_w, ..., time_maa_w1, time_maa_w2, time_decay, time_decay_w1, time_decay_w2,
// time_faaaa, receptance, key, value, gate, output, ln_x; the state keeps "shift" and "state".
class Rwkv6TimeMix final : public Module {
 public:
  Rwkv6TimeMix(std::string name, Rwkv6Spec spec) : Module(std::move(name)), spec_(spec) {}
  void Plan(const WeightPlanner& planner) const override;
  absl::StatusOr<at::Tensor> Run(const LayerCall& call, const at::Tensor& x) const override;
  std::vector<MixerDescription> Mixers() const override;
  double ExtraOperations() const override;

 private:
  absl::Status Report(const LayerCall& call, const at::Tensor& log_decay, at::ScalarType dtype) const;

  const Rwkv6Spec spec_;
};

}  // namespace eigsvc
