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

// All inputs of one dtype, float32 or float64. Never exponentiates a positive number. `block`: a power of
// two.
LinearAttentionOutput DeltaRule(const DeltaRuleInput& input, int64_t block = 32);

}  // namespace eigsvc
