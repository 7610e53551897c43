#include "models/transition/eigenvalues.h"

#include <limits>
#include <string>
#include <utility>

#include "ATen/TensorOperators.h"
#include "ATen/core/IListRef.h"
#include "ATen/ops/arange.h"
#include "ATen/ops/cat.h"
#include "ATen/ops/diag_embed.h"
#include "ATen/ops/full.h"
#include "ATen/ops/matmul.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "models/base/status_macros.h"
#include "models/tensor/torch_call.h"
#include "models/transition/conditioned.h"
#include "models/transition/dense_eigenvalues.h"
#include "models/transition/discretize.h"
#include "models/transition/normaliser.h"
#include "models/transition/pieces.h"
#include "models/transition/window_products.h"
#include "models/transition/windows.h"

namespace eigsvc {
namespace {

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

bool IsScalarPlusLowRank(const DiagonalPlusLowRank& kind) {
  return kind.d.size(-1) == 1 && kind.u.size(-1) < kind.u.size(-2);
}

// Whether windows are what their steps' eigenvalues are, summed.
bool Commutes(const TransitionKind& kind) {
  return std::holds_alternative<ScalarPerUnit>(kind) || std::holds_alternative<Diagonal>(kind);
}

struct StepIsGiven {  // as the real matrix that multiplies the state
  template <typename Kind>
  bool operator()(const Kind&) const {
    return false;
  }
  bool operator()(const DiagonalPlusLowRank& kind) const {
    return kind.discretization == Discretization::kNone && !kind.d.is_complex() && !kind.u.is_complex() &&
           !kind.v.is_complex();
  }
  bool operator()(const Dense& kind) const {
    return kind.discretization == Discretization::kNone && !kind.matrix.is_complex();
  }
};

absl::Status CheckWindow(const Transition& transition, const Window& window) {
  if (transition.constant || Commutes(transition.kind) || std::visit(StepIsGiven{}, transition.kind))
    return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("no exact way is known to the eigenvalues of windows of ", window.length,
                   " steps of a transition that is ", TransitionFormName(FormOf(transition.kind)),
                   ", changes with the step, and is complex or given in continuous time; leave the window "
                   "(--window) out"));
}

struct Describe {
  const bool constant;

  static EigenvalueLayout Layout(at::IntArrayRef sizes, int64_t count, int64_t multiplicity) {
    return {sizes[0], sizes[1], sizes[2], std::vector<int64_t>(count, multiplicity)};
  }

  absl::StatusOr<EigenvalueLayout> operator()(const ScalarPerUnit& kind) const {
    EIGSVC_RETURN_IF_ERROR(CheckShape(kind.log_magnitude, 3, "log_magnitude"));
    if (kind.previous.defined()) {
      const at::Tensor& log_eta = kind.log_magnitude;
      EIGSVC_RETURN_IF_ERROR(
          CheckSame(kind.previous.sizes(), {log_eta.size(0), 1, log_eta.size(2)}, "previous log η"));
      const at::ScalarType type = log_eta.scalar_type();
      if ((type != at::kFloat && type != at::kDouble) || kind.previous.scalar_type() != type)
        return absl::InvalidArgumentError("a transition's log η are not all float32 or all float64");
    }
    EigenvalueLayout layout = Layout(kind.log_magnitude.sizes(), 1, kind.multiplicity);
    layout.type = kind.log_magnitude.scalar_type();
    return layout;
  }

  absl::StatusOr<EigenvalueLayout> operator()(const Diagonal& kind) const {
    EIGSVC_RETURN_IF_ERROR(CheckShape(kind.values, 4, "values"));
    int64_t count = kind.values.size(3);
    if (kind.factors.defined()) {
      EIGSVC_RETURN_IF_ERROR(CheckShape(kind.factors, 2, "factors"));
      EIGSVC_RETURN_IF_ERROR(CheckSame(kind.values.sizes().slice(2), {kind.factors.size(0), 1}, "Δ"));
      if (kind.factors.scalar_type() != kind.values.scalar_type())
        return absl::InvalidArgumentError("a transition's Δ and its factors are of two dtypes");
      count = kind.factors.size(1);
    }
    EigenvalueLayout layout = Layout(kind.values.sizes(), count, kind.multiplicity);
    layout.conjugate_pairs = kind.conjugate_pairs;
    layout.may_have_phase = kind.values.is_complex() || kind.discretization != Discretization::kExp;
    if (!layout.may_have_phase) layout.type = kind.values.scalar_type();
    return layout;
  }

