// Transition: how one unit of a layer carries its state from step i-1 to step i (h_i = Λ_i h_{i-1} + B_i u_i;
// arXiv 2510.09379, arXiv 2405.15731), as a small closed variant. Start here for the mathematics.
// Every member is detached. Shapes: B batch, T steps of the chunk, U units, N state size.
//
// `multiplicity`: how many dimensions of a unit's state share each eigenvalue of the matrix that is given:
// dim v of a head whose state is a matrix of keys and values. 0 stands for infinite (softmax).
#pragma once

#include <cstdint>
#include <variant>

#include "ATen/core/Tensor.h"
#include "absl/strings/string_view.h"

namespace eigsvc {

// How a continuous-time Λ becomes the step's: none (already discrete), exp (ZOH: λ = e^{Δμ}), bilinear
// (λ = (1+Δμ/2)/(1-Δμ/2)). The tensors then hold Δμ.
enum class Discretization { kNone, kExp, kBilinear };

// Λ = λ·I, given as log λ: real, positive. Or, with `previous`, λ_i = η_{i-1}/η_i, given as log η: what
// counts takes the difference as it reads, all else LogMagnitude (normaliser.h).
struct ScalarPerUnit {
  at::Tensor log_magnitude;  // [B,T,U] real; log η, float32 or float64, where there is `previous`
  int64_t multiplicity = 1;
  at::Tensor previous = {};  // [B,1,U]: log η of the step before these
};

// Λ = diag(values). A decay that is known as log λ is given as such, with kExp.
struct Diagonal {
  at::Tensor values;  // [B,T,U,N] real or complex; with kExp or kBilinear: Δμ
  Discretization discretization = Discretization::kNone;
  bool conjugate_pairs = false;  // each stored value stands for itself and its conjugate
  int64_t multiplicity = 1;
  at::Tensor factors = {};  // [U,N] where only Δ changes with the step: values is Δ [B,T,U,1], Δμ = Δ·factors
};

// Λ = diag(d) - u vᵀ (rank R: last dimension of u and v).
struct DiagonalPlusLowRank {
  // [B,T,U,N]; or [B,T,U,1], which is d·I: then d itself has N-R dimensions to itself, and is stored once.
  at::Tensor d;
  at::Tensor u, v;  // [B,T,U,N,R]
  Discretization discretization = Discretization::kNone;
  int64_t multiplicity = 1;
  // S4 (A = diag(d) - P Pᴴ: u = P, v = conj P, both halves of each conjugate pair): Δ of each unit, [U]. The
  // transition is constant, the tensors hold μ instead of Δμ, and there may be fewer of them than units,
  // [1,1,S,N]: unit i then has matrix i mod S.
  at::Tensor step;
  // R = 1, real: the model knows that no u_j v_j is negative, so that nobody has to look, and wait, which
  // solver takes it.
  bool similar_to_symmetric = false;
};

// Λ itself; eigenvalues by a general solver.
struct Dense {
  at::Tensor matrix;  // [B,T,U,N,N] real or complex
  Discretization discretization = Discretization::kNone;
  int64_t multiplicity = 1;
};

// A finite impulse response (short convolution): a shift register, every eigenvalue 0.
struct Nilpotent {
  int64_t units = 0;
  int64_t order = 0;  // N, the register's length
};

using TransitionKind = std::variant<ScalarPerUnit, Diagonal, DiagonalPlusLowRank, Dense, Nilpotent>;

// The alternatives of TransitionKind, in its order: what is known of a transition before there is one.
enum class TransitionForm { kScalar, kDiagonal, kDiagonalPlusLowRank, kDense, kNilpotent };
inline TransitionForm FormOf(const TransitionKind& kind) { return static_cast<TransitionForm>(kind.index()); }
inline absl::string_view TransitionFormName(TransitionForm form) {
  switch (form) {
    case TransitionForm::kScalar:
      return "scalar";
    case TransitionForm::kDiagonal:
      return "diagonal";
    case TransitionForm::kDiagonalPlusLowRank:
      return "diagonal plus low rank";
    case TransitionForm::kDense:
      return "dense";
    case TransitionForm::kNilpotent:
      return "nilpotent";
  }
  return "scalar";
}

struct Transition {
  TransitionKind kind;
  bool constant =
      false;  // the same at every step and in every batch: T = 1 and B = 1, counted once an analysis
  int64_t first_step =
      0;  // of the chunk, 0-based in the sequence; attention starts at 1 (λ_0 acts on h_{-1} = 0)
  double noise_floor = 0;  // absolute error of log|λ|, from the dtype and the size of what was subtracted
  // [] float64, in place of noise_floor where a device knows it and nobody has waited for it; else undefined.
  at::Tensor device_noise_floor;
};

}  // namespace eigsvc
