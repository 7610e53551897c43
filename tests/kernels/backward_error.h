// How wrong eigenvalues are, whatever their condition.
#pragma once

#include <algorithm>
#include <cmath>
#include <complex>
#include <cstdint>
#include <limits>
#include <vector>

#include "ATen/ops/from_blob.h"
#include "ATen/ops/linalg_svdvals.h"

namespace eigsvc::testing {

// The largest σ_min(A - λI) over ‖A‖₂: the distance to the nearest matrix that has λ as an exact eigenvalue,
// in terms of the smallest of the usual norms. By LAPACK's singular values in float64. Of `values` some
// `most`, evenly spread, and one of each conjugate pair.
inline double BackwardError(const double* matrix, int64_t order,
                            const std::vector<std::complex<double>>& values, size_t most) {
  std::vector<std::complex<double>> looked_at;
  for (size_t i = 0; i < values.size(); ++i) {
    if (!std::isfinite(std::abs(values[i]))) return std::numeric_limits<double>::infinity();
    if (values[i].imag() >= 0) looked_at.push_back(values[i]);
  }
  const size_t stride = std::max<size_t>(1, looked_at.size() / most);
  std::vector<std::complex<double>> shifted;
  int64_t count = 0;
  for (size_t k = 0; k < looked_at.size(); k += stride, ++count) {
    shifted.insert(shifted.end(), matrix, matrix + order * order);
    for (int64_t i = 0; i < order; ++i) shifted[(count * order + i) * order + i] -= looked_at[k];
  }
  const double distance =
      at::linalg_svdvals(at::from_blob(shifted.data(), {count, order, order}, at::kComplexDouble))
          .select(-1, order - 1)
          .max()
          .item<double>();
  const double norm =
      at::linalg_svdvals(at::from_blob(const_cast<double*>(matrix), {order, order}, at::kDouble))
          .select(-1, 0)
          .item<double>();
  if (distance == 0) return 0;
  return norm == 0 ? std::numeric_limits<double>::infinity() : distance / norm;
}

}  // namespace eigsvc::testing
