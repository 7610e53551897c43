// A few rows of attention at once, plainly or by a fused operator: what CausalAttention is put together of.
#pragma once

#include <cstdint>

#include "ATen/core/Tensor.h"
#include "models/tensor/attention_lse.h"
#include "models/tensor/attention_operators.h"

namespace eigsvc {

// q [B,H,T,Dqk]: the last T of the positions of k [B,Hkv,S,Dqk], v [B,Hkv,S,Dv]. Scores in float32, or
// float64 for float64 inputs, with options.scale, window and cap. Differentiable, the log-sum-exp too.
AttentionOutput PlainRows(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                          const AttentionOptions& options);

// The same by an operator, which knows neither a mask for queries behind earlier keys nor windows: softmax
// over a union of keys is a mixture of softmaxes by their log-sum-exps. Needs 0 <= S - T and, with a window W
// (0: none), either S <= W or T < W and S = T + W - 1. Not differentiable behind earlier keys: the
// log-sum-exps are not.
AttentionOutput FusedRows(const FusedOperator& fused, const at::Tensor& q, const at::Tensor& k,
                          const at::Tensor& v, double scale, int64_t window);

}  // namespace eigsvc
