// Which SIMD forms of the batched eigenvalues this processor has, and how one takes a batch.
#pragma once

#include <vector>

#include "absl/status/status.h"
#include "models/kernels/batched_eigenvalues.h"
#include "models/kernels/simd_solvers.h"

namespace eigsvc::kernels {

// The widest first, which EigenvaluesOnCpu takes; empty where there is none.
template <typename T>
std::vector<SimdSolver<T>> SimdSolversHere();

// The batch by one of them, in packs of its lanes. RESOURCE_EXHAUSTED.
template <typename T>
absl::Status EigenvaluesInPacks(const SimdSolver<T>& solver, const EigenProblem<T>& problem);

}  // namespace eigsvc::kernels
