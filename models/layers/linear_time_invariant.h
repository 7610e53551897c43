// Linear time-invariant systems: convolution by FFT, and diagonal state-space models by their kernels and
// states. λ is given as its logarithm, so that powers keep their digits however near |λ| is to 1.
#pragma once

#include <cstdint>

#include "ATen/core/Tensor.h"

namespace eigsvc {

// y_t = Σ_{s<=t} kernel_s·u_{t-s}, the last `steps` of them. u [B,T,H] real, kernel [H,L] of its type (what
// it lacks is zero) -> [B,steps,H]. By FFT: exact to a few roundings of the largest output.
at::Tensor CausalFftConvolve(const at::Tensor& u, const at::Tensor& kernel, int64_t steps);

// λ^(first + stride·j) for j < count: log_lambda [...] complex128 -> [...,count].
at::Tensor Powers(const at::Tensor& log_lambda, int64_t first, int64_t stride, int64_t count);

// One diagonal system a channel: h_t = λ∘h_{t-1} + u_t, y_t = Re Σ_n c_n h_n (C of a conjugate pair comes
// doubled). log_lambda and c [H,N], complex128.
struct DiagonalSystem {
  at::Tensor log_lambda, c;
};
// Re Σ_n c_n λ_n^l for l < steps: [H,steps] float64.
at::Tensor DiagonalKernel(const DiagonalSystem& system, int64_t steps);
// What a state [B,H,N] before the first step gives to y: [B,steps,H] float64.
at::Tensor DiagonalResponse(const DiagonalSystem& system, const at::Tensor& state, int64_t steps);
// The state behind u [B,T,H]; `state` before it, undefined for zero. [B,H,N] complex128.
at::Tensor DiagonalState(const DiagonalSystem& system, const at::Tensor& u, const at::Tensor& state);

// One diagonal system with many inputs and outputs: h_t = λ∘h_{t-1} + v_t for v [B,T,N] complex64 or
// complex128, log_lambda [N] complex128, state [B,N] undefined for zero -> every h_t, [B,T,N] of v's type.
at::Tensor ScanDiagonal(const at::Tensor& log_lambda, const at::Tensor& v, const at::Tensor& state);

}  // namespace eigsvc
