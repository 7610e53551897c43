// A part of a warp a matrix: its rows and columns are dealt to the lanes, the matrix lies in shared memory
// with an odd leading dimension, so that neither rows nor columns meet in a bank.
#include <cuda_runtime.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "models/kernels/batched_eigenvalues.h"
#include "models/kernels/check_problem.h"
#include "models/kernels/hessenberg_qr.h"
#include "models/kernels/lanes.h"

namespace eigsvc {
namespace {

namespace cg = cooperative_groups;

__host__ __device__ constexpr int LeadingDimension(int order) { return order | 1; }
template <typename T>
constexpr int SharedElements(int order) {
  return LeadingDimension(order) * order + order;
}

template <typename T, int kSize>
__global__ void EigenvaluesKernel(EigenProblem<T> problem) {
  extern __shared__ __align__(16) unsigned char shared[];
  const cg::thread_block_tile<kSize> tile = cg::tiled_partition<kSize>(cg::this_thread_block());
  const int64_t index = static_cast<int64_t>(blockIdx.x) * (blockDim.x / kSize) + tile.meta_group_rank();
  if (index >= problem.count) return;
  const int n = problem.order, ld = LeadingDimension(n);
  T* const matrix = reinterpret_cast<T*>(shared) + tile.meta_group_rank() * (ld * n + n);
  const T* const source = problem.matrices + index * n * n;
  for (int i = tile.thread_rank(); i < n * n; i += kSize) matrix[i / n * ld + i % n] = source[i];
  tile.sync();
  kernels::HessenbergQr<T, kernels::TileLanes<kSize>> solver(matrix, n, ld, matrix + ld * n, {tile});
  const EigenOutcome outcome =
      solver.Run(problem.real + index * n, problem.imaginary + index * n, problem.most_sweeps);
  if (tile.thread_rank() == 0) problem.outcomes[index] = outcome;
}

absl::Status CudaError(const char* what, cudaError_t error) {
  return absl::InternalError(
      absl::StrCat("batched eigenvalues: ", what, ": CUDA error: ", cudaGetErrorString(error)));
}

template <typename T, int kSize>
absl::Status Launch(const EigenProblem<T>& problem, cudaStream_t stream) {
  constexpr int kMostThreads = 128, kMostShared = 96 * 1024;
  const int bytes = SharedElements<T>(problem.order) * static_cast<int>(sizeof(T));
  int device = 0, available = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&available, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  if (bytes * (32 / kSize) > available) {
    return absl::UnimplementedError(absl::StrCat("batched eigenvalues: order ", problem.order, " takes ",
                                                 bytes, " bytes of shared memory, of which this device has ",
                                                 available));
  }
  const int groups = std::clamp(std::min(kMostShared, available) / bytes, 32 / kSize, kMostThreads / kSize);
  const int shared = bytes * groups;
  if (const cudaError_t error = cudaFuncSetAttribute(EigenvaluesKernel<T, kSize>,
                                                     cudaFuncAttributeMaxDynamicSharedMemorySize, shared);
      error != cudaSuccess) {
    return CudaError("shared memory", error);
  }
  const int64_t blocks = (problem.count + groups - 1) / groups;
  if (blocks > 0x7fffffff)
    return absl::InvalidArgumentError("batched eigenvalues: too many matrices in one call");
  EigenvaluesKernel<T, kSize><<<static_cast<unsigned>(blocks), groups * kSize, shared, stream>>>(problem);
  if (const cudaError_t error = cudaGetLastError(); error != cudaSuccess) return CudaError("launch", error);
  return absl::OkStatus();
}

}  // namespace

template <typename T>
absl::Status EigenvaluesOnCuda(const EigenProblem<T>& problem, void* stream) {
  if (absl::Status status = kernels::CheckOrder(problem.order); !status.ok()) return status;
  if (problem.count == 0) return absl::OkStatus();
  const auto queue = static_cast<cudaStream_t>(stream);
  if (problem.order <= 8) return Launch<T, 8>(problem, queue);
  if (problem.order <= 16) return Launch<T, 16>(problem, queue);
  return Launch<T, 32>(problem, queue);
}

template absl::Status EigenvaluesOnCuda(const EigenProblem<float>&, void*);
template absl::Status EigenvaluesOnCuda(const EigenProblem<double>&, void*);

}  // namespace eigsvc
