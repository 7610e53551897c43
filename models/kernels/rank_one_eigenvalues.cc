#include "models/kernels/rank_one_eigenvalues.h"

#include <vector>

#include "models/kernels/check_problem.h"
#include "models/kernels/lanes.h"
#include "models/kernels/secular_roots.h"

namespace eigsvc {

template <typename T>
absl::Status RankOneEigenvaluesOnCpu(const RankOneProblem<T>& problem) {
  if (absl::Status status = kernels::CheckOrder(problem.order, kMaxRankOneOrder); !status.ok()) return status;
  const int64_t n = problem.order;
  std::vector<T> scratch(3 * n);
  for (int64_t i = 0; i < problem.count; ++i) {
    problem.outcomes[i] = kernels::SolveRankOne(problem.d + i * n, problem.z + i * n, problem.order,
                                                scratch.data(), kernels::OneLane(), problem.values + i * n);
  }
  return absl::OkStatus();
}

template absl::Status RankOneEigenvaluesOnCpu(const RankOneProblem<float>&);
template absl::Status RankOneEigenvaluesOnCpu(const RankOneProblem<double>&);

}  // namespace eigsvc
