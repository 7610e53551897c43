// Mamba-1's selective scan (arXiv 2312.00752, section 3.3) without its states in memory: h_t[c,n] =
// exp(Δ_t[c]·A[c,n])·h_{t-1}[c,n] + Δ_t[c]·x_t[c]·B_t[n], y_t[c] = Σ_n C_t[n]·h_t[c,n] + D[c]·x_t[c]. Plain
// pointers.
#pragma once

#include <cstdint>

#include "absl/status/status.h"

namespace eigsvc {

// Sizes: B rows, T steps, C channels, N states a channel.
struct SelectiveScanProblem {
  static constexpr int64_t kMostOrder = 32, kMostRows = 65535;  // of a launch

  int64_t rows = 0, steps = 0, channels = 0, order = 0;
  // [B,T,C], channels side by side; [B,T,N], states side by side. Strides in elements.
  const float* x = nullptr;
  const float* dt = nullptr;
  const float* b = nullptr;
  const float* c = nullptr;
  int64_t x_row_stride = 0, x_step_stride = 0, dt_row_stride = 0, dt_step_stride = 0;
  int64_t b_row_stride = 0, b_step_stride = 0, c_row_stride = 0, c_step_stride = 0;
  const float* a = nullptr;        // [C,N], not positive
  const float* d = nullptr;        // [C]
  const float* initial = nullptr;  // [B,C,N], or null for zeros
  float* y = nullptr;              // dense [B,T,C]
  float* final_state = nullptr;    // [B,C,N]; not `initial`
  float* room = nullptr;           // Room() numbers, for use meanwhile; a device's only

  // Stretches of time that a device goes through side by side.
  int64_t Stretches() const;
  int64_t Room() const { return Stretches() == 1 ? 0 : rows * Stretches() * channels * (order + 1); }
};

// The plain form, in float64.
void SelectiveScanPlainly(const SelectiveScanProblem& problem);
// Pointers are of the current device; queued on `stream` (a cudaStream_t). INVALID_ARGUMENT for more of
// something than that; INTERNAL naming the CUDA error. Where EIGSVC_CUDA_KERNELS is defined.
absl::Status SelectiveScanOnCuda(const SelectiveScanProblem& problem, void* stream);

}  // namespace eigsvc
