// Causal attention with a kernel that factorises, κ(q,k) = q·k of (mapped) queries and keys: a recurrence
// over a matrix-valued state, by blocks of time.
#pragma once

#include "ATen/core/Tensor.h"

namespace eigsvc {

struct KernelAttentionOutput {
  at::Tensor y;            // [B,T,H,P], Σ_{s<=t} (q_t·k_s) v_s
  at::Tensor final_state;  // [B,H,P,N], Σ v_s ⊗ k_s
};
// q, k [B,T,H,N] and v [B,T,H,P] of one dtype, float32 or float64; initial_state undefined for zero.
KernelAttentionOutput LinearAttention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                      const at::Tensor& initial_state);

struct KernelSums {
  at::Tensor sums;        // [B,T,H], Σ_{s<=t} q_t·k_s in float64
  at::Tensor final_keys;  // [B,1,H,N], Σ k_s in float64
};
// What normalises linear attention. q, k [B,T,H,N]; initial_keys undefined for zero. In float64 throughout: a
// running sum over a long sequence would lose its small terms.
KernelSums SumKernel(const at::Tensor& q, const at::Tensor& k, const at::Tensor& initial_keys);

}  // namespace eigsvc
