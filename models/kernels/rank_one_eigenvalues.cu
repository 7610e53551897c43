// A part of a warp a problem: its poles and weights lie in shared memory, each lane finds roots of its own.
#include <cuda_runtime.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "models/kernels/check_problem.h"
#include "models/kernels/lanes.h"
#include "models/kernels/rank_one_eigenvalues.h"
#include "models/kernels/secular_roots.h"

namespace eigsvc {
namespace {

namespace cg = cooperative_groups;

constexpr int kMostThreads = 128, kMostShared = 48 * 1024;

template <typename T, int kSize>
__global__ void RankOneKernel(RankOneProblem<T> problem) {
  extern __shared__ __align__(16) unsigned char shared[];
  const cg::thread_block_tile<kSize> tile = cg::tiled_partition<kSize>(cg::this_thread_block());
  const int64_t index = static_cast<int64_t>(blockIdx.x) * (blockDim.x / kSize) + tile.meta_group_rank();
  if (index >= problem.count) return;
  const int64_t n = problem.order;
  T* const scratch = reinterpret_cast<T*>(shared) + tile.meta_group_rank() * 3 * n;
  const EigenOutcome outcome =
      kernels::SolveRankOne(problem.d + index * n, problem.z + index * n, problem.order, scratch,
                            kernels::TileLanes<kSize>{tile}, problem.values + index * n);
  if (tile.thread_rank() == 0) problem.outcomes[index] = outcome;
}

template <typename T, int kSize>
absl::Status Launch(const RankOneProblem<T>& problem, cudaStream_t stream) {
  const int bytes = 3 * problem.order * static_cast<int>(sizeof(T));
  const int groups = std::clamp(kMostShared / bytes, 1, kMostThreads / kSize);
  const int64_t blocks = (problem.count + groups - 1) / groups;
  if (blocks > 0x7fffffff)
    return absl::InvalidArgumentError("rank-one eigenvalues: too many problems in one call");
  RankOneKernel<T, kSize><<<static_cast<unsigned>(blocks), groups * kSize, bytes * groups, stream>>>(problem);
  if (const cudaError_t error = cudaGetLastError(); error != cudaSuccess) {
    return absl::InternalError(absl::StrCat("rank-one eigenvalues: CUDA error: ", cudaGetErrorString(error)));
  }
  return absl::OkStatus();
}

}  // namespace

template <typename T>
absl::Status RankOneEigenvaluesOnCuda(const RankOneProblem<T>& problem, void* stream) {
  if (absl::Status status = kernels::CheckOrder(problem.order, kMaxRankOneOrder); !status.ok()) return status;
  if (problem.count == 0) return absl::OkStatus();
  const auto queue = static_cast<cudaStream_t>(stream);
  if (problem.order <= 8) return Launch<T, 8>(problem, queue);
  if (problem.order <= 16) return Launch<T, 16>(problem, queue);
  return Launch<T, 32>(problem, queue);
}

template absl::Status RankOneEigenvaluesOnCuda(const RankOneProblem<float>&, void*);
template absl::Status RankOneEigenvaluesOnCuda(const RankOneProblem<double>&, void*);

}  // namespace eigsvc
