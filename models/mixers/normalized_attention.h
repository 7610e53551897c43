// Attention y_i = (1/η_i)·Σ_{j<=i} κ(q_i, k_j) v_j by its normaliser: the softmax's, the sum of a linear
// kernel, or a learned scalar (arXiv 2405.15731, arXiv 2510.09379). With η in the state λ_i = η_{i-1}/η_i,
// one a head. Start here for the attention models of those papers.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "models/mixers/module.h"
#include "models/transition/noise_floor.h"

namespace eigsvc {

// The f of a learned normaliser; a is what is projected from the input, and an offset a head.
enum class NormFunction { kExp, kSoftplus, kSigmoid, kElu };

struct NormalizedAttentionSpec {
  enum class Kind {
    kSoftmax,  // κ = exp(q·k/√d), η its sum
    kLinear,   // κ = φ(q)·φ(k) with φ = elu + 1, η its sum
    kNorm,     // κ = q·k or φ(q)·φ(k), η learned
  };
  Kind kind = Kind::kSoftmax;
  int64_t width = 0;     // D; a head of v has D/heads dimensions
  int64_t heads = 0;     // of q, k and v alike
  int64_t key_rows = 0;  // of all heads' q, and of all heads' k
  // One projection, Wqkv with rows [q | k | v] or for kNorm Wvqkn with [v | q | k | n], or Wqk, Wv and Wn.
  bool fused = true;
  int64_t taps = 0;             // of a causal convolution and SiLU behind the projection; 0: none
  bool convolve_values = true;  // over q, k and v, or q and k alone; never n

  // kNorm.
  NormFunction function = NormFunction::kSoftplus;
  bool exponential = true;  // η = exp(f(a)) (arXiv 2510.09379), or η = f(a) (arXiv 2405.15731)
  bool feature_map = true;  // φ on q and k
  bool scale_keys = false;  // k/√d
  bool offset = false;
  bool even_offset = true;  // fresh offsets lie evenly in [4, 9], or over [8, 14] as steps of Δ would

  double dropout = 0;
  bool dropout_on_scores = false;  // on κ/η, or on what the heads give

  int64_t key_size() const { return key_rows / heads; }
  int64_t value_size() const { return width / heads; }
};

inline constexpr absl::string_view kLinearAttentionMixer = "linear_attention";
inline constexpr absl::string_view kNormAttentionMixer = "norm_attention";

// Weights as said at `fused`, conv1d and out_proj (.weight, .bias), and offset.
class NormalizedAttention final : public Module {
 public:
  NormalizedAttention(std::string name, NormalizedAttentionSpec spec)
      : Module(std::move(name)), spec_(std::move(spec)) {}
  void Plan(const WeightPlanner& planner) const override;
  absl::StatusOr<at::Tensor> Run(const LayerCall& call, const at::Tensor& x) const override;
  absl::Status ReportDeparting(const LayerCall& call, const at::Tensor& x) const override;
  std::vector<MixerDescription> Mixers() const override;
  double ExtraOperations() const override;

 private:
  // [B,T,H,d] each, as the kernel takes them; n [B,T,H] is the a of a learned normaliser.
  struct Heads {
    at::Tensor q, k, v, n;
  };
  // `tail`: what the convolution keeps in the state; null: it is left out.
  Heads Project(const LayerCall& call, const at::Tensor& x, at::Tensor* tail) const;
  at::Tensor ProjectSeparately(const LayerCall& call, const at::Tensor& x) const;
  // Without softmax's cache: κ/η as a matrix, which dropout needs.
  at::Tensor AttendDensely(const LayerCall& call, const Heads& heads) const;
  absl::StatusOr<at::Tensor> AttendLinearly(const LayerCall& call, const Heads& heads) const;
  // What f of the learned normaliser is applied to.
  at::Tensor PreActivation(const LayerCall& call, const at::Tensor& n, at::ScalarType type) const;
  // log η of the learned normaliser for a in float32 or float64.
  at::Tensor LogNormalizer(const at::Tensor& a) const;
  // log_normalizer [B,T,H].
  absl::Status Report(const LayerCall& call, const at::Tensor& log_normalizer,
                      const NoiseFloor& noise_floor) const;
  // Of the logarithm of the learned normaliser at pre-activations a.
  NoiseFloor NoiseOf(const Heads& heads, const at::Tensor& a) const;

  double scale() const;
  int64_t multiplicity() const;  // 0: infinite
  absl::string_view mixer() const;

  const NormalizedAttentionSpec spec_;
};

}  // namespace eigsvc
