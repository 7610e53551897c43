// Linear attention whose state forgets at a rate of its own in every key dimension (GLA, arXiv 2312.06635;
// HGRN2, RWKV-6), by blocks of time: matrix products inside a block, a recurrence from block to block. With
// one decay a head it is models/layers/ssd.h.
#pragma once

#include <cstdint>

#include "ATen/core/Tensor.h"

namespace eigsvc {

// S_t = diag(exp(log_decay_t))·S_{t-1} + k_t v_tᵀ,  o_t = S_tᵀ q_t, for each head; with a bonus
// o_t = (S_{t-1} + (bonus∘k_t) v_tᵀ)ᵀ q_t.
struct GatedLinearAttentionInput {
  at::Tensor q, k;           // [B,T,H,K]
  at::Tensor v;              // [B,T,H,V]
  at::Tensor log_decay;      // [B,T,H,K] <= 0
  at::Tensor bonus;          // [H,K], or undefined
  at::Tensor initial_state;  // [B,H,K,V], or undefined for zero
};

struct LinearAttentionOutput {
  at::Tensor o;            // [B,T,H,V]
  at::Tensor final_state;  // [B,H,K,V]
};

// All inputs of one dtype, float32 or float64. Never exponentiates a positive number. `block`: a power of
// two.
LinearAttentionOutput GatedLinearAttention(const GatedLinearAttentionInput& input, int64_t block = 64);

}  // namespace eigsvc
