// What the analysis released with arXiv 2510.09379 (analysis/eval_eig.py) computes instead of a model's own
// transitions: definition PAPER_COMPAT (models/base/convention.h). The paper's families give it their
// projections, of the tensors that E1, E2 and E5 choose. Where a departure is off, the function is the exact
// one.
#pragma once

#include <cstdint>

#include "ATen/core/Tensor.h"
#include "absl/status/statusor.h"
#include "models/base/convention.h"
#include "models/base/stop_token.h"
#include "models/transition/transition.h"

namespace eigsvc {

// log η [B,H,T] of softmax attention at the last T of S steps; q [B,H,T,d], k [B,H,S,d]. E3: scores are q·k
// instead of q·k/√d. E4: the scores of later keys, of which a sequence of `length` >= S steps has length-1-t,
// are 0 and take part in the row's largest m_t; each then adds e^{m_t} to η_t. Scores in the type of q, the
// rest in float64; some rows of the T×S matrix at a time. Errors of `stop`, which may be null.
absl::StatusOr<at::Tensor> CompatLogSoftmaxNormaliser(const at::Tensor& q, const at::Tensor& k,
                                                      int64_t length, const Departures& departures,
                                                      const StopToken* stop);

// E7 of linear attention: η = 0 becomes 2e-23.
at::Tensor CompatLogLinearNormaliser(const at::Tensor& log_eta, const Departures& departures);

// E7 of norm attention, whose factor n = e^{-f(a)} is rounded to `type`, the model's: n = 0 becomes 2e-23.
// `log_eta` is f(a).
at::Tensor CompatLogNormNormaliser(const at::Tensor& log_eta, at::ScalarType type,
                                   const Departures& departures);

// log|λ| of λ rounded to `type`, where E9 counts |λ| = 1 twice: a decay below the type's resolution is 1.
at::Tensor LogOfRounded(const at::Tensor& log_magnitude, at::ScalarType type);

// E8: λ [N] complex64 of one channel of S4, whose discrete matrix is formed in complex64 from A = diag(d) -
// p pᴴ and its step. NumPy solves it in complex128 and rounds. d, p [N] complex. Throws like LibTorch.
at::Tensor CompatS4Eigenvalues(const at::Tensor& d, const at::Tensor& p, double step);

}  // namespace eigsvc
