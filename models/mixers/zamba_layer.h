// What a hybrid layer of Zamba2 (arXiv 2411.15242) adds to the residual stream: a transformer block over
// [x | embedding], shared by several such layers but for low-rank adapters, whose output is added to the
// input of the layer's own Mamba-2 and nowhere else.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "models/mixers/attention.h"
#include "models/mixers/feed_forward.h"
#include "models/mixers/mamba2.h"
#include "models/mixers/module.h"
#include "models/mixers/normalization.h"

namespace eigsvc {

struct ZambaLayerSpec {
  AttentionSpec attention;   // of width 2D and output_width D
  FeedForwardSpec network;   // of the shared block: a gated one, fused
  int64_t adapter_rank = 0;  // beside the network's gate_up_proj
  Mamba2Spec mamba;
  NormSpec norm;
};

// Weights of the block start with "shared_transformer.": input_layernorm, self_attn., pre_ff_layernorm,
// feed_forward.{gate_up_proj,gate_up_adapter.{0,1},down_proj}. Those of the layer: linear,
// mamba_decoder.{input_layernorm,mamba.}.
class ZambaLayer final : public Module {
 public:
  explicit ZambaLayer(ZambaLayerSpec spec);
  void Plan(const WeightPlanner& planner) const override;
  // x [B,T,2D]: [x | embedding] -> [B,T,D].
  absl::StatusOr<at::Tensor> Run(const LayerCall& call, const at::Tensor& x) const override;
  std::vector<MixerDescription> Mixers() const override;
  double ExtraOperations() const override { return mamba_.ExtraOperations(); }

 private:
  at::Tensor RunNetwork(const LayerCall& call, const at::Tensor& x) const;

  const ZambaLayerSpec spec_;
  const Attention attention_;
  const Mamba2 mamba_;
};

}  // namespace eigsvc
