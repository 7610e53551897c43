// What every form of the kernels refuses.
#pragma once

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "models/kernels/batched_eigenvalues.h"

namespace eigsvc::kernels {

inline absl::Status CheckOrder(int order, int most = kMaxBatchedOrder) {
  if (order >= 1 && order <= most) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("batched eigenvalues of matrices of order ", order,
                                                 "; orders 1 to ", most, " are solved"));
}

}  // namespace eigsvc::kernels
