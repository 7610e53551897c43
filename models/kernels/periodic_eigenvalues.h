// Eigenvalues of products Φ = A_{w-1}…A_0 of small real matrices by periodic QR, without forming Φ: formed in
// floating point, a product of more than a few dozen factors has rank 1 left, and what else a solver then
// finds is noise. Here each factor is perturbed by a modest multiple of ε·‖A_k‖, whatever w is, and log|λ| is
// a sum of logarithms that cannot over- or underflow. Plain pointers, no LibTorch.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "models/base/window.h"
#include "models/kernels/batched_eigenvalues.h"

namespace eigsvc {

// Windows over the steps of matrices [rows,steps,units,order,order], row-major and dense. Results
// [rows,window.Count(steps),units,order] each; of a conjugate pair, which is adjacent, the positive phase
// comes first. No two results overlap.
struct PeriodicProblem {
  const double* matrices = nullptr;
  int64_t rows = 0, steps = 0, units = 0;
  int order = 0;  // 1 or more
  Window window;
  double* log_magnitude = nullptr;   // -inf for λ = 0
  double* phase = nullptr;           // radians in (-π, π]
  EigenOutcome* outcomes = nullptr;  // [rows,windows,units]

  constexpr int64_t Count() const { return rows * window.Count(steps) * units; }
  // Of product i < Count(), so that there are windows, the first factor, and how far it is to the next.
  constexpr const double* Factors(int64_t i) const {
    const int64_t windows = window.Count(steps),
                  step = i / units / windows * steps +  // NOLINT(clang-analyzer-core.DivideZero)
                         i / units % windows * window.stride;
    return matrices + (step * units + i % units) * order * order;
  }
  constexpr int64_t Distance() const { return units * order * order; }
};

// Products `first` to `first + count`, exclusive, in the order of `outcomes`. One thread: callers deal them
// out. INVALID_ARGUMENT for an order below 1; RESOURCE_EXHAUSTED.
absl::Status PeriodicEigenvaluesOnCpu(const PeriodicProblem& problem, int64_t first, int64_t count);

// What a product takes of the device's memory while it is solved, in elements.
int64_t PeriodicWorkspace(const PeriodicProblem& problem);
// A warp a product, as many at once as `work` has room for: `slots` times PeriodicWorkspace. Pointers are of
// the current device; `stream` is a cudaStream_t, and the call returns when the work is queued. Factors that
// sweeps do not part are left to the CPU's form (kNotConverged). INVALID_ARGUMENT, or INTERNAL naming the
// CUDA error. Defined where the build has a CUDA compiler and a CUDA build of LibTorch (EIGSVC_CUDA_KERNELS).
absl::Status PeriodicEigenvaluesOnCuda(const PeriodicProblem& problem, double* work, int64_t slots,
                                       void* stream);

}  // namespace eigsvc
