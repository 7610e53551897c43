// The transition of a softmax attention head from the log-sum-exps of its scores: with the normaliser in the
// state, Λ_i = (ν_{i-1}/ν_i)·I for ν_i = Σ_{j<=i} e^{s_ij}, so log λ_i = LSE_{i-1} - LSE_i (arXiv
// 2405.15731).
#pragma once

#include <cstdint>

#include "ATen/core/Tensor.h"
#include "models/transition/transition.h"

namespace eigsvc {

// NormaliserTransition (normaliser.h) of η = e^{lse}; lse [B,H,T], previous_lse [B,H,1] or undefined.
// `largest_score`: a bound on |score|, for the noise floor. Throws like LibTorch.
Transition SoftmaxTransition(const at::Tensor& lse, const at::Tensor& previous_lse, int64_t first_position,
                             double largest_score);

// scale·max‖q‖·max‖k‖ >= |score| over the heads; q [B,H,T,d], k [B,Hkv,S,d].
double LargestScore(const at::Tensor& q, const at::Tensor& k, double scale);

}  // namespace eigsvc
