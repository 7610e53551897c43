#include "models/kernels/batched_eigenvalues.h"

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <optional>
#include <type_traits>
#include <vector>

#include "models/kernels/check_problem.h"
#include "models/kernels/hessenberg_qr.h"
#include "models/kernels/lanes.h"
#include "models/kernels/simd_solvers.h"

namespace eigsvc {
namespace {

constexpr size_t RoundUp(size_t size, size_t multiple) { return (size + multiple - 1) / multiple * multiple; }

template <typename T>
std::optional<kernels::SimdSolver<T>> ChooseSolver() {
  constexpr bool kFloat = std::is_same_v<T, float>;
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq")) {
    if constexpr (kFloat) return kernels::Avx512Float();
    if constexpr (!kFloat) return kernels::Avx512Double();
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    if constexpr (kFloat) return kernels::Avx2Float();
    if constexpr (!kFloat) return kernels::Avx2Double();
  }
#endif
  return std::nullopt;
}

}  // namespace

template <typename T>
absl::Status PlainEigenvalues(const EigenProblem<T>& problem) {
  if (absl::Status status = kernels::CheckOrder(problem.order); !status.ok()) return status;
  const int64_t n = problem.order;
  std::vector<T> matrix(n * n), scratch(n);
  for (int64_t i = 0; i < problem.count; ++i) {
    std::copy_n(problem.matrices + i * n * n, n * n, matrix.begin());
    kernels::HessenbergQr<T, kernels::OneLane> solver(matrix.data(), problem.order, problem.order,
                                                      scratch.data(), {});
    problem.outcomes[i] = solver.Run(problem.real + i * n, problem.imaginary + i * n);
  }
  return absl::OkStatus();
}

template <typename T>
absl::Status EigenvaluesOnCpu(const EigenProblem<T>& problem) {
  if (absl::Status status = kernels::CheckOrder(problem.order); !status.ok()) return status;
  static const std::optional<kernels::SimdSolver<T>> solver = ChooseSolver<T>();
  // Of orders 1 and 2 nothing is left to share among lanes but a formula.
  if (!solver.has_value() || problem.order <= 2) return PlainEigenvalues(problem);
  const auto bytes = static_cast<size_t>(solver->work_elements(problem.order)) * sizeof(T);
  const std::unique_ptr<T, decltype(&std::free)> work(
      static_cast<T*>(std::aligned_alloc(kernels::kSimdAlignment, RoundUp(bytes, kernels::kSimdAlignment))),
      &std::free);
  if (work == nullptr) return absl::ResourceExhaustedError("batched eigenvalues: no memory for one pack");
  for (int64_t first = 0; first < problem.count; first += solver->lanes) {
    const int count = static_cast<int>(std::min<int64_t>(solver->lanes, problem.count - first));
    solver->run(problem, first, count, work.get());
  }
  return absl::OkStatus();
}

template absl::Status EigenvaluesOnCpu(const EigenProblem<float>&);
template absl::Status EigenvaluesOnCpu(const EigenProblem<double>&);
template absl::Status PlainEigenvalues(const EigenProblem<float>&);
template absl::Status PlainEigenvalues(const EigenProblem<double>&);

}  // namespace eigsvc
