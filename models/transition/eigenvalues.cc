#include "models/transition/eigenvalues.h"

#include <limits>
#include <numbers>
#include <string>
#include <utility>

#include "ATen/TensorOperators.h"
#include "ATen/core/IListRef.h"
#include "ATen/ops/atan2.h"
#include "ATen/ops/cat.h"
#include "ATen/ops/diag_embed.h"
#include "ATen/ops/full.h"
#include "ATen/ops/hypot.h"
#include "ATen/ops/imag.h"
#include "ATen/ops/isfinite.h"
#include "ATen/ops/linalg_eigvalsh.h"
#include "ATen/ops/log.h"
#include "ATen/ops/log1p.h"
#include "ATen/ops/matmul.h"
#include "ATen/ops/real.h"
#include "ATen/ops/remainder.h"
#include "ATen/ops/zeros_like.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "models/base/status_macros.h"
#include "models/tensor/torch_call.h"
#include "models/transition/dense_eigenvalues.h"

namespace eigsvc {
namespace {

constexpr double kPi = std::numbers::pi;

absl::Status CheckShape(const at::Tensor& x, int64_t dimensions, absl::string_view what) {
  if (x.defined() && x.dim() == dimensions) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("a transition's ", what, " must have ", dimensions, " dimensions, not [",
                   x.defined() ? absl::StrJoin(x.sizes(), ",") : "undefined", "]"));
}

absl::Status CheckSame(at::IntArrayRef found, at::IntArrayRef expected, absl::string_view what) {
  if (found == expected) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("a transition's ", what, " has shape [",
                                                 absl::StrJoin(found, ","), "] where [",
                                                 absl::StrJoin(expected, ","), "] was expected"));
}

at::Tensor ToFull(const at::Tensor& x) { return x.to(x.is_complex() ? c10::kComplexDouble : c10::kDouble); }

// log|1 + w| for w = a + bi without loss where w is small.
at::Tensor LogAbsOnePlus(const at::Tensor& a, const at::Tensor& b) {
  return at::log1p(2 * a + a * a + b * b) / 2;
}

// log|λ| and arg λ in (-π, π] of mapped values; in float64 but for a real Δμ of kExp, which is log|λ| itself.
Eigenvalues Discretized(const at::Tensor& values, Discretization discretization) {
  if (discretization == Discretization::kExp && !values.is_complex()) return {values, {}};
  const at::Tensor full = ToFull(values);
  const at::Tensor a = full.is_complex() ? at::real(full) : full;
  // Adding zero turns -0 into +0, so that negative real values have phase π, never -π.
  const at::Tensor b = full.is_complex() ? at::imag(full) + 0.0 : at::zeros_like(full);
  Eigenvalues result;
  switch (discretization) {
    case Discretization::kNone:
      result.log_magnitude = at::log(at::hypot(a, b));
      result.phase = at::atan2(b, a);
      break;
    case Discretization::kExp:
      result.log_magnitude = a.clone();
      result.phase = kPi - at::remainder(kPi - b, 2 * kPi);
      break;
    case Discretization::kBilinear:
      // λ = (1+w)/(1-w) for w = Δμ/2; its argument is that of (1+w)·conj(1-w).
      result.log_magnitude = LogAbsOnePlus(a / 2, b / 2) - LogAbsOnePlus(-a / 2, -b / 2);
      result.phase = at::atan2(b, 1 - (a * a + b * b) / 4);
      break;
  }
  // Zero has no phase; nor is one kept when every eigenvalue is positive real.
  result.phase =
      result.phase.masked_fill(result.log_magnitude == -std::numeric_limits<double>::infinity(), 0);
  if (!result.phase.any().item<bool>()) result.phase = at::Tensor();
  return result;
}

