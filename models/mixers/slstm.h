// xLSTM's scalar memory (sLSTM, arXiv 2405.04517, section 2.2) as the xLSTM library has it. Its gates read
// the last output, so that the transition of a step is the Jacobian of its state (c, n, h) with respect to
// the last one, of each head.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "models/mixers/module.h"

namespace eigsvc {

inline constexpr absl::string_view kSlstmMixer = "slstm";

struct SlstmSpec {
  int64_t width = 0, heads = 0;
  int64_t taps = 4;         // of the convolution in front of the input and forget gates; 0: none
  bool norm_weight = true;  // the norm of the output has weights
  // How its kernel for CUDA stores the recurrent matrices and the biases; otherwise as in its plain one.
  bool cuda_layout = false;
  int64_t layer = 0, layers = 1;  // fresh weights depend on both

  int64_t head_size() const { return width / heads; }
};

// Weights conv1d.conv, igate, fgate, zgate, ogate [heads,d,d], slstm_cell._recurrent_kernel_ [heads,4·d,d] or
// [heads,d,4·d], slstm_cell._bias_, group_norm; the state keeps "conv1d.conv" and "state".
class SlstmLayer final : public Module {
 public:
  SlstmLayer(std::string name, SlstmSpec spec) : Module(std::move(name)), spec_(spec) {}
  void Plan(const WeightPlanner& planner) const override;
  absl::StatusOr<at::Tensor> Run(const LayerCall& call, const at::Tensor& x) const override;
  std::vector<MixerDescription> Mixers() const override;
  double ExtraOperations() const override;

 private:
  const SlstmSpec spec_;
};

}  // namespace eigsvc
