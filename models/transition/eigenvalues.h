// Eigenvalues of a Transition by the cheapest exact route. The only place that knows the closed forms.
#pragma once

#include "ATen/core/Tensor.h"
#include "absl/status/statusor.h"
#include "models/transition/transition.h"

namespace eigsvc {

struct Eigenvalues {
  at::Tensor
      log_magnitude;  // [B,T,U,K] float32 or float64, on the transition's device; -inf stands for λ = 0
  at::Tensor phase;   // same shape, radians in (-π, π]; undefined when every λ is positive real or zero
  int64_t multiplicity = 1;  // of each entry; 0 stands for infinite
  bool conjugate_pairs = false;
};

// ScalarPerUnit, Diagonal, Nilpotent: closed forms. DiagonalPlusLowRank: N-R times d and d - eig(vᵀu) where d
// is constant over N and R < N; a symmetric problem where R = 1, all is real and u∘v >= 0; otherwise as
// dense. Dense: a general solver in float64; a matrix that is not finite gives NaN. All but what is given as
// log λ already (ScalarPerUnit, a real Diagonal with kExp) is computed in float64. INVALID_ARGUMENT for
// inconsistent shapes; INTERNAL when the solver does not converge.
absl::StatusOr<Eigenvalues> ComputeEigenvalues(const Transition& transition);

}  // namespace eigsvc
