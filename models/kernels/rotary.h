// Rotary position embedding in one pass over memory: each pair (a, b) of the first 2·half values of a head
// becomes (a·cos - b·sin, b·cos + a·sin) of its step's angles; the rest stays. Plain pointers.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "models/kernels/element.h"

namespace eigsvc {

struct RotaryProblem {
  Element element = Element::kFloat32;  // of all
  const void* x = nullptr;              // [rows,steps,heads,size], a head's values side by side
  int64_t rows = 0, steps = 0, heads = 0, size = 0;
  int64_t row_stride = 0, step_stride = 0, head_stride = 0;  // in elements
  int64_t half = 0;                                          // pairs; 2·half <= size
  bool interleaved = false;                                  // pairs are neighbours; else `half` values apart
  const void* cos = nullptr;                                 // [steps,half], so sin
  const void* sin = nullptr;
  void* y = nullptr;  // dense [rows,steps,heads,size]
};

// The plain form, in float64; writes float32 to y whatever the element of x.
void RotatePlainly(const RotaryProblem& problem);
// Pointers are of the current device; queued on `stream` (a cudaStream_t). INVALID_ARGUMENT for float64;
// INTERNAL naming the CUDA error. Where EIGSVC_CUDA_KERNELS is defined.
absl::Status RotateOnCuda(const RotaryProblem& problem, void* stream);

}  // namespace eigsvc
