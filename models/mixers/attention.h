// Softmax attention with grouped queries, and its report of log λ_i = LSE_{i-1} - LSE_i (arXiv 2405.15731):
// what every attention family configures.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "models/layers/rope.h"
#include "models/mixers/module.h"
#include "models/mixers/normalization.h"

namespace eigsvc {

struct RotarySpec {
  int64_t size = 0;  // the first dimensions of a head that are turned
  double base = 10000;
  RotaryScaling scaling;
  RotaryPairs pairs = RotaryPairs::kHalves;
};

struct AttentionSpec {
  int64_t width = 0;
  int64_t heads = 0;       // of queries
  int64_t groups = 0;      // of keys and values; heads of a group share them
  int64_t key_size = 0;    // a head's, of q and k
  int64_t value_size = 0;  // a head's, of v
  bool qkv_bias = false, output_bias = false;
  double scale = 0;  // of the scores; 0: 1/√key_size
  // q_norm and k_norm before the rotation: over each head's dimensions, or over the whole projection.
  enum class QkNorm { kNone, kPerHead, kWhole };
  QkNorm qk_norm = QkNorm::kNone;
  NormSpec norm;
  std::optional<RotarySpec> rotary;
};

inline constexpr absl::string_view kAttentionMixer = "attention";

// Weights q_proj, k_proj, v_proj, o_proj (.weight, .bias), q_norm, k_norm.
class Attention final : public Module {
 public:
  // `dtype`: the model's, which the angles of the rotation are computed for.
  Attention(std::string name, AttentionSpec spec, at::ScalarType dtype);
  void Plan(const WeightPlanner& planner) const override;
  absl::StatusOr<at::Tensor> Run(const LayerCall& call, const at::Tensor& x) const override;
  std::vector<MixerDescription> Mixers() const override;

 private:
  at::Tensor Heads(const LayerCall& call, absl::string_view rest, int64_t count, const at::Tensor& x) const;

  const AttentionSpec spec_;
  std::unique_ptr<const Rotary> rotary_;
};

// The part that every kind of softmax attention shares: q [B,T,H,Dqk], k [B,T,Hkv,Dqk], v [B,T,Hkv,Dv] of
// this chunk behind what the state keeps under `name` -> [B,T,H·Dv]; log λ goes to the tap.
absl::StatusOr<at::Tensor> AttendAndReport(const LayerCall& call, const std::string& name,
                                           const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                           double scale);

}  // namespace eigsvc
