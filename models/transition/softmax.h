// The transition of a softmax attention head from the log-sum-exps of its scores: with the normaliser in the
// state, Λ_i = (ν_{i-1}/ν_i)·I for ν_i = Σ_{j<=i} e^{s_ij}, so log λ_i = LSE_{i-1} - LSE_i (arXiv
// 2405.15731).
#pragma once

#include <cstdint>

#include "ATen/core/Tensor.h"
#include "models/tensor/attention_lse.h"
#include "models/transition/transition.h"

namespace eigsvc {

// NormaliserTransition (normaliser.h) of η = e^{lse}; lse [B,H,T], previous_lse [B,H,1] or undefined.
// `noise_floor` [] float64 of BoundScores, which stays on its device. Throws like LibTorch; so below.
Transition SoftmaxTransition(const at::Tensor& lse, const at::Tensor& previous_lse, int64_t first_position,
                             const at::Tensor& noise_floor);

// What is known of attention's scores before they are computed, on the device of q.
struct ScoreBounds {
  at::Tensor noise_floor;  // [] float64: what log λ may be off by
  at::Tensor
      squared_norms;  // float64, of the heads (ScoreBoundProblem::norms); undefined but on a CUDA device
};

// Of q [B,H,T,d] and k [B,Hkv,S,d]: |score| is at most scale·max‖q‖·max‖k‖ over the heads, `cap` where there
// is one (else 0), and the sinks where there are some (else undefined). In one pass of
// models/kernels/score_bound on a CUDA device.
ScoreBounds BoundScores(const at::Tensor& q, const at::Tensor& k, double scale, double cap = 0,
                        const at::Tensor& sinks = {});

// Brings `lse` [B,H,T] of CausalAttention, called with these q, k and options (the scale set), as close as
// log λ needs it, in place: those of heads with large scores are computed again, for half the products of the
// attention (models/kernels/accurate_lse). The decision is the device's, nothing waits for it. For what runs
// on a CUDA device without gradients; capped scores, heads of more than 256 and float64 stay as they are.
void RefineLse(const at::Tensor& lse, const at::Tensor& q, const at::Tensor& k,
               const AttentionOptions& options, const ScoreBounds& bounds);

}  // namespace eigsvc
