// Position-wise networks between attention layers. x [..., D] -> [..., D]; a bias may be undefined.
#pragma once

#include "ATen/core/Tensor.h"

namespace eigsvc {

at::Tensor Linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias);

// Each slice of x [...,H·in] times a matrix of its own, weight [H,out,in] -> [...,H·out].
at::Tensor HeadwiseLinear(const at::Tensor& x, const at::Tensor& weight);

// down(silu(gate(x))·up(x)) of arXiv 2002.05202.
struct GatedMlp {
  at::Tensor gate, gate_bias, up, up_bias, down, down_bias;
};
at::Tensor SwiGlu(const at::Tensor& x, const GatedMlp& weights);

// The first half of linear(x) times the sigmoid of the second.
at::Tensor GatedLinear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias);

}  // namespace eigsvc
