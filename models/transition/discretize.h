// From eigenvalues of what a transition holds to log|λ| and arg λ of the step's map.
#pragma once

#include "ATen/core/Tensor.h"
#include "models/transition/transition.h"

namespace eigsvc {

struct LogPolar {
  at::Tensor log_magnitude;
  at::Tensor phase;  // radians in (-π, π]; undefined when every λ is positive real or zero
};

// In float64 but for a real Δμ of kExp, which is log|λ| itself. `look`: whether to wait for the phases and
// leave out those that are all 0. Throws like LibTorch.
LogPolar Discretized(const at::Tensor& values, Discretization discretization, bool look = true);

// What an absolute error of Δμ (of λ itself with kNone) makes of log|λ|, to first order. float64.
at::Tensor ErrorOfLogMagnitude(const at::Tensor& values, const at::Tensor& error,
                               Discretization discretization);

// To float64 or complex128.
at::Tensor ToFull(const at::Tensor& x);

}  // namespace eigsvc
