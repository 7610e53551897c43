// Eigenvalues of a Transition by the cheapest exact route. Start here for which route that is.
#pragma once

#include <cstdint>
#include <vector>

#include "ATen/core/Tensor.h"
#include "absl/status/statusor.h"
#include "models/base/solver_precision.h"
#include "models/base/stop_token.h"
#include "models/base/window.h"
#include "models/transition/transition.h"

namespace eigsvc {

// What a unit stores of each step, or window of steps, whatever the values are: K eigenvalues.
struct EigenvalueLayout {
  int64_t rows = 0, steps = 0, units = 0;
  // [K]: state dimensions that share each; 0 stands for infinite. DeltaNet: {(N-1)·dim v, dim v}.
  std::vector<int64_t> multiplicities;
  bool conjugate_pairs = false;       // each stands for itself and its conjugate
  bool may_have_phase = false;        // some λ can be other than positive real or zero
  bool conditioned = false;           // condition numbers come with the eigenvalues (S4)
  at::ScalarType type = at::kDouble;  // of log_magnitude and phase
};

struct Eigenvalues {
  EigenvalueLayout layout;
  at::Tensor log_magnitude;  // [B,T,U,K], on the transition's device; -inf stands for λ = 0
  at::Tensor phase;  // same shape, radians in (-π, π]; undefined when every λ is positive real or zero
  // With keep_operands, where log|λ| is not formed; else undefined:
  at::Tensor factors;   // [U,K]: log_magnitude, [B,T,U,1], is to be times these
  at::Tensor previous;  // [B,1,U,1]: log_magnitude is log η, this that of the step before (ScalarPerUnit)
  // Undefined unless the layout is `conditioned`; [1,1,U,K] float64 on the CPU:
  at::Tensor condition;  // 1/|yᴴx| of the unit left and right eigenvectors
  at::Tensor error;      // what log|λ| may be off by, to first order: the solver's ε·‖A‖·condition
  int bits = 0;          // of the solver's precision
  int64_t redone = 0;    // matrices that a batched solver gave up on and that the host solved instead
};

struct EigenvalueOptions {
  SolverPrecision precision = SolverPrecision::kDouble;
  // Of products over the windows of the transition's steps, the first of which begins at the first step.
  Window window;
  const StopToken* stop = nullptr;  // looked at between pieces of at most about 50 ms, or one matrix
  // Leave the phase undefined where all are 0, for which a device is waited for. Else it is defined wherever
  // the layout may have one.
  bool drop_zero_phases = true;
  bool keep_operands = false;  // give what is a product or a difference as what it is of
};

// INVALID_ARGUMENT for inconsistent shapes. Of windows, `steps` counts them, unless the transition is
// constant.
absl::StatusOr<EigenvalueLayout> DescribeEigenvalues(const Transition& transition, const Window& window = {});

// ScalarPerUnit, Nilpotent, Diagonal: closed forms. DiagonalPlusLowRank of d·I: d and d - eig(vᵀu). Of other
// d, rank 1, real, u∘v >= 0 (KDA, RWKV-7): a symmetric problem with the same eigenvalues. With `step` (S4):
// the secular equation where precision is kMulti. All other: a general solver. A matrix that is not finite
// gives NaN. All but what is given as log λ already (ScalarPerUnit, a real Diagonal with kExp) is computed in
// float64. INVALID_ARGUMENT as above, and for kMulti of too large an S4; INTERNAL when a solver does not
// converge; CANCELLED and DEADLINE_EXCEEDED from `stop`.
//
// Of windows: a constant transition's logarithms times W; sums of the steps' logarithms where Λ is scalar or
// diagonal; of d·I and low rank what window_products.h says, and of the rest periodic QR, so that no product
// is formed. INVALID_ARGUMENT for fewer steps than W, and, naming the kind, where no exact route is known.
absl::StatusOr<Eigenvalues> ComputeEigenvalues(const Transition& transition,
                                               const EigenvalueOptions& options = {});

}  // namespace eigsvc
