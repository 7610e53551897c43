// Linear attention with a matrix-valued state a head, S_t = diag(λ_t)·S_{t-1} + k_t v_tᵀ, as
// flash-linear-attention parametrises it: retention (arXiv 2307.08621), gated linear attention (arXiv
// 2312.06635), and without decay.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "models/layers/rope.h"
#include "models/mixers/head_outputs.h"
#include "models/mixers/module.h"

namespace eigsvc {

struct LinearAttentionSpec {
  std::string mixer;  // its name for the tap, of static lifetime where it is used
  int64_t width = 0;
  int64_t heads = 0, groups = 0;         // of queries; of keys and values, which heads in a row share
  int64_t key_size = 0, value_size = 0;  // a head's
  int64_t taps = 0;                      // of the short convolutions on q, k, v, with a SiLU; 0: none
  bool convolution_bias = false;
  Activation feature_map = Activation::kIdentity;  // of q and k
  double scale = 0;                                // of the scores; 0: 1/√key_size

  enum class Decay {
    kFixed,         // log_decays
    kPerDimension,  // logsigmoid(gk_proj.1(gk_proj.0(x)))/gate_normalizer, clamped from below
  };
  Decay decay = Decay::kFixed;
  std::vector<double> log_decays;  // [heads]
  int64_t gate_rank = 0;
  double gate_normalizer = 16;
  std::optional<double> least_log_decay;

  std::shared_ptr<const Rotary> rotary;  // of q and k; null: none
  bool gated = false;                    // the normed output times gate_activation(g_proj(x))
  Activation gate_activation = Activation::kSilu;
  std::string norm = "g_norm";  // of each head's output, after the module's name
  bool affine = true;
  double norm_eps = 1e-5;
};

class LinearAttentionMixer final : public Module {
 public:
  LinearAttentionMixer(std::string name, LinearAttentionSpec spec);
  void Plan(const WeightPlanner& planner) const override;
  absl::StatusOr<at::Tensor> Run(const LayerCall& call, const at::Tensor& x) const override;
  std::vector<MixerDescription> Mixers() const override;
  double ExtraOperations() const override;

 private:
  at::Tensor LogDecay(const LayerCall& call, const at::Tensor& x, at::ScalarType type) const;
  absl::Status Report(const LayerCall& call, const at::Tensor& log_decay, at::ScalarType dtype) const;

  ConvolvedProjectionSpec Projection(int64_t size) const;

  const LinearAttentionSpec spec_;
  const HeadOutputSpec output_;
};

}  // namespace eigsvc
