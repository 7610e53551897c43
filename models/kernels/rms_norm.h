// RMS norm, and the gated one of Mamba-2 and its kin, in one pass over memory: v = x, x·silu(z) or x; y =
// v·rsqrt(mean(v²) + eps)·weight, the mean over a group's values, and y·silu(z) where the gate comes after.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "models/kernels/element.h"

namespace eigsvc {

struct RmsNormProblem {
  enum class Gate { kNone, kBeforeNorm, kAfterNorm };

  Element x_element = Element::kFloat32;  // float32, or the other one
  Element element = Element::kFloat32;    // of z, weight and y
  Gate gate = Gate::kNone;
  const void* x = nullptr;  // [rows,groups,size], a row's values side by side
  const void* z = nullptr;  // the same; the gate
  int64_t rows = 0, groups = 1, size = 0;
  int64_t x_stride = 0, z_stride = 0;  // from row to row, in elements
  const void* weight = nullptr;        // [groups,size]
  double eps = 0;
  void* y = nullptr;  // dense [rows,groups,size]
};

// The plain form, in float64; writes float32 to y whatever the element of x.
void RmsNormPlainly(const RmsNormProblem& problem);
// Pointers are of the current device; queued on `stream` (a cudaStream_t). INVALID_ARGUMENT for float64;
// INTERNAL naming the CUDA error. Where EIGSVC_CUDA_KERNELS is defined.
absl::Status RmsNormOnCuda(const RmsNormProblem& problem, void* stream);

}  // namespace eigsvc
