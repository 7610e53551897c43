// A warp a product: rows and columns of each factor are dealt to its lanes, the factors lie in a slot of
// global memory that the caches hold while the warp goes round them.
#include <cuda_runtime.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "models/kernels/lanes.h"
#include "models/kernels/periodic_eigenvalues.h"
#include "models/kernels/periodic_qr.h"

namespace eigsvc {
namespace {

constexpr int kWarpsPerBlock = 4, kWarp = 32;

__global__ void PeriodicKernel(PeriodicProblem problem, double* work, int64_t elements, int64_t slots) {
  namespace cg = cooperative_groups;
  const cg::thread_block_tile<kWarp> tile = cg::tiled_partition<kWarp>(cg::this_thread_block());
  const int64_t slot = static_cast<int64_t>(blockIdx.x) * kWarpsPerBlock + tile.meta_group_rank();
  if (slot >= slots) return;
  double* const factors = work + slot * elements;
  const int n = problem.order, length = static_cast<int>(problem.window.length);
  const int64_t size = static_cast<int64_t>(n) * n;
  for (int64_t i = slot; i < problem.Count(); i += slots) {
    const double* from = problem.Factors(i);
    for (int k = 0; k < length; ++k, from += problem.Distance()) {
      for (int64_t e = tile.thread_rank(); e < size; e += kWarp) factors[k * size + e] = from[e];
    }
    tile.sync();
    kernels::PeriodicQr<kernels::TileLanes<kWarp>> solver(factors, n, length, factors + length * size,
                                                          {tile});
    const EigenOutcome outcome = solver.Run(problem.log_magnitude + i * n, problem.phase + i * n);
    if (tile.thread_rank() == 0) problem.outcomes[i] = outcome;
    tile.sync();
  }
}

absl::Status CudaError(const char* what, cudaError_t error) {
  return absl::InternalError(
      absl::StrCat("periodic eigenvalues: ", what, ": CUDA error: ", cudaGetErrorString(error)));
}

}  // namespace

absl::Status PeriodicEigenvaluesOnCuda(const PeriodicProblem& problem, double* work, int64_t slots,
                                       void* stream) {
  if (problem.order < 1 || slots < 1) {
    return absl::InvalidArgumentError(absl::StrCat("periodic eigenvalues: matrices of order ", problem.order,
                                                   ", ", slots, " products at once"));
  }
  slots = std::min(slots, problem.Count());
  if (slots == 0) return absl::OkStatus();
  const int64_t blocks = (slots + kWarpsPerBlock - 1) / kWarpsPerBlock;
  if (blocks > 0x7fffffff)
    return absl::InvalidArgumentError("periodic eigenvalues: too many products at once");
  PeriodicKernel<<<static_cast<unsigned>(blocks), kWarpsPerBlock * kWarp, 0,
                   static_cast<cudaStream_t>(stream)>>>(problem, work, PeriodicWorkspace(problem), slots);
  if (const cudaError_t error = cudaGetLastError(); error != cudaSuccess) return CudaError("launch", error);
  return absl::OkStatus();
}

}  // namespace eigsvc
