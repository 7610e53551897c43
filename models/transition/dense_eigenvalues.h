// Eigenvalues of batches of dense matrices: the batched kernels where they apply, LibTorch's solver
// elsewhere.
#pragma once

#include "ATen/core/Tensor.h"

namespace eigsvc {

// matrix [..,N,N] real or complex, of any floating type -> [..,N] complex128 on its device, solved in
// float64; NaN for a matrix that is not finite. Real matrices up to kMaxBatchedOrder go to models/kernels;
// what does not converge there, larger and complex ones to LAPACK or its kin. Throws like LibTorch.
at::Tensor DenseEigenvalues(const at::Tensor& matrix);

}  // namespace eigsvc