// Eigenvalues of diag(d) - u vᵀ in float64, real or complex, before discretisation.
at::Tensor LowRankEigenvalues(const DiagonalPlusLowRank& kind) {
  const at::Tensor d = ToFull(kind.d), u = ToFull(kind.u), v = ToFull(kind.v);
  const int64_t size = d.size(-1), rank = u.size(-1);
  if (rank < size && (d == d.narrow(-1, 0, 1)).all().item<bool>()) {
    // d·I - u vᵀ: d itself on the N-R dimensions that vᵀ does not see, d - eig(vᵀu) on the rest.
    const at::Tensor inner = at::matmul(v.transpose(-1, -2), u);
    const at::Tensor seen = rank == 1 ? inner.squeeze(-1) : DenseEigenvalues(inner);
    const at::Tensor rest = d.narrow(-1, 0, size - rank);
    const at::Tensor moved = d.narrow(-1, 0, rank) - seen;
    return at::cat({rest.to(moved.scalar_type()), moved}, -1);
  }
  if (rank == 1 && !d.is_complex() && !u.is_complex() && !v.is_complex()) {
    // det(diag(d) - u vᵀ - x) depends on the products u_j v_j alone, so where none is negative a symmetric
    // matrix has the same eigenvalues.
    const at::Tensor products = (u * v).squeeze(-1);
    const bool symmetric = (products >= 0).all().item<bool>() && at::isfinite(d).all().item<bool>() &&
                           at::isfinite(products).all().item<bool>();
    if (symmetric) {
      const at::Tensor z = products.sqrt().unsqueeze(-1);
      return at::linalg_eigvalsh(at::diag_embed(d) - at::matmul(z, z.transpose(-1, -2)));
    }
  }
  return DenseEigenvalues(at::diag_embed(d) - at::matmul(u, v.transpose(-1, -2)));
}

struct Compute {
  absl::StatusOr<Eigenvalues> operator()(const ScalarPerUnit& kind) const {
    EIGSVC_RETURN_IF_ERROR(CheckShape(kind.log_magnitude, 3, "log_magnitude"));
    Eigenvalues result;
    result.log_magnitude = kind.log_magnitude.unsqueeze(-1);
    result.multiplicity = kind.multiplicity;
    return result;
  }

  absl::StatusOr<Eigenvalues> operator()(const Diagonal& kind) const {
    EIGSVC_RETURN_IF_ERROR(CheckShape(kind.values, 4, "values"));
    Eigenvalues result = Discretized(kind.values, kind.discretization);
    result.multiplicity = kind.multiplicity;
    result.conjugate_pairs = kind.conjugate_pairs;
    return result;
  }

  absl::StatusOr<Eigenvalues> operator()(const DiagonalPlusLowRank& kind) const {
    EIGSVC_RETURN_IF_ERROR(CheckShape(kind.d, 4, "d"));
    EIGSVC_RETURN_IF_ERROR(CheckShape(kind.u, 5, "u"));
    EIGSVC_RETURN_IF_ERROR(CheckShape(kind.v, 5, "v"));
    EIGSVC_RETURN_IF_ERROR(CheckSame(kind.u.sizes().slice(0, 4), kind.d.sizes(), "u but for its rank"));
    EIGSVC_RETURN_IF_ERROR(CheckSame(kind.v.sizes(), kind.u.sizes(), "v"));
    Eigenvalues result = Discretized(LowRankEigenvalues(kind), kind.discretization);
    result.multiplicity = kind.multiplicity;
    return result;
  }

  absl::StatusOr<Eigenvalues> operator()(const Dense& kind) const {
    EIGSVC_RETURN_IF_ERROR(CheckShape(kind.matrix, 5, "matrix"));
    EIGSVC_RETURN_IF_ERROR(CheckSame(kind.matrix.sizes().slice(4), kind.matrix.sizes().slice(3, 1),
                                     "matrix in its last dimension"));
    Eigenvalues result = Discretized(DenseEigenvalues(kind.matrix), kind.discretization);
    result.multiplicity = kind.multiplicity;
    return result;
  }

  absl::StatusOr<Eigenvalues> operator()(const Nilpotent& kind) const {
    if (kind.units < 0 || kind.order < 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("a short convolution of ", kind.units, " units and order ", kind.order));
    }
    Eigenvalues result;
    result.log_magnitude = at::full({1, 1, kind.units, kind.order}, -std::numeric_limits<double>::infinity(),
                                    at::TensorOptions().dtype(c10::kDouble));
    return result;
  }
};

}  // namespace

absl::StatusOr<Eigenvalues> ComputeEigenvalues(const Transition& transition) {
  return CallTorch("eigenvalues", [&] { return std::visit(Compute(), transition.kind); });
}

}  // namespace eigsvc
