// The batched eigenvalues' two forms on a GPU, of which EigenvaluesOnCuda takes the faster by order: so that
// each can be tested and timed where the other is taken.
#pragma once

#include "absl/status/status.h"
#include "models/kernels/batched_eigenvalues.h"

namespace eigsvc::kernels {

// Arguments and errors as EigenvaluesOnCuda, and like it defined with EIGSVC_CUDA_KERNELS. Any order that
// shared memory holds, for a count > 0.

// A warp a matrix, or a part of a warp of as many lanes as the order asks for.
template <typename T>
absl::Status EigenvaluesByWarps(const EigenProblem<T>& problem, void* stream);

// A block of several warps a matrix.
template <typename T>
absl::Status EigenvaluesByBlocks(const EigenProblem<T>& problem, void* stream);

}  // namespace eigsvc::kernels
