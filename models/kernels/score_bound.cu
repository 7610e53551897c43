// A pass over q and k at the speed of memory: as many lanes a row as it has vectors of 16 bytes; then one
// block for the bound. Each block leaves its largest to a place of its own: nothing has to be zero before.
// Squares are summed in float32, whose rounding does not matter to a power of two but where the bound all but
// is one.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "models/kernels/bound_one.h"
#include "models/kernels/device_element.h"

namespace eigsvc {
namespace {

constexpr int kThreads = 256;
constexpr int kFloorThreads = 1024;  // one block waits for memory: few rounds
constexpr int kUnroll = 4;
constexpr int64_t kMostShares = 32;  // a warp looks through those of a column

template <typename T>
using Vector = kernels::Pack<T, 16 / sizeof(T)>;
template <typename T>
constexpr int kVectorSize = 16 / sizeof(T);
using kernels::Wide;

// The larger of non-negative doubles, whose order is that of their bits.
__device__ __forceinline__ void StoreLarger(double* to, double x) {
  atomicMax(reinterpret_cast<unsigned long long*>(to),
            static_cast<unsigned long long>(__double_as_longlong(x)));
}

template <typename Sum>
__device__ __forceinline__ Sum LargestOfWarp(Sum largest) {
  for (int offset = 16; offset > 0; offset /= 2) {
    const Sum other = __shfl_xor_sync(0xffffffffu, largest, offset);
    largest = other > largest ? other : largest;
  }
  return largest;
}

// Block (x, y): a share of the rows of column y = row of the batch · (q.heads + k.heads) + head, whose
// largest squared norm goes to norms[x][y]. `lanes`: a power of two up to 32 that share a row.
template <typename T, bool kVectors>
__global__ void __launch_bounds__(kThreads) NormKernel(const ScoreBoundProblem problem, int lanes) {
  using Sum = decltype(Wide(T()));
  const int64_t width = problem.q.heads + problem.k.heads;
  const int64_t row = blockIdx.y / width, column = blockIdx.y % width;
  const bool of_q = column < problem.q.heads;
  const HeadRows& rows = of_q ? problem.q : problem.k;
  const T* const data = static_cast<const T*>(rows.data) + row * rows.batch_stride +
                        (of_q ? column : column - problem.q.heads) * rows.head_stride;
  __shared__ double block_largest;
  if (threadIdx.x == 0) block_largest = 0;
  __syncthreads();
  const int lane = static_cast<int>(threadIdx.x) % lanes;
  const int64_t rows_at_once = static_cast<int64_t>(kThreads / lanes) * gridDim.x;
  Sum largest = 0;
  // All lanes of a warp take part in each exchange, so that rows beyond the end count as zeros.
  for (int64_t base = 0; base < rows.rows; base += rows_at_once * kUnroll) {
    Sum sums[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int64_t step = base + rows_at_once * u + static_cast<int64_t>(blockIdx.x) * (kThreads / lanes) +
                           threadIdx.x / lanes;
      sums[u] = 0;
      if (step >= rows.rows) continue;
      const T* const values = data + step * rows.row_stride;
      if constexpr (kVectors) {
        const Vector<T> vector = Vector<T>::Load(values + lane * kVectorSize<T>);
#pragma unroll
        for (int i = 0; i < kVectorSize<T>; ++i) {
          const Sum x = Wide(vector.values[i]);
          sums[u] += x * x;
        }
      } else {
        for (int64_t d = lane; d < problem.size; d += lanes) {
          const Sum x = Wide(values[d]);
          sums[u] += x * x;
        }
      }
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      for (int offset = lanes / 2; offset > 0; offset /= 2)
        sums[u] += __shfl_xor_sync(0xffffffffu, sums[u], offset);
      largest = sums[u] > largest ? sums[u] : largest;
    }
  }
  largest = LargestOfWarp(largest);
  if (threadIdx.x % 32 == 0) StoreLarger(&block_largest, static_cast<double>(largest));
  __syncthreads();
  if (threadIdx.x == 0) problem.norms[blockIdx.x * int64_t{gridDim.y} + blockIdx.y] = block_largest;
}

__global__ void __launch_bounds__(kFloorThreads)
    FloorKernel(const ScoreBoundProblem problem, int64_t columns, int64_t shares) {
  __shared__ double found;
  if (threadIdx.x == 0) found = 0;
  // As many lanes a column as it has shares, each with one of them.
  int lanes = 1;
  while (lanes < shares) lanes *= 2;
  const int lane = static_cast<int>(threadIdx.x) % lanes;
  for (int64_t first = 0; first < columns; first += kFloorThreads / lanes) {  // whole warps
    const int64_t column = first + threadIdx.x / lanes;
    double largest = column < columns && lane < shares ? problem.norms[lane * columns + column] : 0;
    for (int offset = lanes / 2; offset > 0; offset /= 2) {
      const double other = __shfl_xor_sync(0xffffffffu, largest, offset);
      largest = other > largest ? other : largest;
    }
    if (column < columns && lane == 0) problem.norms[column] = largest;
  }
  __syncthreads();
  double largest = 0;
  for (int64_t i = threadIdx.x; i < problem.batch * problem.q.heads; i += kFloorThreads) {
    const double bound = kernels::SquaredBound(problem.norms, problem.q.heads, problem.k.heads, i);
    largest = bound > largest ? bound : largest;
  }
  largest = LargestOfWarp(largest);
  if (threadIdx.x % 32 == 0) StoreLarger(&found, largest);
  __syncthreads();
  if (threadIdx.x == 0) *problem.noise_floor = kernels::NoiseFloorOf(problem, found);
}

template <typename T>
void Launch(const ScoreBoundProblem& problem, cudaStream_t stream) {
  const auto aligned = [](const HeadRows& rows) {
    constexpr int64_t kSize = kVectorSize<T>;
    return reinterpret_cast<uintptr_t>(rows.data) % 16 == 0 && rows.batch_stride % kSize == 0 &&
           rows.head_stride % kSize == 0 && rows.row_stride % kSize == 0;
  };
  const int64_t vectors = problem.size / kVectorSize<T>;
  const bool whole = problem.size % kVectorSize<T> == 0 && vectors >= 1 && vectors <= 32 &&
                     (vectors & (vectors - 1)) == 0 && aligned(problem.q) && aligned(problem.k);
  const int lanes = whole ? static_cast<int>(vectors) : 32;
  const int64_t per_block = static_cast<int64_t>(kThreads / lanes) * kUnroll;
  const int64_t most = std::clamp<int64_t>(problem.NormRoom() / problem.columns(), 1, kMostShares);
  const int64_t shares = std::clamp<int64_t>(std::max(problem.q.rows, problem.k.rows) / per_block, 1, most);
  const dim3 grid(static_cast<unsigned>(shares), static_cast<unsigned>(problem.columns()));
  if (whole) {
    NormKernel<T, true><<<grid, kThreads, 0, stream>>>(problem, lanes);
  } else {
    NormKernel<T, false><<<grid, kThreads, 0, stream>>>(problem, lanes);
  }
  FloorKernel<<<1, kFloorThreads, 0, stream>>>(problem, problem.columns(), shares);
}

}  // namespace

absl::Status BoundOnCuda(const ScoreBoundProblem& problem, void* stream) {
  const int64_t columns = problem.columns();
  if (columns < 1 || columns > 65535) {
    return absl::InvalidArgumentError(
        absl::StrCat("a bound on the scores of ", columns, " heads in all; 1 to 65535 are taken at once"));
  }
  const auto queue = static_cast<cudaStream_t>(stream);
  switch (problem.element) {
    case Element::kFloat32:
      Launch<float>(problem, queue);
      break;
    case Element::kFloat64:
      Launch<double>(problem, queue);
      break;
    case Element::kFloat16:
      Launch<__half>(problem, queue);
      break;
    case Element::kBFloat16:
      Launch<__nv_bfloat16>(problem, queue);
      break;
  }
  if (const cudaError_t error = cudaGetLastError(); error != cudaSuccess) {
    return absl::InternalError(absl::StrCat("bound on scores: CUDA error: ", cudaGetErrorString(error)));
  }
  return absl::OkStatus();
}

}  // namespace eigsvc
