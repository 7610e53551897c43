// Mamba-1 (arXiv 2312.00752): a selective state-space model with a decay for each channel and state. State
// h [N] a channel: h_t = λ_t∘h_{t-1} + Δ_t·x_t·B_t, y_t = h_t·C_t + D·x_t, λ_t = exp(Δ_t·A), A = -exp(A_log).
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "models/layers/selective_scan.h"
#include "models/mixers/module.h"

namespace eigsvc {

struct Mamba1Spec {
  int64_t width = 0;     // D
  int64_t channels = 0;  // of the state-space model
  int64_t order = 0;     // N
  int64_t rank = 0;      // R, of Δ's projection
  int64_t taps = 0;      // K of the short convolution over x
  bool projection_bias = false, conv_bias = true;
  // Of Δ's R inputs, B and C before their use: RMS norms without weights (FalconMamba), or with (Jamba).
  enum class InnerNorm { kNone, kPlain, kWeighted };
  InnerNorm inner_norm = InnerNorm::kNone;
  double inner_norm_eps = 1e-6;
  int64_t depth = 1;  // layers of the model: a fresh output projection shrinks with it
};

inline constexpr absl::string_view kMamba1Mixer = "mamba";

// Weights in_proj, conv1d, dt_proj, out_proj (.weight, .bias), x_proj.weight, A_log, D and, where there are
// any, {dt,b,c}_layernorm.weight.
class Mamba1 final : public Module {
 public:
  Mamba1(std::string name, Mamba1Spec spec) : Module(std::move(name)), spec_(spec) {}
  void Plan(const WeightPlanner& planner) const override;
  absl::StatusOr<at::Tensor> Run(const LayerCall& call, const at::Tensor& x) const override;
  std::vector<MixerDescription> Mixers() const override;
  double ExtraOperations() const override;

 private:
  // What the recurrence reads, in at least float32.
  SelectiveScanInput Selected(const LayerCall& call, const at::Tensor& x) const;
  // y [B,T,channels]. The states of a stretch of time only are in memory at once, and so is what is reported.
  absl::StatusOr<at::Tensor> Scan(const LayerCall& call, const SelectiveScanInput& inputs,
                                  double noise_floor) const;

  const Mamba1Spec spec_;
};

}  // namespace eigsvc
