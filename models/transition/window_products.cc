#include "models/transition/window_products.h"

#include <algorithm>
#include <atomic>
#include <utility>

#include "ATen/TensorOperators.h"
#include "ATen/core/IListRef.h"
#include "ATen/ops/arange.h"
#include "ATen/ops/cat.h"
#include "ATen/ops/diag_embed.h"
#include "ATen/ops/empty.h"
#include "ATen/ops/empty_like.h"
#include "ATen/ops/eye.h"
#include "ATen/ops/linalg_qr.h"
#include "ATen/ops/linalg_slogdet.h"
#include "ATen/ops/linalg_solve_triangular.h"
#include "ATen/ops/matmul.h"
#include "ATen/ops/nonzero.h"
#include "ATen/ops/stack.h"
#include "absl/strings/str_cat.h"
#include "c10/core/DeviceGuard.h"
#include "models/base/status_macros.h"
#include "models/kernels/periodic_eigenvalues.h"
#include "models/transition/deal_out.h"
#include "models/transition/dense_eigenvalues.h"
#include "models/transition/kernel_call.h"
#include "models/transition/pieces.h"
#include "models/transition/windows.h"

namespace eigsvc {
namespace {

// log|λ| and arg λ side by side in a last dimension: what InPieces joins.
at::Tensor Packed(const LogPolar& values) { return at::stack({values.log_magnitude, values.phase}, -1); }
LogPolar Unpacked(const at::Tensor& packed) { return {packed.select(-1, 0), packed.select(-1, 1)}; }

absl::Status SolveOnCpu(const PeriodicProblem& problem) {
  std::atomic<bool> out_of_memory = false;
  DealOut(problem.Count(), 1, [&](int64_t first, int64_t length) {
    if (!PeriodicEigenvaluesOnCpu(problem, first, length).ok()) out_of_memory = true;
  });
  if (!out_of_memory) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat("no memory for a product of ", problem.window.length,
                                                   " matrices of order ", problem.order));
}

absl::Status Solve(const PeriodicProblem& problem, const at::TensorOptions& options) {
#ifdef EIGSVC_CUDA_KERNELS
  if (options.device().is_cuda()) {
    constexpr int64_t kMostElements = int64_t{1} << 27;  // 1 GiB
    const int64_t elements = PeriodicWorkspace(problem);
    const int64_t slots = std::clamp<int64_t>(kMostElements / elements, 1, problem.Count());
    const at::Tensor work = at::empty({slots, elements}, options);
    const c10::DeviceGuard guard(options.device());
    return PeriodicEigenvaluesOnCuda(problem, work.mutable_data_ptr<double>(), slots,
                                     KernelStream(options.device()));
  }
#endif
  (void)options;
  return SolveOnCpu(problem);
}

bool HasPeriodicKernel(const at::Tensor& matrices) {
#ifdef EIGSVC_CUDA_KERNELS
  if (matrices.is_cuda()) return true;
#endif
  return matrices.is_cpu();
}

// Of windows over matrices [B,T,U,N,N]: [B,windows,U,N,2].
absl::StatusOr<at::Tensor> PeriodicWindows(const at::Tensor& given, const Window& window, int64_t* redone) {
  if (!HasPeriodicKernel(given)) {
    EIGSVC_ASSIGN_OR_RETURN(const at::Tensor values, PeriodicWindows(given.cpu(), window, redone));
    return values.to(given.device());
  }
  const at::Tensor matrices = given.to(at::kDouble).contiguous();
  const int64_t rows = matrices.size(0), count = window.Count(matrices.size(1)), units = matrices.size(2),
                order = matrices.size(3);
  const at::Tensor log_magnitude = at::empty({rows, count, units, order}, matrices.options()),
                   phase = at::empty_like(log_magnitude);
  const at::Tensor outcomes = at::empty({rows, count, units}, matrices.options().dtype(at::kInt));
  EIGSVC_RETURN_IF_ERROR(
      Solve({matrices.const_data_ptr<double>(), rows, matrices.size(1), units, static_cast<int>(order),
             window, log_magnitude.mutable_data_ptr<double>(), phase.mutable_data_ptr<double>(),
             reinterpret_cast<EigenOutcome*>(outcomes.mutable_data_ptr<int32_t>())},
            matrices.options()));
  const auto failed = (outcomes == static_cast<int32_t>(EigenOutcome::kNotConverged)).sum().item<int64_t>();
  if (failed == 0) return Packed({log_magnitude, phase});
  if (!given.is_cpu()) {  // there, factors are moved by a rounding
    *redone += failed;
    EIGSVC_ASSIGN_OR_RETURN(const at::Tensor values, PeriodicWindows(given.cpu(), window, redone));
    return values.to(given.device());
  }
  return absl::InternalError(absl::StrCat("periodic QR does not converge for a product of ", window.length,
                                          " matrices of order ", order));
}

// The columns of each window's steps side by side: x [B,T,U,N,R] -> [B,windows,U,N,W·R].
at::Tensor SideBySide(const at::Tensor& x, const Window& window) {
  return x.unfold(1, window.length, window.stride).permute({0, 1, 2, 3, 5, 4}).flatten(4, 5);
}

// Steps of d·I - u vᵀ, d [B,T,U,1], u and v [B,T,U,N,R].
struct Steps {
  at::Tensor d, u, v;

