// HiPPO-LegS as a normal matrix plus a low rank one, diagonalised: what S4 and S5 start from (arXiv
// 2008.07669, arXiv 2111.00396).
#pragma once

#include <cstdint>

#include "ATen/core/Tensor.h"

namespace eigsvc {

struct Hippo {
  at::Tensor lambda;   // [N] complex128, by rising imaginary part: A is similar to diag(lambda) - p pᴴ
  at::Tensor p, b;     // [N] complex128, in the basis of `vectors`
  at::Tensor vectors;  // [N,N] complex128, unitary
};
// Keeps the last one. Safe for concurrent use.
Hippo HippoLegS(int64_t order);

}  // namespace eigsvc
