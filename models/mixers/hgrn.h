// Hierarchically gated recurrent units: HGRN (arXiv 2311.04823), a gated recurrence a channel, and HGRN2
// (arXiv 2404.07904), whose state is a matrix a head. Forget gates of higher layers have larger lower bounds.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "models/mixers/head_outputs.h"
#include "models/mixers/module.h"

namespace eigsvc {

struct HgrnSpec {
  int64_t width = 0;
  int64_t size = 0;   // HGRN: channels. HGRN2: of q and f, heads·key_size
  int64_t heads = 0;  // HGRN2
  int64_t taps = 0;   // of the short convolutions, without an activation; 0: none
  bool convolution_bias = false;
  double norm_eps = 1e-5;
  bool affine = true;
  // Lower bounds of all layers' gates [layers,size], of which the first layer's is zero; 0 layers: none.
  int64_t layer = 0, bounded_layers = 0;
};

// The outer weight of lower bounds, which all layers share: "lower_bounds".
inline constexpr char kLowerBounds[] = "lower_bounds";

// h_t = f_t∘h_{t-1} + (1 - f_t)∘silu(i_t), out = o_proj(norm(h)·silu(g_proj x)); λ = f.
class Hgrn final : public Module {
 public:
  Hgrn(std::string name, HgrnSpec spec);
  void Plan(const WeightPlanner& planner) const override;
  absl::StatusOr<at::Tensor> Run(const LayerCall& call, const at::Tensor& x) const override;
  std::vector<MixerDescription> Mixers() const override;

 private:
  const HgrnSpec spec_;
  const HeadOutputSpec output_;
};

// S_t = diag(f_t)·S_{t-1} + (1 - f_t) i_tᵀ, o_t = S_tᵀ silu(q_t), out = o_proj(norm(o)); λ = f.
class Hgrn2 final : public Module {
 public:
  Hgrn2(std::string name, HgrnSpec spec);
  void Plan(const WeightPlanner& planner) const override;
  absl::StatusOr<at::Tensor> Run(const LayerCall& call, const at::Tensor& x) const override;
  std::vector<MixerDescription> Mixers() const override;
  double ExtraOperations() const override;

 private:
  const HgrnSpec spec_;
  const HeadOutputSpec output_;
};

}  // namespace eigsvc
