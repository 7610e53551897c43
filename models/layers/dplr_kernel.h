// The convolution kernel of a state-space model whose matrix is diagonal plus low rank (S4; arXiv
// 2111.00396), by its generating function at the roots of unity.
#pragma once

#include <cstdint>

#include "ATen/core/Tensor.h"

namespace eigsvc {

// x' = A x + b u, y = c x with A = diag(lambda) - p qᵀ, by the bilinear method with step dt. All complex128
// but dt: H channels, N states, rank R, M outputs a channel.
struct DplrSystem {
  at::Tensor lambda;  // [H,N]
  at::Tensor p, q;    // [H,N,R]
  at::Tensor b;       // [H,N]
  at::Tensor c;       // [M,H,N], of the truncated kernel: c(I - Ā^L) of the system's own c
  at::Tensor dt;      // [H] float64
};

// Re(c Ā^l b̄) of the system's own c for l < length = L: [M,H,L] float64. Memory is bounded by working on some
// channels at a time.
at::Tensor DplrKernel(const DplrSystem& system, int64_t length);

}  // namespace eigsvc
