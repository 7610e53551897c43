// RWKV-4's time mix (arXiv 2305.13048): an average of the values so far, of every channel by itself, whose
// weights decay at fixed rates.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "models/mixers/module.h"

namespace eigsvc {

struct Rwkv4Spec {
  int64_t width = 0, channels = 0;  // of the input, of keys and values
  int64_t layer = 0, layers = 1;    // fresh weights depend on both
};

inline constexpr absl::string_view kRwkv4Mixer = "rwkv4";

// Weights time_decay, time_first, time_mix_k, time_mix_v, time_mix_r, key, value, receptance, output; the
// state keeps "shift", "log_weight" and "average".
class Rwkv4TimeMix final : public Module {
 public:
  Rwkv4TimeMix(std::string name, Rwkv4Spec spec) : Module(std::move(name)), spec_(spec) {}
  void Plan(const WeightPlanner& planner) const override;
  absl::StatusOr<at::Tensor> Run(const LayerCall& call, const at::Tensor& x) const override;
  std::vector<MixerDescription> Mixers() const override;
  double ExtraOperations() const override;

 private:
  absl::Status Report(const LayerCall& call, const at::Tensor& k, const at::Tensor& earlier,
                      const at::Tensor& decay, at::ScalarType dtype) const;

  const Rwkv4Spec spec_;
};

}  // namespace eigsvc
