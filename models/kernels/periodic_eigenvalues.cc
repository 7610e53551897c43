#include "models/kernels/periodic_eigenvalues.h"

#include <algorithm>
#include <memory>
#include <new>

#include "absl/strings/str_cat.h"
#include "models/kernels/lanes.h"
#include "models/kernels/periodic_qr.h"

namespace eigsvc {
namespace {

// Those of product i, one behind the other. `nudge`: by what share of their largest elements they are moved.
void CopyFactors(const PeriodicProblem& problem, int64_t i, double nudge, double* to) {
  const int64_t size = static_cast<int64_t>(problem.order) * problem.order;
  uint64_t noise = 1;
  const double* from = problem.Factors(i);
  for (int64_t k = 0; k < problem.window.length; ++k, to += size, from += problem.Distance()) {
    double largest = 0;
    for (int64_t e = 0; e < size; ++e) largest = std::max(largest, kernels::Abs(from[e]));
    for (int64_t e = 0; e < size; ++e) {
      noise = noise * 6364136223846793005u + 1442695040888963407u;
      to[e] = from[e] + nudge * largest * (static_cast<double>(noise >> 40) * 0x1p-23 - 1);
    }
  }
}

}  // namespace

int64_t PeriodicWorkspace(const PeriodicProblem& problem) {
  const int64_t length = problem.window.length;
  return length * problem.order * problem.order +
         kernels::PeriodicScratch(problem.order, static_cast<int>(length));
}

absl::Status PeriodicEigenvaluesOnCpu(const PeriodicProblem& problem, int64_t first, int64_t count) {
  const int64_t n = problem.order, size = n * n, length = problem.window.length;
  if (n < 1) return absl::InvalidArgumentError(absl::StrCat("products of matrices of order ", n));
  const int factors = static_cast<int>(length);
  const std::unique_ptr<double[]> work(new (std::nothrow) double[PeriodicWorkspace(problem)]);
  if (work == nullptr) {
    return absl::ResourceExhaustedError(
        absl::StrCat("no memory for a product of ", length, " matrices of order ", n));
  }
  for (int64_t i = first; i < first + count; ++i) {
    // Where factors are exactly singular, sweeps may find nothing to go by. Moved by a rounding, they do.
    for (const double nudge : {0.0, 0x1p-52}) {
      CopyFactors(problem, i, nudge, work.get());
      kernels::PeriodicQr<kernels::OneLane> solver(work.get(), problem.order, factors,
                                                   work.get() + factors * size, {});
      problem.outcomes[i] = solver.Run(problem.log_magnitude + i * n, problem.phase + i * n);
      if (problem.outcomes[i] != EigenOutcome::kNotConverged) break;
    }
  }
  return absl::OkStatus();
}

}  // namespace eigsvc
