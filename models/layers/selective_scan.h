// Mamba-1's selective scan (arXiv 2312.00752): h_t = exp(Δ_t·A)∘h_{t-1} + Δ_t·x_t·B_t, y_t = h_t·C_t + D·x_t,
// a state h [N] a channel.
#pragma once

#include "ATen/core/Tensor.h"

namespace eigsvc {

// All of one float type.
struct SelectiveScanInput {
  at::Tensor x, dt;  // [B,T,C]; Δ not negative
  at::Tensor b, c;   // [B,T,N]
  at::Tensor a;      // [C,N], not positive
  at::Tensor d;      // [C]
};

// Whether SelectiveScan runs by a kernel that makes no tensor of [B,T,C,N].
bool ScansInOnePass(const SelectiveScanInput& input);
// y [B,T,C] for T >= 1; `state` [B,C,N], undefined for zeros, becomes the one behind the last step.
at::Tensor SelectiveScan(const SelectiveScanInput& input, at::Tensor& state);

}  // namespace eigsvc
