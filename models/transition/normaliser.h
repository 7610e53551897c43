// The transition of any attention whose output is divided by a normaliser η: with it in the state (gauge
// dsf), Λ_i = (η_{i-1}/η_i)·I (arXiv 2405.15731). Here from log η, and log η of linear and norm attention; of
// softmax, η is a sum of exponentials and softmax.h has it. Functions throw like LibTorch.
#pragma once

#include <cstdint>

#include "ATen/core/Tensor.h"
#include "models/transition/noise_floor.h"
#include "models/transition/transition.h"

namespace eigsvc {

// log_eta [B,H,T] of the chunk whose first step is `first_position`; previous [B,H,1]: of the step before the
// chunk, undefined when the chunk starts the sequence, whose first step has no eigenvalue (λ_0 acts on h_{-1}
// = 0). A ScalarPerUnit of T or T-1 steps that holds log η itself, float64 where that is given, else float32.
// `multiplicity`: dim φ(k)·dim v; 0: infinite.
Transition NormaliserTransition(const at::Tensor& log_eta, const at::Tensor& previous, int64_t first_position,
                                int64_t multiplicity, const NoiseFloor& noise_floor);

// log λ [B,T,U]; of log η the differences, in its dtype.
at::Tensor LogMagnitude(const ScalarPerUnit& kind);

// With the normaliser in the output instead (gauge raw), the state of such attention only sums: λ = 1
// exactly, at every step. Constant.
Transition SummingTransition(int64_t units, int64_t multiplicity);

// log η_i [B,H,T] of η_i = φ(q_i)·(carried + Σ_{j<=i} φ(k_j)) in float64; NaN where η is negative, -inf where
// it is 0. q_features, k_features [B,H,T,F]; `carried` [B,H,1,F] is the sum over earlier chunks, undefined at
// first, and extended.
at::Tensor LogLinearNormaliser(const at::Tensor& q_features, const at::Tensor& k_features,
                               at::Tensor& carried);

// log η of norm attention from its pre-activations a (the projection and a head's offset), in float64.
enum class NormMap { kExp, kSoftplus, kSigmoid, kElu };
enum class NormStyle {
  kExponential,  // η = e^{f(a)}, f the map: arXiv 2510.09379
  kPlain,        // η = f(a): arXiv 2405.15731, which has no kElu
};
at::Tensor LogNormNormaliser(const at::Tensor& a, NormMap map, NormStyle style);

}  // namespace eigsvc
