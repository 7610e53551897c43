// Linear attention by feature maps, y_i = (1/η_i)·Σ_{j<=i} (φ(q_i)·φ(k_j)) v_j with η the kernel's sum. With
// η in the state λ_i = η_{i-1}/η_i, one a head (arXiv 2405.15731).
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "models/mixers/module.h"

namespace eigsvc {

struct KernelAttentionSpec {
  std::string mixer;  // its name for the tap
  int64_t width = 0;
  int64_t heads = 0;
  int64_t key_size = 0, value_size = 0;  // a head's
  double scale = 1;  // of s = scale·q·k, whose kernel is 1 + s + s²/2 (Based, arXiv 2402.18668)
  double eps = 0;    // in η

  // Of φ, whose second-order part holds every product of two dimensions.
  int64_t features() const { return 1 + key_size + key_size * key_size; }
};

// Weights {q,k,v,o}_proj.
class KernelAttention final : public Module {
 public:
  KernelAttention(std::string name, KernelAttentionSpec spec)
      : Module(std::move(name)), spec_(std::move(spec)) {}
  void Plan(const WeightPlanner& planner) const override;
  absl::StatusOr<at::Tensor> Run(const LayerCall& call, const at::Tensor& x) const override;
  std::vector<MixerDescription> Mixers() const override;
  double ExtraOperations() const override;

 private:
  at::Tensor Features(const at::Tensor& heads) const;

  const KernelAttentionSpec spec_;
};

}  // namespace eigsvc
