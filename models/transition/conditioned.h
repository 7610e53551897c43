// Eigenvalues with their condition numbers of a few constant matrices diag(d) - u vᵀ: S4's.
#pragma once

#include "ATen/core/Tensor.h"
#include "absl/status/statusor.h"
#include "models/base/solver_precision.h"
#include "models/base/stop_token.h"

namespace eigsvc {

struct ConditionedEigenvalues {  // [S,N] on the CPU
  at::Tensor values;             // complex128
  at::Tensor condition, error;   // float64; of secular.h's SecularSolution
  int bits = 0;
};

// d [S,N], u, v [S,N,R], real or complex. Dealt over LibTorch's threads. Errors of SolveSecular and `stop`;
// throws like LibTorch.
absl::StatusOr<ConditionedEigenvalues> SolveConditioned(const at::Tensor& d, const at::Tensor& u,
                                                        const at::Tensor& v, SolverPrecision precision,
                                                        const StopToken* stop);

}  // namespace eigsvc
