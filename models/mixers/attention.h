// Softmax attention with grouped queries, and its report of log λ_i = LSE_{i-1} - LSE_i (arXiv 2405.15731):
// what every attention family configures. Under a sliding window W the token that leaves is an input with
// delay W, h_i = (ν_{i-1}/ν_i)·h_{i-1} + [φ(k_i)v_i - φ(k_{i-W})v_{i-W}]/ν_i: λ keeps its form, with ν over
// the window. A sink adds its constant to every ν.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "models/layers/rope.h"
#include "models/mixers/module.h"
#include "models/mixers/normalization.h"
#include "models/tensor/attention_lse.h"

namespace eigsvc {

struct AttentionSpec {
  int64_t width = 0;
  int64_t heads = 0;       // of queries
  int64_t groups = 0;      // of keys and values; heads of a group share them
  int64_t key_size = 0;    // a head's, of q and k
  int64_t value_size = 0;  // a head's, of v
  enum class Projection {
    kSeparate,      // q_proj, k_proj, v_proj
    kFused,         // qkv_proj with rows [q | k | v]
    kFusedPerHead,  // qkv_proj with rows [q | k | v] of one head after the other; as many groups as heads
    // Multi-head latent attention (arXiv 2405.04434), with as many groups as heads: kv_a_proj_with_mqa has
    // the rows [latent | shared key], kv_b_proj makes of the normed latent the rows [k | v] of one head after
    // the other, and the shared key ends every head's k. q is that of q_proj or, by way of a normed latent of
    // its own, of q_a_proj and q_b_proj. `qkv_bias` is of what makes latents alone.
    kLatent,
  };
  Projection projection = Projection::kSeparate;
  // kLatent: of the latent of k and v, of that of q (0: none), and of the shared key, a part of key_size.
  int64_t latent_size = 0, query_latent_size = 0, shared_key_size = 0;
  bool qkv_bias = false, output_bias = false;
  int64_t taps = 0;  // kFused: of a short convolution with biases over [q | k | v]; 0: none
  // kFused: width of a gated MLP beside the heads. The last rows of qkv_proj are [u | g], and o_proj reads
  // [heads | u·silu(g)]; 0: none.
  int64_t gated_mlp = 0;
  // kSeparate: q_proj has the rows [q | gate] of one head after the other, and the output of every head is
  // times sigmoid(gate); value_size is key_size.
  bool output_gate = false;
  double scale = 0;    // of the scores; 0: 1/√key_size
  int64_t window = 0;  // how many steps a step sees, its own included; 0: all
  double cap = 0;      // scores s become cap·tanh(s/cap); 0: they stay
  bool sinks = false;  // a learned score a head beside those of the keys, of no value
  // q_norm and k_norm before the rotation: over each head's dimensions, or over the whole projection.
  enum class QkNorm { kNone, kPerHead, kWhole };
  QkNorm qk_norm = QkNorm::kNone;
  NormSpec norm;                         // these, or kLatent's q_a_layernorm and kv_a_layernorm
  std::shared_ptr<const Rotary> rotary;  // of q and k, shared by a model's layers; null: none
  int64_t output_width = 0;              // 0: width
  // Of a low-rank product beside each of q_proj, k_proj and v_proj (kSeparate); 0: none.
  int64_t adapter_rank = 0;
};

inline constexpr absl::string_view kAttentionMixer = "attention";

// Weights by `projection`, qkv_conv1d, o_proj (.weight, .bias), {q,k,v}_adapter.{0,1}.weight, q_norm, k_norm,
// sinks [H].
class Attention final : public Module {
 public:
  Attention(std::string name, AttentionSpec spec) : Module(std::move(name)), spec_(std::move(spec)) {}
  void Plan(const WeightPlanner& planner) const override;
  absl::StatusOr<at::Tensor> Run(const LayerCall& call, const at::Tensor& x) const override;
  std::vector<MixerDescription> Mixers() const override;

 private:
  at::Tensor Projected(const LayerCall& call, absl::string_view rest, const at::Tensor& x) const;
  std::vector<at::Tensor> Project(const LayerCall& call, const at::Tensor& x) const;
  std::vector<at::Tensor> ProjectLatents(const LayerCall& call, const at::Tensor& x) const;
  void PlanLatents(const WeightPlanner& planner) const;
  at::Tensor Prepared(const LayerCall& call, const char* norm, const at::Tensor& heads) const;

  const AttentionSpec spec_;
};

// The part that every kind of softmax attention shares: q [B,T,H,Dqk], k [B,T,Hkv,Dqk], v [B,T,Hkv,Dv] of
// this chunk behind what the state keeps under `name` -> [B,T,H·Dv]; log λ goes to the tap. `options`: what
// is attended to, with the scale; the stop token is the call's.
absl::StatusOr<at::Tensor> AttendAndReport(const LayerCall& call, const std::string& name,
                                           const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                           AttentionOptions options);

// A chunk's heads [B,T,H,d] behind those of the steps before that `window` still shows (0: all), [B,H,S,d];
// `kept`, undefined at first, keeps them for the next chunk. Without a window it has room for more steps than
// were seen, so that many short chunks of a long sequence cost no more than one.
at::Tensor AppendHeads(const at::Tensor& heads, const LayerState& state, int64_t window, at::Tensor& kept);

}  // namespace eigsvc