  Steps Part(int64_t begin, int64_t length) const {
    return {d.narrow(1, begin, length), u.narrow(1, begin, length), v.narrow(1, begin, length)};
  }
  at::Tensor Matrices() const {
    return at::diag_embed(d.expand(u.sizes().slice(0, 4))) - at::matmul(u, v.transpose(-1, -2));
  }
};

// The product of the d, then the moved eigenvalues, [B,windows,U,1+M,2], M < N.
absl::StatusOr<at::Tensor> MovedByWindow(const Steps& steps, const Window& window, int64_t* redone) {
  const int64_t rank = steps.u.size(-1), moved = rank * window.length;
  // A step with d = 0 has no û: the determinant below says so.
  const at::Tensor columns = SideBySide(steps.u / steps.d.unsqueeze(-1), window),
                   rows = SideBySide(steps.v, window);
  const at::Tensor products = at::matmul(rows.transpose(-1, -2), columns);
  const at::Tensor step = at::arange(moved, products.options().dtype(at::kLong)).floor_divide(rank);
  const at::Tensor before = step.unsqueeze(1) > step.unsqueeze(0),
                   identity = at::eye(moved, products.options());
  const at::Tensor upper = identity - products.masked_fill(before, 0),
                   lower = identity + products.masked_fill(before.logical_not(), 0);
  const LogPolar values =
      Discretized(DenseEigenvalues(at::linalg_solve_triangular(lower, upper, /*upper=*/false, /*left=*/true,
                                                               /*unitriangular=*/true),
                                   redone),
                  Discretization::kNone, /*look=*/false);
  const LogPolar gate = SumOverWindows(Discretized(steps.d, Discretization::kNone, /*look=*/false), window);
  at::Tensor total = Packed(Times(values, gate));
  // The small eigenvalues of a long window drown in the rounding of the large ones.
  constexpr double kTolerance = 1e-8;
  const at::Tensor off = values.log_magnitude.sum(-1) - std::get<1>(at::linalg_slogdet(upper));
  const at::Tensor wrong = at::nonzero((off.abs() <= kTolerance).logical_not().flatten()).squeeze(-1);
  if (wrong.numel() > 0) {
    const auto chosen = [&](const at::Tensor& x) { return x.flatten(0, 2).index_select(0, wrong); };
    // In an orthonormal basis of what the u span, which each step maps into itself.
    const at::Tensor u = chosen(SideBySide(steps.u, window)), v = chosen(rows);
    const at::Tensor basis = std::get<0>(at::linalg_qr(u)).transpose(-1, -2);  // [P,M,N]
    const auto by_step = [&](const at::Tensor& x) {                            // [P,N,W·R] -> [P,W,1,M,R]
      return at::matmul(basis, x).unflatten(-1, {window.length, rank}).permute({0, 2, 1, 3}).unsqueeze(2);
    };
    const at::Tensor d = chosen(steps.d.squeeze(-1).unfold(1, window.length, window.stride));  // [P,W]
    const Steps inside{d.unsqueeze(-1).unsqueeze(-1), by_step(u), by_step(v)};
    EIGSVC_ASSIGN_OR_RETURN(const at::Tensor again,
                            PeriodicWindows(inside.Matrices(), {window.length, window.length}, redone));
    total = total.flatten(0, 2).index_copy(0, wrong, again.view({-1, moved, 2})).view_as(total);
  }
  return at::cat({Packed(gate), total}, -2);
}

// Joins solve(first step, steps) over pieces of the windows of `steps` steps, [B,windows,U,K,2] each.
absl::StatusOr<LogPolar> InPiecesOfWindows(
    int64_t steps, const Window& window, double operations, int64_t doubles, const StopToken* stop,
    absl::FunctionRef<absl::StatusOr<at::Tensor>(int64_t begin, int64_t length)> solve) {
  EIGSVC_ASSIGN_OR_RETURN(
      const at::Tensor packed,
      InPieces(window.Count(steps), operations, doubles, stop,
               [&](int64_t begin, int64_t length) -> absl::StatusOr<at::Tensor> {
                 EIGSVC_ASSIGN_OR_RETURN(
                     const at::Tensor piece,
                     solve(begin * window.stride, (length - 1) * window.stride + window.length));
                 return piece.transpose(0, 1);  // pieces are joined along the windows
               }));
  return Unpacked(packed.transpose(0, 1));
}

}  // namespace

absl::StatusOr<LogPolar> DenseWindows(at::IntArrayRef sizes,
                                      absl::FunctionRef<at::Tensor(int64_t begin, int64_t length)> matrices,
                                      const Window& window, const StopToken* stop, int64_t* redone) {
  const int64_t products = sizes[0] * sizes[2], order = sizes[3];
  return InPiecesOfWindows(
      sizes[1], window, static_cast<double>(products * window.length) * SolverOperations(order),
      2 * products * order * order * window.stride, stop, [&](int64_t begin, int64_t length) {
        return PeriodicWindows(matrices(begin, length), window, redone);
      });
}

int64_t MovedEigenvalues(const DiagonalPlusLowRank& kind, const Window& window) {
  return std::min(kind.u.size(-2), kind.u.size(-1) * window.length);
}

absl::StatusOr<LogPolar> LowRankWindows(const DiagonalPlusLowRank& kind, const Window& window,
                                        const StopToken* stop, int64_t* redone) {
  const Steps steps{ToFull(kind.d), ToFull(kind.u), ToFull(kind.v)};
  const int64_t order = steps.u.size(3), moved = MovedEigenvalues(kind, window);
  if (moved == order) {
    return DenseWindows(
        steps.u.sizes(), [&](int64_t begin, int64_t length) { return steps.Part(begin, length).Matrices(); },
        window, stop, redone);
  }
  const int64_t products = steps.u.size(0) * steps.u.size(2);
  return InPiecesOfWindows(steps.u.size(1), window, static_cast<double>(products) * SolverOperations(moved),
                           products * moved * (2 * order + 4 * moved), stop,
                           [&](int64_t begin, int64_t length) {
                             return MovedByWindow(steps.Part(begin, length), window, redone);
                           });
}

}  // namespace eigsvc
