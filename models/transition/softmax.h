// The transition of a softmax attention head from the log-sum-exps of its scores: with the normaliser in the
// state, Λ_i = (ν_{i-1}/ν_i)·I for ν_i = Σ_{j<=i} e^{s_ij}, so log λ_i = LSE_{i-1} - LSE_i (arXiv
// 2405.15731).
#pragma once

#include <cstdint>

#include "ATen/core/Tensor.h"
#include "models/transition/transition.h"

namespace eigsvc {

// NormaliserTransition (normaliser.h) of η = e^{lse}; lse [B,H,T], previous_lse [B,H,1] or undefined.
// `noise_floor` [] float64 of SoftmaxNoiseFloor, which stays on its device. Throws like LibTorch; so below.
Transition SoftmaxTransition(const at::Tensor& lse, const at::Tensor& previous_lse, int64_t first_position,
                             const at::Tensor& noise_floor);

// What log λ may be off by, [] float64 on the device of q [B,H,T,d] and k [B,Hkv,S,d], from a bound on
// |score|: scale·max‖q‖·max‖k‖ over the heads, `cap` where there is one (else 0), and the sinks where there
// are some (else undefined). In one pass of models/kernels/score_bound on a CUDA device.
at::Tensor SoftmaxNoiseFloor(const at::Tensor& q, const at::Tensor& k, double scale, double cap = 0,
                             const at::Tensor& sinks = {});

}  // namespace eigsvc
