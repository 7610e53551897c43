// Eigenvalues of diag(d) - z zᵀ, many at once.
#pragma once

#include "ATen/core/Tensor.h"

namespace eigsvc {

// d, z [P,N] real, of one device; [P,N] float64, ascending; NaN where a problem is not finite. By
// models/kernels/rank_one_eigenvalues up to its largest order, on the device where it has the kernel; else by
// LibTorch. Throws like LibTorch.
at::Tensor SymmetricRankOne(const at::Tensor& d, const at::Tensor& z);

}  // namespace eigsvc
