// xLSTM's matrix memory (mLSTM, arXiv 2405.04517, section 2.3) in the two layers that have been published:
// that of the xLSTM library, between an up- and a down-projection, and that of xLSTM-7B (arXiv 2503.13427).
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "models/mixers/module.h"

namespace eigsvc {

inline constexpr absl::string_view kMlstmMixer = "mlstm";

struct MlstmCellSpec {
  int64_t heads = 0, key_size = 0, value_size = 0;  // of a head
  double eps = 1e-6;
  // The unit e^m, which eps is measured in, before the first step; -infinity: the first input decides.
  double first_unit = 0;
};

// Shares of both layers: the recurrence of [B,T,H,·] and its report, from the gates' logits [B,T,H]. The
// state keeps NAME"memory", NAME"unit" and NAME"log_normalizer".
absl::StatusOr<at::Tensor> RunMlstm(const LayerCall& call, const std::string& name, const MlstmCellSpec& spec,
                                    const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                    const at::Tensor& input_logits, const at::Tensor& forget_logits,
                                    at::ScalarType dtype);
MixerDescription DescribeMlstm(const MlstmCellSpec& spec);
double MlstmOperations(const MlstmCellSpec& spec);

// out_proj(σ(ogate(x))∘norm(h)), with gates cap·tanh(·/cap).
struct MlstmLayerSpec {
  int64_t width = 0;
  MlstmCellSpec cell;
  double gate_cap = 15, norm_eps = 1e-6;
  bool fused = false;  // q, k, v and the output gate in one matrix, both other gates in another
};
class MlstmLayer final : public Module {
 public:
  MlstmLayer(std::string name, MlstmLayerSpec spec) : Module(std::move(name)), spec_(spec) {}
  void Plan(const WeightPlanner& planner) const override;
  absl::StatusOr<at::Tensor> Run(const LayerCall& call, const at::Tensor& x) const override;
  std::vector<MixerDescription> Mixers() const override { return {DescribeMlstm(spec_.cell)}; }
  double ExtraOperations() const override { return MlstmOperations(spec_.cell); }

 private:
  const MlstmLayerSpec spec_;
};

// proj_down((norm(h) + learnable_skip∘c)∘silu(z)) for [u | z] = proj_up(x) and c = silu(convolution(u)); q
// and k are read from c, v from u, by matrices of small blocks, and the gates from all three.
struct MlstmBlockSpec {
  int64_t width = 0, inner = 0;
  MlstmCellSpec cell;  // key_size and value_size are inner/heads
  int64_t taps = 4;
  int64_t blocks = 0;  // of q_proj, k_proj and v_proj
  bool bias = false;
  int64_t depth = 1;  // of the model: fresh projections onto the residual stream depend on it
};
class MlstmBlock final : public Module {
 public:
  MlstmBlock(std::string name, MlstmBlockSpec spec) : Module(std::move(name)), spec_(spec) {}
  void Plan(const WeightPlanner& planner) const override;
  absl::StatusOr<at::Tensor> Run(const LayerCall& call, const at::Tensor& x) const override;
  std::vector<MixerDescription> Mixers() const override { return {DescribeMlstm(spec_.cell)}; }
  double ExtraOperations() const override { return MlstmOperations(spec_.cell); }

 private:
  const MlstmBlockSpec spec_;
};

}  // namespace eigsvc
