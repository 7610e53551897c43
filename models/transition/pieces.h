// Batches of eigenvalue problems in float64, in pieces between which the stop token is looked at.
#pragma once

#include "ATen/core/Tensor.h"
#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "models/base/stop_token.h"

namespace eigsvc {

// Joins solve(begin, length) over [0, count), in pieces of about 25 ms as measured, the first of them guessed
// from `operations` and bounded by `doubles` of memory, both of one problem. Where the batched kernels may be
// what solves, pieces are whole packs of theirs, so that a result does not depend on how fast the machine
// was. `stop` may be null.
absl::StatusOr<at::Tensor> InPieces(
    int64_t count, double operations, int64_t doubles, const StopToken* stop,
    absl::FunctionRef<absl::StatusOr<at::Tensor>(int64_t begin, int64_t length)> solve);

// Of a general eigenvalue problem of order `size`, roughly.
double SolverOperations(int64_t size);

// DenseEigenvalues (dense_eigenvalues.h, also of `redone`) [P,N] complex of matrices [P,N,N]. Throws like
// LibTorch; so below.
absl::StatusOr<at::Tensor> DenseEigenvaluesInPieces(const at::Tensor& matrices, const StopToken* stop,
                                                    int64_t* redone);

// Eigenvalues [P,N] of diag(d) - z zᵀ for real d, z [P,N]; NaN where a problem is not finite.
absl::StatusOr<at::Tensor> SymmetricRankOneEigenvalues(const at::Tensor& d, const at::Tensor& z,
                                                       const StopToken* stop);

}  // namespace eigsvc
