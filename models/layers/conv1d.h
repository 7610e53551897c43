// Depthwise causal convolution over time, as Mamba's and other mixers' short convolutions use it.
#pragma once

#include "ATen/core/Tensor.h"

namespace eigsvc {

struct CausalConv1dOutput {
  at::Tensor output;  // [B,T,C]
  at::Tensor tail;    // [B,K-1,C]: the last inputs, what the next chunk of time needs
};

// output[b,t,c] = bias[c] + Σ_k weight[c,0,k]·x[b,t-K+1+k,c], the last tap on the present. x [B,T,C]; weight
// [C,1,K]; bias [C] or undefined; tail [B,K-1,C] holds the inputs before x, undefined where the sequence
// starts (zeros). `silu`: of the output.
CausalConv1dOutput CausalConv1d(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                                const at::Tensor& tail, bool silu = false);

// Whether CausalConv1d of x with so many taps is one pass that sums in float32 whatever the dtype; else each
// tap is rounded to it.
bool ConvolvesInOnePass(const at::Tensor& x, int64_t taps);

}  // namespace eigsvc
