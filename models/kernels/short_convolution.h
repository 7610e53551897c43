// The depthwise causal convolution over time that stands in front of many mixers, with what follows it: y_t =
// silu(bias + Σ_j weight_j·x_{t-taps+1+j}), a channel by itself. One pass over memory. Plain pointers.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "models/kernels/element.h"

namespace eigsvc {

// x [rows,steps,channels], channels side by side; y dense of the same shape.
struct ShortConvolutionProblem {
  static constexpr int kMostTaps = 4;
  static constexpr int64_t kMostRows = 65535, kMostSteps = 65535 * 16;  // of a launch

  Element element = Element::kFloat32;  // of x and y
  const void* x = nullptr;
  int64_t rows = 0, steps = 0, channels = 0;
  int64_t row_stride = 0, step_stride = 0;  // of x, in elements
  int taps = 0;                             // 1 to kMostTaps
  const float* weight = nullptr;            // [channels,taps]
  const float* bias = nullptr;              // [channels], or null
  const float* before = nullptr;  // x of the taps-1 steps before, [rows,taps-1,channels]; null: zeros
  bool silu = false;
  void* y = nullptr;
};

// The plain form, in float64; writes float32 to y whatever the element of x.
void ConvolvePlainly(const ShortConvolutionProblem& problem);
// Pointers are of the current device; queued on `stream` (a cudaStream_t). INVALID_ARGUMENT for float64 or
// more of something than that; INTERNAL naming the CUDA error. Where EIGSVC_CUDA_KERNELS is defined.
absl::Status ConvolveOnCuda(const ShortConvolutionProblem& problem, void* stream);

}  // namespace eigsvc
