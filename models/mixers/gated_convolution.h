// A short convolution times a gate: what hybrids put between the layers that remember (BaseConv of arXiv
// 2402.18668; the one of LFM2, arXiv 2511.23404, which has a second gate before it). It has no state but the
// inputs that its taps still reach: a shift register, every eigenvalue 0.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "models/mixers/module.h"

namespace eigsvc {

struct GatedConvolutionSpec {
  int64_t width = 0, channels = 0;
  int64_t taps = 0;
  bool bias = false;  // of in_proj and out_proj
  bool convolution_bias = false;
  bool input_gate = false;  // LFM2's: out_proj(c·conv(b·u)) for [b | c | u] = in_proj(x), without SiLU
};

inline constexpr absl::string_view kConvolutionMixer = "convolution";

// out_proj(silu(conv(u))·g) for [u | g] = in_proj(x).
class GatedConvolution final : public Module {
 public:
  GatedConvolution(std::string name, GatedConvolutionSpec spec) : Module(std::move(name)), spec_(spec) {}
  void Plan(const WeightPlanner& planner) const override;
  absl::StatusOr<at::Tensor> Run(const LayerCall& call, const at::Tensor& x) const override;
  // None where a single tap keeps nothing.
  std::vector<MixerDescription> Mixers() const override;

 private:
  const GatedConvolutionSpec spec_;
};

}  // namespace eigsvc
