// The delta rule family as flash-linear-attention parametrises it: DeltaNet (arXiv 2406.06484), Gated
// DeltaNet (arXiv 2412.06464), which Qwen3-Next and Qwen3.5 store otherwise, and Kimi Delta Attention (arXiv
// 2510.26692), which Kimi-Linear does. S_t = (I - β_t k_t k_tᵀ) diag(λ_t) S_{t-1} + β_t k_t v_tᵀ.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "models/mixers/head_outputs.h"
#include "models/mixers/module.h"

namespace eigsvc {

struct DeltaNetSpec {
  std::string mixer;  // its name for the tap
  int64_t width = 0;
  int64_t heads = 0, value_heads = 0;    // of q and k; of v and the state, which share q and k in a row
  int64_t key_size = 0, value_size = 0;  // a head's
  enum class Projection {
    kSeparate,
    kJoint,  // qkv_proj has the rows [q | k | v], and qkv_conv1d is over all of them, with SiLU
    // qkvz_proj has the rows [q | k | v | gate] of one head of q after the other, with the values and gates
    // of all heads that share it, and ba_proj those of b and a; qkv_conv1d is over all of [q | k | v]. With
    // β, a decay and a gate a head, convolutions and SiLU.
    kFused,
    // q_proj, k_proj and v_proj, and one convolution with SiLU over all of [q | k | v], qkv_conv1d.
    kOneConvolution,
  };
  Projection projection = Projection::kSeparate;
  int64_t taps = 0;  // of the short convolutions; 0: none
  bool convolution_bias = false;
  Activation key_activation = Activation::kSilu;  // of q and k; kElu: elu(x) + 1
  bool sum_norm = false;                          // q and k divided by their sums, not by their lengths
  bool has_beta = true;                           // β = sigmoid(b_proj x), else 1
  bool double_beta = false;                       // 2β: eigenvalues down to -1
  enum class Decay {
    kNone,
    kPerHead,       // log λ = -exp(A_log)·softplus(a_proj x + dt_bias)
    kPerDimension,  // the same of f_proj.1(f_proj.0 x), or as `lower_bound` says
  };
  Decay decay = Decay::kNone;
  std::optional<double> lower_bound;   // log λ = lower_bound·sigmoid(exp(A_log)·(f + dt_bias))
  std::vector<int64_t> a_log_shape;    // as stored; empty: [value_heads]
  std::vector<int64_t> dt_bias_shape;  // likewise; empty: one dimension
  enum class Gate {
    kNone,
    kSilu,            // silu(g_proj x)
    kLowRankSigmoid,  // sigmoid(g_proj.1(g_proj.0 x))
  };
  Gate gate = Gate::kNone;
  bool gate_bias = true;   // of g_proj.1
  double norm_eps = 1e-5;  // of o_norm
};

class DeltaNet final : public Module {
 public:
  DeltaNet(std::string name, DeltaNetSpec spec);
  void Plan(const WeightPlanner& planner) const override;
  absl::StatusOr<at::Tensor> Run(const LayerCall& call, const at::Tensor& x) const override;
  std::vector<MixerDescription> Mixers() const override;
  double ExtraOperations() const override;

 private:
  ConvolvedProjectionSpec Keys() const;
  ConvolvedProjectionSpec Values() const;
  // Of x, in its dtype: q, k [B,T,heads,key_size] and v [B,T,value_heads,value_size] behind convolution and
  // activation; what β, the decay and the gate are functions of, undefined where there is none.
  struct Projections {
    at::Tensor q, k, v, beta, decay, gate;
  };
  Projections Project(const LayerCall& call, const at::Tensor& x) const;
  Projections ProjectAtOnce(const LayerCall& call, const at::Tensor& x) const;
  Projections ConvolvedAtOnce(const LayerCall& call, const at::Tensor& qkv) const;
  at::Tensor QueriesOrKeys(const at::Tensor& projected, at::ScalarType type) const;
  at::Tensor LogDecay(const LayerCall& call, const at::Tensor& logits, at::ScalarType type) const;
  void PlanProjections(const WeightPlanner& planner) const;

  const DeltaNetSpec spec_;
  const HeadOutputSpec output_;
};

// x·rsqrt(Σx² + 1e-6) over the last dimension: what flash-linear-attention's kernels do to q and k.
at::Tensor NormalizedKeys(const at::Tensor& x);

}  // namespace eigsvc
