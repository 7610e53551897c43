// The matrix lies in shared memory with an odd leading dimension, so that neither rows nor columns meet in a
// bank; its rows and columns are dealt to the lanes of a part of a warp or to the warps of a block.
#include <cuda_runtime.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "models/kernels/batched_eigenvalues.h"
#include "models/kernels/bulge_chain_qr.h"
#include "models/kernels/check_problem.h"
#include "models/kernels/cuda_dispatch.h"
#include "models/kernels/hessenberg_qr.h"
#include "models/kernels/lanes.h"

namespace eigsvc {
namespace {

namespace cg = cooperative_groups;

constexpr int kWarp = 32;

__host__ __device__ constexpr int LeadingDimension(int order) { return order | 1; }
// The matrix and the solver's scratch, [order].
template <typename T>
constexpr int SharedBytes(int order) {
  return (LeadingDimension(order) + 1) * order * static_cast<int>(sizeof(T));
}

template <typename T, int kSize>
__global__ void PartOfWarpKernel(EigenProblem<T> problem) {
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

// A warp for the bulges and a lane for each row or column.
constexpr int BlockThreads(int order) { return kWarp + (order + kWarp - 1) / kWarp * kWarp; }
// Of order 96, six matrices in float32 and three in float64 fit in the shared memory of a multiprocessor; its
// registers are not to hold fewer.
template <typename T>
constexpr int kResident = sizeof(T) == 4 ? 6 : 3;

template <typename T>
__global__ void __launch_bounds__(BlockThreads(kMaxBatchedOrder), kResident<T>)
    BlockKernel(EigenProblem<T> problem) {
  extern __shared__ __align__(16) unsigned char shared[];
  __shared__ kernels::BulgeChain<T> chain;
  __shared__ double partial[kernels::BlockLanes::kMostWarps];
  const int64_t index = blockIdx.x;
  const int n = problem.order, ld = LeadingDimension(n);
  T* const matrix = reinterpret_cast<T*>(shared);
  const T* const source = problem.matrices + index * n * n;
  for (int i = threadIdx.x / kWarp; i < n; i += blockDim.x / kWarp) {
    for (int j = threadIdx.x % kWarp; j < n; j += kWarp) matrix[i * ld + j] = source[i * n + j];
  }
  __syncthreads();
  kernels::BulgeChainQr<T, kernels::BlockLanes> solver(matrix, n, ld, matrix + ld * n, &chain, {partial});
  const EigenOutcome outcome =
      solver.Run(problem.real + index * n, problem.imaginary + index * n, problem.most_sweeps);
  if (threadIdx.x == 0) problem.outcomes[index] = outcome;
}

absl::Status CudaError(const char* what, cudaError_t error) {
  return absl::InternalError(
      absl::StrCat("batched eigenvalues: ", what, ": CUDA error: ", cudaGetErrorString(error)));
}

// As many groups of lanes a block as `most`, or as few as fit; each takes a matrix and `bytes` of shared
// memory.
template <typename T>
absl::Status Launch(void (*kernel)(EigenProblem<T>), const EigenProblem<T>& problem, int lanes, int least,
                    int most, cudaStream_t stream) {
  constexpr int kMostShared = 96 * 1024;
  const int bytes = SharedBytes<T>(problem.order);
  int device = 0, available = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&available, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  cudaFuncAttributes attributes;
  if (const cudaError_t error = cudaFuncGetAttributes(&attributes, kernel); error != cudaSuccess)
    return CudaError("kernel", error);
  available -= static_cast<int>(attributes.sharedSizeBytes);
  if (bytes * least > available) {
    return absl::UnimplementedError(absl::StrCat("batched eigenvalues: order ", problem.order, " takes ",
                                                 bytes, " bytes of shared memory, of which this device has ",
                                                 available));
  }
  const int groups = std::clamp(std::min(kMostShared, available) / bytes, least, most);
  const int shared = bytes * groups;
  if (const cudaError_t error =
          cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared);
      error != cudaSuccess) {
    return CudaError("shared memory", error);
  }
  const int64_t blocks = (problem.count + groups - 1) / groups;
  if (blocks > 0x7fffffff)
    return absl::InvalidArgumentError("batched eigenvalues: too many matrices in one call");
  kernel<<<static_cast<unsigned>(blocks), groups * lanes, shared, stream>>>(problem);
  if (const cudaError_t error = cudaGetLastError(); error != cudaSuccess) return CudaError("launch", error);
  return absl::OkStatus();
}

template <typename T, int kSize>
absl::Status LaunchPartsOfWarps(const EigenProblem<T>& problem, void* stream) {
  constexpr int kMostThreads = 128;
  return Launch(PartOfWarpKernel<T, kSize>, problem, kSize, kWarp / kSize, kMostThreads / kSize,
                static_cast<cudaStream_t>(stream));
}

}  // namespace

namespace kernels {

template <typename T>
absl::Status EigenvaluesByWarps(const EigenProblem<T>& problem, void* stream) {
  if (problem.order <= 8) return LaunchPartsOfWarps<T, 8>(problem, stream);
  if (problem.order <= 16) return LaunchPartsOfWarps<T, 16>(problem, stream);
  return LaunchPartsOfWarps<T, kWarp>(problem, stream);
}

template <typename T>
absl::Status EigenvaluesByBlocks(const EigenProblem<T>& problem, void* stream) {
  return Launch(BlockKernel<T>, problem, BlockThreads(problem.order), 1, 1,
                static_cast<cudaStream_t>(stream));
}

template absl::Status EigenvaluesByWarps(const EigenProblem<float>&, void*);
template absl::Status EigenvaluesByWarps(const EigenProblem<double>&, void*);
template absl::Status EigenvaluesByBlocks(const EigenProblem<float>&, void*);
template absl::Status EigenvaluesByBlocks(const EigenProblem<double>&, void*);

}  // namespace kernels

template <typename T>
absl::Status EigenvaluesOnCuda(const EigenProblem<T>& problem, void* stream) {
  // Above, shared memory holds too few matrices for single warps to hide how long each waits for its
  // reflections (three of order 128 in float32, one in float64); below, there are enough of them, and a
  // chain's shifts and idle lanes cost more than they save. Measured on an H200: blocks have 0.91 and 1.46
  // times the warps' speed at orders 96 and 128 in float32, 0.79 and 1.10 at 64 and 80 in float64.
  constexpr int kMostByWarps = sizeof(T) == sizeof(float) ? 104 : 72;
  if (absl::Status status = kernels::CheckOrder(problem.order); !status.ok()) return status;
  if (problem.count == 0) return absl::OkStatus();
  return problem.order <= kMostByWarps ? kernels::EigenvaluesByWarps(problem, stream)
                                       : kernels::EigenvaluesByBlocks(problem, stream);
}

template absl::Status EigenvaluesOnCuda(const EigenProblem<float>&, void*);
template absl::Status EigenvaluesOnCuda(const EigenProblem<double>&, void*);

}  // namespace eigsvc
