// Linear attention by feature maps, y_i = Σ_{j<=i} (φ(q_i)·φ(k_j)) v_j, divided by the kernel's own sum η_i
// or not. With η in the state λ_i = η_{i-1}/η_i, one a head (arXiv 2405.15731); without it nothing is
// forgotten, λ = 1. Start here for Based's (arXiv 2402.18668) and flash-linear-attention's linear attention.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "models/mixers/head_outputs.h"
#include "models/mixers/module.h"

namespace eigsvc {

enum class FeatureMap {
  kTaylor,  // φ(q)·φ(k) = 1 + s + s²/2 of s = scale·q·k
  kElu,     // elu + 1
  kRelu,
  kIdentity,
  kProduct,   // layer1(x)·layer2(x)
  kT2r,       // relu(layer(x)) (arXiv 2103.13076)
  kHedgehog,  // softmax of [2 layer(x) | -2 layer(x)] (arXiv 2402.04347)
  kDpfp,      // products with the four next of [relu(x) | -relu(x)], after arXiv 2102.11174
};

struct KernelAttentionSpec {
  std::string mixer;  // its name for the tap
  int64_t width = 0;
  int64_t heads = 0, groups = 0;         // of queries; of keys and values, which heads in a row share
  int64_t key_size = 0, value_size = 0;  // a head's
  FeatureMap map = FeatureMap::kTaylor;
  double scale = 1;                       // of the scores: of q·k for kTaylor, of φ(q)·φ(k) otherwise
  bool share_q = false, share_k = false;  // φ(q), φ(k) divided by the sum of its dimensions and 1e-4
  bool normalised = true;                 // by η; only where φ(q)·φ(k) is never negative
  double eps = 0;                         // in η
  std::string norm;                       // of each head's output, after the module's name; empty: none
  bool affine = true;
  double norm_eps = 1e-5;

  // Of φ; of kTaylor's second-order part as if it held every product of two dimensions.
  int64_t features() const;
};

// Weights {q,k,v,o}_proj, those of maps with layers under feature_map_q and feature_map_k, and the norm's.
class KernelAttention final : public Module {
 public:
  KernelAttention(std::string name, KernelAttentionSpec spec);
  void Plan(const WeightPlanner& planner) const override;
  absl::StatusOr<at::Tensor> Run(const LayerCall& call, const at::Tensor& x) const override;
  std::vector<MixerDescription> Mixers() const override;
  double ExtraOperations() const override;

 private:
  // φ of one of q and k [B,T,·,key_size], in its dtype: [B,T,·,features].
  enum class Side { kQuery, kKey };
  at::Tensor Features(const LayerCall& call, Side side, const at::Tensor& heads) const;
  at::Tensor Mapped(const LayerCall& call, const std::string& layers, const at::Tensor& heads) const;
  absl::StatusOr<at::Tensor> Normaliser(const LayerCall& call, const at::Tensor& q, const at::Tensor& k,
                                        at::ScalarType dtype) const;

  const KernelAttentionSpec spec_;
  const HeadOutputSpec output_;
};

}  // namespace eigsvc
