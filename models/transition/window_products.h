// Eigenvalues of windows whose steps do not commute, without forming their product (models/kernels/
// periodic_eigenvalues.h says why).
#pragma once

#include <cstdint>

#include "ATen/core/Tensor.h"
#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "models/base/stop_token.h"
#include "models/base/window.h"
#include "models/transition/discretize.h"
#include "models/transition/transition.h"

namespace eigsvc {

// Of real Λ, given for `length` steps from `begin` on, [B,length,U,N,N], where `sizes` is [B,T,U,N,..]:
// [B,windows,U,N] by periodic QR. INTERNAL where it does not converge, CANCELLED and DEADLINE_EXCEEDED from
// `stop`, which may be null; so below. Matrices that a batched solver gave up on and that the host solved
// instead are added to `redone`. Throws like LibTorch.
absl::StatusOr<LogPolar> DenseWindows(at::IntArrayRef sizes,
                                      absl::FunctionRef<at::Tensor(int64_t begin, int64_t length)> matrices,
                                      const Window& window, const StopToken* stop, int64_t* redone);

// How many eigenvalues of a window of d·I - u vᵀ, N×N of rank R each, are other than the product of the d.
int64_t MovedEigenvalues(const DiagonalPlusLowRank& kind, const Window& window);

// Of d·I - u vᵀ, real: [B,windows,U,1+M], the product of the d first, for M moved eigenvalues, M < N; else
// [..,N].
//
// With û = u/d, the columns of W steps side by side in U and V, and G = VᵀU, a window is Πd times I - U L⁻¹
// Vᵀ where L is the identity and G strictly below the diagonal (the compact WY form; DeltaNet, arXiv
// 2406.06484), and M of its eigenvalues are those of the M×M matrix L⁻¹(I - G on and above the diagonal).
// Where M = N, and where these do not multiply to the determinant that the steps have, periodic QR takes
// over: on all dimensions, or on the M that the u span.
absl::StatusOr<LogPolar> LowRankWindows(const DiagonalPlusLowRank& kind, const Window& window,
                                        const StopToken* stop, int64_t* redone);

}  // namespace eigsvc