  absl::StatusOr<EigenvalueLayout> operator()(const DiagonalPlusLowRank& kind) const {
    EIGSVC_RETURN_IF_ERROR(CheckShape(kind.d, 4, "d"));
    EIGSVC_RETURN_IF_ERROR(CheckShape(kind.u, 5, "u"));
    EIGSVC_RETURN_IF_ERROR(CheckShape(kind.v, 5, "v"));
    const int64_t size = kind.u.size(3), rank = kind.u.size(4);
    EIGSVC_RETURN_IF_ERROR(
        CheckSame(kind.u.sizes().slice(0, 3), kind.d.sizes().slice(0, 3), "u but for its matrix"));
    if (kind.d.size(3) != 1)
      EIGSVC_RETURN_IF_ERROR(CheckSame(kind.u.sizes().slice(3, 1), kind.d.sizes().slice(3), "u along d"));
    EIGSVC_RETURN_IF_ERROR(CheckSame(kind.v.sizes(), kind.u.sizes(), "v"));
    EigenvalueLayout layout = Layout(kind.d.sizes(), size, kind.multiplicity);
    layout.may_have_phase = true;
    if (kind.step.defined()) {
      EIGSVC_RETURN_IF_ERROR(CheckShape(kind.step, 1, "step"));
      layout.units = kind.step.size(0);
      layout.conditioned = true;
      if (!constant || layout.rows != 1 || layout.steps != 1 || kind.d.size(3) != size ||
          kind.d.size(2) == 0 || layout.units % kind.d.size(2) != 0) {
        return absl::InvalidArgumentError(absl::StrCat(
            "a transition with a step per unit is constant and has d of shape [1,1,S,N] for ", layout.units,
            " units, a multiple of S; it has [", absl::StrJoin(kind.d.sizes(), ","), "]"));
      }
    } else if (IsScalarPlusLowRank(kind)) {
      layout.multiplicities.assign(rank + 1, kind.multiplicity);
      layout.multiplicities[0] *= size - rank;
    }
    return layout;
  }

  absl::StatusOr<EigenvalueLayout> operator()(const Dense& kind) const {
    EIGSVC_RETURN_IF_ERROR(CheckShape(kind.matrix, 5, "matrix"));
    EIGSVC_RETURN_IF_ERROR(CheckSame(kind.matrix.sizes().slice(4), kind.matrix.sizes().slice(3, 1),
                                     "matrix in its last dimension"));
    EigenvalueLayout layout = Layout(kind.matrix.sizes(), kind.matrix.size(3), kind.multiplicity);
    layout.may_have_phase = true;
    return layout;
  }

  absl::StatusOr<EigenvalueLayout> operator()(const Nilpotent& kind) const {
    if (kind.units < 0 || kind.order < 1) {
      return absl::InvalidArgumentError(
          absl::StrCat("a short convolution of ", kind.units, " units and order ", kind.order));
    }
    return Layout({1, 1, kind.units}, 1, kind.order);
  }
};

// Flattens the problems of [B,T,U,...], solves them, and gives the values their shape again.
template <typename Solve>
absl::StatusOr<at::Tensor> ByProblem(const at::Tensor& x, Solve solve) {
  EIGSVC_ASSIGN_OR_RETURN(const at::Tensor values, solve(x.flatten(0, 2)));
  return values.unflatten(0, x.sizes().slice(0, 3));
}

struct Compute {
  const EigenvalueOptions& options;
  Eigenvalues& result;

  absl::Status Keep(const LogPolar& values) const {
    result.log_magnitude = values.log_magnitude;
    result.phase = values.phase;
    return absl::OkStatus();
  }

  absl::Status operator()(const ScalarPerUnit& kind) const {
    if (!options.keep_operands || !kind.previous.defined())
      return Keep({LogMagnitude(kind).unsqueeze(-1), {}});
    result.previous = kind.previous.unsqueeze(-1);
    return Keep({kind.log_magnitude.unsqueeze(-1), {}});
  }

  absl::Status operator()(const Diagonal& kind) const {
    if (!kind.factors.defined())
      return Keep(Discretized(kind.values, kind.discretization, options.drop_zero_phases));
    if (options.keep_operands && kind.discretization == Discretization::kExp && !kind.values.is_complex()) {
      result.factors = kind.factors;
      return Keep({kind.values, {}});
    }
    return Keep(Discretized(kind.values * kind.factors, kind.discretization, options.drop_zero_phases));
  }

