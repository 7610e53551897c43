#include "models/kernels/batched_eigenvalues.h"

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <type_traits>
#include <vector>

#include "models/kernels/check_problem.h"
#include "models/kernels/hessenberg_qr.h"
#include "models/kernels/lanes.h"
#include "models/kernels/simd_dispatch.h"
#include "models/kernels/simd_solvers.h"

namespace eigsvc {
namespace kernels {

template <typename T>
std::vector<SimdSolver<T>> SimdSolversHere() {
  std::vector<SimdSolver<T>> solvers;
#if defined(__x86_64__)
  constexpr bool kFloat = std::is_same_v<T, float>;
  // All that simd_avx512.cc is compiled with.
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma")) {
    if constexpr (kFloat) solvers.push_back(Avx512Float());
    if constexpr (!kFloat) solvers.push_back(Avx512Double());
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    if constexpr (kFloat) solvers.push_back(Avx2Float());
    if constexpr (!kFloat) solvers.push_back(Avx2Double());
  }
#endif
  return solvers;
}

template <typename T>
absl::Status EigenvaluesInPacks(const SimdSolver<T>& solver, const EigenProblem<T>& problem) {
  if (absl::Status status = CheckOrder(problem.order); !status.ok()) return status;
  size_t bytes = static_cast<size_t>(solver.work_elements(problem.order)) * sizeof(T);
  bytes = (bytes + kSimdAlignment - 1) / kSimdAlignment * kSimdAlignment;
  const std::unique_ptr<T, decltype(&std::free)> work(
      static_cast<T*>(std::aligned_alloc(kSimdAlignment, bytes)), &std::free);
  if (work == nullptr) return absl::ResourceExhaustedError("batched eigenvalues: no memory for one pack");
  for (int64_t first = 0; first < problem.count; first += solver.lanes) {
    const int count = static_cast<int>(std::min<int64_t>(solver.lanes, problem.count - first));
    solver.run(problem, first, count, work.get());
  }
  return absl::OkStatus();
}

template std::vector<SimdSolver<float>> SimdSolversHere();
template std::vector<SimdSolver<double>> SimdSolversHere();
template absl::Status EigenvaluesInPacks(const SimdSolver<float>&, const EigenProblem<float>&);
template absl::Status EigenvaluesInPacks(const SimdSolver<double>&, const EigenProblem<double>&);

}  // namespace kernels

template <typename T>
absl::Status PlainEigenvalues(const EigenProblem<T>& problem) {
  if (absl::Status status = kernels::CheckOrder(problem.order); !status.ok()) return status;
  const int64_t n = problem.order;
  std::vector<T> matrix(n * n), scratch(n);
  for (int64_t i = 0; i < problem.count; ++i) {
    std::copy_n(problem.matrices + i * n * n, n * n, matrix.begin());
    kernels::HessenbergQr<T, kernels::OneLane> solver(matrix.data(), problem.order, problem.order,
                                                      scratch.data(), {});
    problem.outcomes[i] = solver.Run(problem.real + i * n, problem.imaginary + i * n, problem.most_sweeps);
  }
  return absl::OkStatus();
}

template <typename T>
absl::Status EigenvaluesOnCpu(const EigenProblem<T>& problem) {
  static const std::vector<kernels::SimdSolver<T>> solvers = kernels::SimdSolversHere<T>();
  // Of orders 1 and 2 nothing is left to share among lanes but a formula.
  if (solvers.empty() || problem.order <= 2) return PlainEigenvalues(problem);
  return kernels::EigenvaluesInPacks(solvers.front(), problem);
}

template absl::Status EigenvaluesOnCpu(const EigenProblem<float>&);
template absl::Status EigenvaluesOnCpu(const EigenProblem<double>&);
template absl::Status PlainEigenvalues(const EigenProblem<float>&);
template absl::Status PlainEigenvalues(const EigenProblem<double>&);

}  // namespace eigsvc
