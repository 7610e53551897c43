// Eigenvalues of batches of dense matrices: the batched kernels where they apply, LibTorch's solver
// elsewhere.
#pragma once

#include <cstdint>

#include "ATen/core/Tensor.h"

namespace eigsvc {

// matrix [..,N,N] real or complex, of any floating type -> [..,N] complex128 on its device, solved in
// float64; NaN for a matrix that is not finite. Real matrices up to kMaxBatchedOrder go to models/kernels,
// larger and complex ones to LAPACK or its kin. What does not converge in the kernels is redone by LAPACK on
// the host, and how many there were is added to `redone`, which may be null. `most_sweeps` as in
// EigenProblem. Throws like LibTorch, also where a kernel cannot be launched.
at::Tensor DenseEigenvalues(const at::Tensor& matrix, int64_t* redone, int most_sweeps = 0);

}  // namespace eigsvc
