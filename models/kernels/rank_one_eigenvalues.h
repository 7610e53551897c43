// Eigenvalues of many real symmetric matrices diag(d) - z zᵀ at once, by the secular equation: what a gated
// delta rule's transition diag(d)(I - β k kᵀ) comes to, in O(n) a root instead of O(n³) a matrix (Bunch,
// Nielsen & Sorensen 1978; Li, LAPACK Working Note 89, 1993). Plain pointers, no LibTorch.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "models/kernels/batched_eigenvalues.h"

namespace eigsvc {

template <typename T>
struct RankOneProblem {
  const T* d = nullptr;  // [count, order]
  const T* z = nullptr;  // likewise
  int64_t count = 0;
  int order = 0;                     // 1 to kMaxRankOneOrder
  T* values = nullptr;               // [count, order], ascending
  EigenOutcome* outcomes = nullptr;  // [count]: kConverged, or kNotFinite, whose values are NaN
};

inline constexpr int kMaxRankOneOrder = 1024;

// Each value is that of a matrix within 20·ε·(max|d| + ‖z‖²) of the given one. kNotFinite where d, z or ‖z‖²
// is not finite. T is float or double. INVALID_ARGUMENT for an order out of range.

// One thread: callers deal the batch out.
template <typename T>
absl::Status RankOneEigenvaluesOnCpu(const RankOneProblem<T>& problem);

// A part of a warp a problem, a lane a root. Pointers are of the current device; queued on `stream` (a
// cudaStream_t). INTERNAL naming the CUDA error. Where EIGSVC_CUDA_KERNELS is defined.
template <typename T>
absl::Status RankOneEigenvaluesOnCuda(const RankOneProblem<T>& problem, void* stream);

}  // namespace eigsvc