  absl::Status operator()(const DiagonalPlusLowRank& kind) const {
    if (kind.step.defined()) return SolveWithSteps(kind);
    absl::StatusOr<at::Tensor> values = IsScalarPlusLowRank(kind) ? ScalarPlusLowRank(kind) : LowRank(kind);
    if (!values.ok()) return values.status();
    return Keep(Discretized(*values, kind.discretization, options.drop_zero_phases));
  }

  absl::Status operator()(const Dense& kind) const {
    EIGSVC_ASSIGN_OR_RETURN(const at::Tensor values, ByProblem(kind.matrix, [&](const at::Tensor& matrices) {
                              return DenseEigenvaluesInPieces(matrices, options.stop, &result.redone);
                            }));
    return Keep(Discretized(values, kind.discretization, options.drop_zero_phases));
  }

  absl::Status operator()(const Nilpotent& kind) const {
    return Keep({at::full({1, 1, kind.units, 1}, -std::numeric_limits<double>::infinity(),
                          at::TensorOptions().dtype(c10::kDouble)),
                 {}});
  }

 private:
  // d·I - u vᵀ: d itself on the N-R dimensions that vᵀ does not see, d - eig(vᵀu) on the rest.
  absl::StatusOr<at::Tensor> ScalarPlusLowRank(const DiagonalPlusLowRank& kind) const {
    const at::Tensor d = ToFull(kind.d);
    at::Tensor seen;
    if (kind.u.size(-1) == 1) {
      seen = (ToFull(kind.u) * ToFull(kind.v)).sum({-2});
    } else {
      const at::Tensor inner = at::matmul(ToFull(kind.v).transpose(-1, -2), ToFull(kind.u));
      EIGSVC_ASSIGN_OR_RETURN(seen, ByProblem(inner, [&](const at::Tensor& matrices) {
                                return DenseEigenvaluesInPieces(matrices, options.stop, &result.redone);
                              }));
    }
    const at::Tensor moved = d - seen;
    return at::cat({d.to(moved.scalar_type()), moved}, -1);
  }

  absl::StatusOr<at::Tensor> LowRank(const DiagonalPlusLowRank& kind) const {
    if (kind.u.size(-1) == 1 && !kind.d.is_complex() && !kind.u.is_complex() && !kind.v.is_complex()) {
      // det(diag(d) - u vᵀ - x) depends on the products u_j v_j alone, so where no two differ in sign a
      // symmetric matrix has the same eigenvalues: diag(d) ∓ z zᵀ.
      const at::Tensor products = (ToFull(kind.u) * ToFull(kind.v)).squeeze(-1);
      for (const double sign : {1.0, -1.0}) {
        const at::Tensor squares = sign * products;
        if (!kind.similar_to_symmetric && (squares < 0).any().item<bool>()) continue;
        const at::Tensor z = squares.sqrt().flatten(0, 2);
        return ByProblem(sign * ToFull(kind.d).expand_as(products),
                         [&](const at::Tensor& d) -> absl::StatusOr<at::Tensor> {
                           EIGSVC_ASSIGN_OR_RETURN(const at::Tensor values,
                                                   SymmetricRankOneEigenvalues(d, z, options.stop));
                           return sign * values;
                         });
      }
    }
    // The matrices are formed by pieces, too: all of them may not fit.
    const at::Tensor d = ToFull(kind.d).expand(kind.u.sizes().slice(0, 4)).flatten(0, 2);
    const at::Tensor u = ToFull(kind.u).flatten(0, 2), v = ToFull(kind.v).flatten(0, 2);
    const int64_t size = d.size(1);
    EIGSVC_ASSIGN_OR_RETURN(
        const at::Tensor values,
        InPieces(d.size(0), SolverOperations(size), 3 * size * size, options.stop,
                 [&](int64_t begin, int64_t length) {
                   const auto part = [&](const at::Tensor& x) { return x.narrow(0, begin, length); };
                   return DenseEigenvalues(
                       at::diag_embed(part(d)) - at::matmul(part(u), part(v).transpose(-1, -2)),
                       &result.redone);
                 }));
    return values.unflatten(0, kind.u.sizes().slice(0, 3));
  }

