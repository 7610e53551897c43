#include "models/transition/conditioned.h"

#include <algorithm>
#include <atomic>
#include <complex>
#include <mutex>
#include <new>
#include <thread>
#include <utility>
#include <vector>

#include "ATen/Parallel.h"
#include "ATen/TensorOperators.h"
#include "ATen/ops/diag_embed.h"
#include "ATen/ops/empty.h"
#include "ATen/ops/empty_like.h"
#include "ATen/ops/matmul.h"
#include "models/base/status_macros.h"
#include "models/transition/pieces.h"
#include "models/transition/secular.h"

namespace eigsvc {
namespace {

at::Tensor ToHostComplex(const at::Tensor& x) { return x.to(at::kCPU, at::kComplexDouble).contiguous(); }

// Row `index` of x [S,...].
absl::Span<const std::complex<double>> RowOf(const at::Tensor& x, int64_t index) {
  const int64_t length = x.numel() / x.size(0);
  return {reinterpret_cast<const std::complex<double>*>(x.const_data_ptr()) + index * length,
          static_cast<size_t>(length)};
}

// body(0) to body(count - 1) on up to as many threads as LibTorch uses; the first error.
absl::Status ForEachOnThreads(int64_t count, absl::FunctionRef<absl::Status(int64_t)> body) {
  std::atomic<int64_t> next = 0;
  std::mutex mutex;
  absl::Status first_error;
  const auto work = [&] {
    for (int64_t i = next++; i < count; i = next++) {
      absl::Status status;
      try {
        status = body(i);
      } catch (const std::bad_alloc&) {  // must not leave a thread
        status = absl::ResourceExhaustedError("no memory for a multi-precision eigenvalue problem");
      }
      if (status.ok()) continue;
      next = count;
      const std::lock_guard lock(mutex);
      first_error.Update(std::move(status));
    }
  };
  std::vector<std::jthread> helpers;
  while (static_cast<int64_t>(helpers.size()) + 1 < std::min<int64_t>(count, at::get_num_threads()))
    helpers.emplace_back(work);
  work();
  helpers.clear();  // joins
  return first_error;
}

}  // namespace

absl::StatusOr<ConditionedEigenvalues> SolveConditioned(const at::Tensor& d, const at::Tensor& u,
                                                        const at::Tensor& v, SolverPrecision precision,
                                                        const StopToken* stop) {
  const at::Tensor diagonal = ToHostComplex(d), left = ToHostComplex(u), right = ToHostComplex(v);
  ConditionedEigenvalues result;
  EIGSVC_ASSIGN_OR_RETURN(
      const at::Tensor estimates,
      DenseEigenvaluesInPieces(at::diag_embed(diagonal) - at::matmul(left, right.transpose(-1, -2)), stop,
                               /*redone=*/nullptr));  // complex, so LAPACK's from the first
  result.values = estimates.contiguous();
  result.condition = at::empty(diagonal.sizes(), at::kDouble);
  result.error = at::empty_like(result.condition);
  const int64_t size = diagonal.size(1);
  std::vector<SecularSolution> solutions(diagonal.size(0));
  EIGSVC_RETURN_IF_ERROR(ForEachOnThreads(diagonal.size(0), [&](int64_t m) -> absl::Status {
    const SecularProblem problem{size, left.size(2), RowOf(diagonal, m), RowOf(left, m), RowOf(right, m)};
    const auto start = RowOf(result.values, m);
    std::vector<std::complex<double>> values(start.begin(), start.end());
    if (precision == SolverPrecision::kMulti) {
      EIGSVC_ASSIGN_OR_RETURN(solutions[m], SolveSecular(problem, std::move(values), stop));
    } else {
      solutions[m] = Conditioned(problem, std::move(values));
    }
    return absl::OkStatus();
  }));
  for (int64_t m = 0; m < diagonal.size(0); ++m) {
    const SecularSolution& solution = solutions[m];
    std::copy(solution.values.begin(), solution.values.end(),
              reinterpret_cast<std::complex<double>*>(result.values.mutable_data_ptr()) + m * size);
    std::copy(solution.condition.begin(), solution.condition.end(),
              result.condition.mutable_data_ptr<double>() + m * size);
    std::copy(solution.error.begin(), solution.error.end(),
              result.error.mutable_data_ptr<double>() + m * size);
    result.bits = std::max(result.bits, solution.bits);
  }
  return result;
}

}  // namespace eigsvc
