// Linear attention that erases before it writes: transitions that are diagonal plus rank one (DeltaNet, Gated
// DeltaNet, Kimi Delta Attention, RWKV-7), by blocks of time in the WY form (arXiv 2406.06484): what the
// steps of a block write is solved for at once, then a block is one affine map of the state.
#pragma once

#include <cstdint>

#include "ATen/core/Tensor.h"
#include "models/layers/gated_linear_attention.h"

namespace eigsvc {

// S_t = (diag(exp(log_decay_t)) - u_t w_tᵀ)·S_{t-1} + k_t v_tᵀ,  o_t = S_tᵀ q_t, for each head.
struct DeltaRuleInput {
  at::Tensor q, k, u, w;     // [B,T,H,K]
  at::Tensor v;              // [B,T,H,V]
  at::Tensor log_decay;      // [B,T,H,K], or [B,T,H,1] where it is the same for all dimensions; <= 0
  at::Tensor initial_state;  // [B,H,K,V], or undefined for zero
};

// Steps of a block for keys of `order` dimensions: a power of two from 4 to 32 and otherwise no larger than
// `order`. The keys of a longer block depend on each other and its sums cancel: with 32 steps float32 loses
// up to 11 times what it loses step by step (order 2), so at most 2.4 times.
int64_t DeltaRuleBlock(int64_t order);

// All inputs of one dtype, float32 or float64. Never exponentiates a positive number. `block`: a power of
// two, or 0 for DeltaRuleBlock of the keys.
LinearAttentionOutput DeltaRule(const DeltaRuleInput& input, int64_t block = 0);

}  // namespace eigsvc