  // S4: a problem for each matrix, then the map of each unit's own step.
  absl::Status SolveWithSteps(const DiagonalPlusLowRank& kind) const {
    EIGSVC_ASSIGN_OR_RETURN(const ConditionedEigenvalues solved,
                            SolveConditioned(kind.d.flatten(0, 2), kind.u.flatten(0, 2), kind.v.flatten(0, 2),
                                             options.precision, options.stop));
    const at::Tensor step = kind.step.to(at::kCPU, at::kDouble).unsqueeze(-1);
    const at::Tensor matrix_of_unit = at::arange(step.size(0), at::kLong).remainder(solved.values.size(0));
    const auto by_unit = [&](const at::Tensor& x) {
      return x.index_select(0, matrix_of_unit).unsqueeze(0).unsqueeze(0);
    };
    const at::Tensor values = by_unit(solved.values) * step;
    result.condition = by_unit(solved.condition);
    result.error = ErrorOfLogMagnitude(values, by_unit(solved.error) * step, kind.discretization);
    result.bits = solved.bits;
    return Keep(Discretized(values, kind.discretization, options.drop_zero_phases));
  }
};

// Windows of steps that do not commute.
absl::StatusOr<LogPolar> Products(const TransitionKind& kind, const EigenvalueOptions& options,
                                  int64_t* redone) {
  const Window& window = options.window;
  if (const auto* dense = std::get_if<Dense>(&kind)) {
    const auto matrices = [&](int64_t begin, int64_t length) {
      return dense->matrix.narrow(1, begin, length);
    };
    return DenseWindows(dense->matrix.sizes(), matrices, window, options.stop, redone);
  }
  const auto& low_rank = std::get<DiagonalPlusLowRank>(kind);
  if (IsScalarPlusLowRank(low_rank)) return LowRankWindows(low_rank, window, options.stop, redone);
  const auto matrices = [&](int64_t begin, int64_t length) {
    const auto part = [&](const at::Tensor& x) { return ToFull(x.narrow(1, begin, length)); };
    return at::diag_embed(part(low_rank.d).expand(part(low_rank.u).sizes().slice(0, 4))) -
           at::matmul(part(low_rank.u), part(low_rank.v).transpose(-1, -2));
  };
  return DenseWindows(low_rank.u.sizes(), matrices, window, options.stop, redone);
}

absl::StatusOr<LogPolar> WindowsOf(const Transition& transition, const EigenvalueOptions& options,
                                   Eigenvalues& result) {
  if (!transition.constant && !Commutes(transition.kind))
    return Products(transition.kind, options, &result.redone);
  EigenvalueOptions of_steps = options;
  of_steps.keep_operands = false;
  EIGSVC_RETURN_IF_ERROR(std::visit(Compute{of_steps, result}, transition.kind));
  const LogPolar steps{result.log_magnitude, result.phase};
  if (!transition.constant) return SumOverWindows(steps, options.window);
  if (result.error.defined()) result.error = result.error * static_cast<double>(options.window.length);
  return TimesSteps(steps, options.window.length);
}

}  // namespace

absl::StatusOr<EigenvalueLayout> DescribeEigenvalues(const Transition& transition, const Window& window) {
  EIGSVC_ASSIGN_OR_RETURN(EigenvalueLayout layout,
                          std::visit(Describe{transition.constant}, transition.kind));
  if (window.IsStep()) return layout;
  EIGSVC_RETURN_IF_ERROR(CheckWindow(transition, window));
  layout.type = at::kDouble;
  if (transition.constant) return layout;
  layout.steps = window.Count(layout.steps);
  const auto* low_rank = std::get_if<DiagonalPlusLowRank>(&transition.kind);
  if (low_rank != nullptr && IsScalarPlusLowRank(*low_rank)) {
    const int64_t size = low_rank->u.size(-2), moved = MovedEigenvalues(*low_rank, window);
    layout.multiplicities.assign(moved < size ? moved + 1 : size, low_rank->multiplicity);
    if (moved < size) layout.multiplicities[0] *= size - moved;
  }
  return layout;
}

absl::StatusOr<Eigenvalues> ComputeEigenvalues(const Transition& transition,
                                               const EigenvalueOptions& options) {
  return CallTorch("eigenvalues", [&]() -> absl::StatusOr<Eigenvalues> {
    Eigenvalues result;
    EIGSVC_ASSIGN_OR_RETURN(result.layout, DescribeEigenvalues(transition, options.window));
    if (options.window.IsStep()) {
      EIGSVC_RETURN_IF_ERROR(std::visit(Compute{options, result}, transition.kind));
      return result;
    }
    if (result.layout.steps == 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("fewer steps than a window has, ", options.window.length));
    }
    EIGSVC_ASSIGN_OR_RETURN(LogPolar windows, WindowsOf(transition, options, result));
    const bool plain =
        windows.phase.defined() && options.drop_zero_phases && !windows.phase.any().item<bool>();
    result.log_magnitude = std::move(windows.log_magnitude);
    result.phase = plain ? at::Tensor() : std::move(windows.phase);
    return result;
  });
}

}  // namespace eigsvc
