// Mamba-2 (arXiv 2405.21060): a selective state-space model with one decay a head. State h [P,N] a head:
// h_t = λ_t·h_{t-1} + Δ_t·x_t ⊗ B_t, y_t = h_t C_t + D·x_t, λ_t = exp(Δ_t·A), A = -exp(A_log).
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "models/mixers/module.h"

namespace eigsvc {

struct Mamba2Spec {
  int64_t width = 0;       // D
  int64_t heads = 0;       // H
  int64_t head_width = 0;  // P
  int64_t groups = 1;      // G; heads of a group share B and C
  int64_t order = 0;       // N
  int64_t taps = 0;        // K of the short convolution over x, B and C; 0: none
  double dt_min = 0, dt_max = std::numeric_limits<double>::infinity();  // Δ is clamped after softplus
  bool gate = true;       // the projection's rows are [z | x | B | C | Δ]; false: without z, and no norm
  int64_t gated_mlp = 0;  // width of a gated MLP beside the state-space model, whose rows come first
  // Of y and the gate: norm(y·silu(z)), norm(y)·silu(z), or y·silu(z) alone.
  enum class Norm { kAfterGate, kBeforeGate, kNone };
  Norm norm = Norm::kAfterGate;
  double norm_eps = 1e-5;
  int64_t norm_groups = 1;  // slices of the channels that are normalised by themselves
  bool input_bias = false, output_bias = false, conv_bias = true;
  bool skip_per_channel = false;  // D has a value a channel, not a head
  bool learned_start = false;     // init_states: h before the first step
  // The pseudo-LTI of arXiv 2510.09379: λ = exp(-β·softplus(A)) at every step, and B's channels in place of
  // the decay take Δ, whose rows are one a group.
  bool time_invariant = false;
  std::vector<double> multipliers;  // five, of z, x, B, C and Δ's rows, before Δ's bias; none: all 1
  int64_t depth = 1;                // layers of the model: a fresh output projection shrinks with it

  int64_t inner() const { return heads * head_width; }
  int64_t conv_rows() const { return inner() + 2 * groups * order; }     // channels [x | B | C]
  int64_t step_rows() const { return time_invariant ? groups : heads; }  // of Δ
  int64_t projection_rows() const { return 2 * gated_mlp + (gate ? inner() : 0) + conv_rows() + step_rows(); }
  // INVALID_ARGUMENT with the sizes that do not go together.
  absl::Status Check() const;
};

inline constexpr absl::string_view kMamba2Mixer = "mamba2";

// Weights in_proj, conv1d, out_proj (.weight, .bias), A_log (time-invariant: A and beta), D, dt_bias,
// norm.weight and init_states.
class Mamba2 final : public Module {
 public:
  // REQUIRES spec.Check() is OK.
  Mamba2(std::string name, Mamba2Spec spec) : Module(std::move(name)), spec_(std::move(spec)) {}
  void Plan(const WeightPlanner& planner) const override;
  absl::StatusOr<at::Tensor> Run(const LayerCall& call, const at::Tensor& x) const override;
  absl::Status ReportDeparting(const LayerCall& call, const at::Tensor& x) const override;
  std::vector<MixerDescription> Mixers() const override;
  double ExtraOperations() const override;

 private:
  struct Scanned {
    at::Tensor y;          // [B,T,H·P] in at least float32, or in the projection's bfloat16
    at::Tensor log_decay;  // log λ [B,T,H]; [1,1,H] where it is the same at every step
  };
  at::Tensor Multipliers(const at::Tensor& projected) const;
  // Δ [B,T,H] (time-invariant: [B,T,G]) in at least float32.
  at::Tensor StepSizes(const LayerCall& call, const at::Tensor& dt_raw) const;
  // log λ: [B,T,H] of Δ, or [1,1,H] where it is the same at every step.
  at::Tensor LogDecay(const LayerCall& call, const at::Tensor& dt) const;
  absl::Status Report(const LayerCall& call, const at::Tensor& log_decay, at::ScalarType projected) const;
  // xbc: the channels [x | B | C] before the convolution; dt_raw: Δ before its bias.
  Scanned Scan(const LayerCall& call, const at::Tensor& xbc, const at::Tensor& dt_raw) const;
  // y in the dtype of z, gated and normed.
  at::Tensor Gated(const LayerCall& call, const at::Tensor& y, const at::Tensor& z) const;

  const Mamba2Spec spec_;
};

}  // namespace eigsvc
