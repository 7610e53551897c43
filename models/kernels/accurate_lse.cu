// LSE = L + ln Σ_j e^(s_j - L) for any L: with the operator's for L, no maximum is looked for and all terms
// are at most about 1. In powers of two: x_j = c·⟨q,k_j⟩ - r with c = scale·log2 e and r = L·log2 e in
// float32. A warp has 16 rows of q and goes over the keys, a tile of which lies in shared memory at a time.
//
// What makes x exact: the tensor cores multiply 16 elements of q and k at a time, each time from zero, and
// each such sum, an eighth of a score for heads of 128, is added to x in float32; halfway, r is subtracted,
// so that x is never much larger than half a score, and for the keys that matter small in the end. Float32 is
// cut into three bfloat16 exactly, of whose nine products the six that count are added, small ones first.
#include <algorithm>
#include <cmath>

#include "models/kernels/accurate_lse.h"
#include "models/kernels/bound_one.h"
#include "models/kernels/device_element.h"
#include "models/kernels/tensor_core.h"

namespace eigsvc {
namespace {

using kernels::Pack;

constexpr int kWarp = 32, kWarpRows = 16;
constexpr int kSlice = 16;  // elements of a head that are multiplied at once
constexpr int kChunk = 8;   // elements of a head that are loaded at once
constexpr double kLog2E = 1.4426950408889634, kLn2 = 0.6931471805599453;

// How elements of type T lie in shared memory, what of them a block has there, and its threads: a warp for
// kWarpRows of its rows.
template <typename T>
struct Tile {
  using Part = T;
  static constexpr int kParts = 1, kThreads = 256, kRows = 128, kKeys = 64;
};
template <>
struct Tile<float> {
  using Part = __nv_bfloat16;
  static constexpr int kParts = 3, kThreads = 128, kRows = 64, kKeys = 32;
};

// From row to row in shared memory, in elements: an odd number of 16 bytes, so that neighbours' are in
// different banks.
__host__ __device__ constexpr int StrideOf(int slices) { return slices * kSlice + kChunk; }
template <typename T>
constexpr size_t SharedBytes(int slices) {
  return sizeof(typename Tile<T>::Part) * Tile<T>::kParts * (Tile<T>::kRows + Tile<T>::kKeys) *
         StrideOf(slices);
}

// What all blocks are told besides the problem.
struct Plan {
  int slices = 0;         // of a head
  bool vectors = false;   // addresses and strides of q and k are multiples of 16 bytes
  float unit = 0;         // c
  double correction = 0;  // log-sum-exps are to be times 1 more than this: c is rounded
};

// `count` rows of a head from `first` on, zeros beyond its last one and beyond its size, to `to`
// [kParts][count][stride].
template <typename T>
__device__ void LoadRows(const HeadRows& head, const T* data, int64_t first, int count, int64_t size,
                         const Plan& plan, typename Tile<T>::Part* to) {
  using Part = typename Tile<T>::Part;
  constexpr int kParts = Tile<T>::kParts, kVector = 16 / sizeof(T);
  const int chunks = plan.slices * (kSlice / kChunk), stride = StrideOf(plan.slices);
  for (int i = static_cast<int>(threadIdx.x); i < count * chunks; i += Tile<T>::kThreads) {
    const int row = i / chunks, d = i % chunks * kChunk;
    T values[kChunk];
    if (first + row < head.rows && plan.vectors && d + kChunk <= size) {
      const T* const from = data + (first + row) * head.row_stride + d;
#pragma unroll
      for (int v = 0; v < kChunk; v += kVector) {
        const Pack<T, kVector> vector = Pack<T, kVector>::Load(from + v);
#pragma unroll
        for (int e = 0; e < kVector; ++e) values[v + e] = vector.values[e];
      }
    } else {
#pragma unroll
      for (int e = 0; e < kChunk; ++e) {
        const bool inside = first + row < head.rows && d + e < size;
        values[e] = inside ? data[(first + row) * head.row_stride + d + e] : kernels::Narrow<T>(0);
      }
    }
    Pack<Part, kChunk> parts[kParts];
#pragma unroll
    for (int e = 0; e < kChunk; ++e) {
      if constexpr (kParts == 1) {
        parts[0].values[e] = values[e];
      } else {
        float rest = values[e];
#pragma unroll
        for (int p = 0; p < kParts; ++p) {
          parts[p].values[e] = kernels::Narrow<Part>(rest);
          rest -= kernels::Wide(parts[p].values[e]);
        }
      }
    }
#pragma unroll
    for (int p = 0; p < kParts; ++p) parts[p].Store(to + (p * count + row) * stride + d);
  }
}

// x of a warp's rows and a tile's keys: [i][0], [i][1] of row g and keys 8i+t and 8i+t+1; [i][2], [i][3] of
// row g+8 (tensor_core.h). `queries` and `keys` are where this lane loads from in the first part and slice.
template <typename T>
__device__ __forceinline__ void Scores(float (&x)[Tile<T>::kKeys / 8][4],
                                       const typename Tile<T>::Part* queries,
                                       const typename Tile<T>::Part* keys, const Plan& plan,
                                       const float (&base)[2]) {
  using Part = typename Tile<T>::Part;
  constexpr int kParts = Tile<T>::kParts, kTiles = Tile<T>::kKeys / 8;
  const int stride = StrideOf(plan.slices);
#pragma unroll
  for (int i = 0; i < kTiles; ++i) x[i][0] = x[i][1] = x[i][2] = x[i][3] = 0;
  for (int slice = 0; slice < plan.slices; ++slice) {
    if (slice == plan.slices / 2) {
#pragma unroll
      for (int i = 0; i < kTiles; ++i) {
        x[i][0] -= base[0], x[i][1] -= base[0];
        x[i][2] -= base[1], x[i][3] -= base[1];
      }
    }
    uint32_t a[kParts][4];
#pragma unroll
    for (int p = 0; p < kParts; ++p)
      kernels::LoadMatrices(a[p], queries + p * Tile<T>::kRows * stride + slice * kSlice);
#pragma unroll
    for (int pair = 0; pair < kTiles / 2; ++pair) {  // of tiles of eight keys
      uint32_t b[kParts][4];
#pragma unroll
      for (int p = 0; p < kParts; ++p)
        kernels::LoadMatrices(b[p], keys + (p * Tile<T>::kKeys + pair * 16) * stride + slice * kSlice);
#pragma unroll
      for (int side = 0; side < 2; ++side) {
        float sum[4] = {0, 0, 0, 0};
#pragma unroll
        for (int order = kParts - 1; order >= 0; --order) {
#pragma unroll
          for (int p = 0; p <= order; ++p) {
            const uint32_t(&keys_part)[4] = b[order - p];
            kernels::MultiplyAdd<Part>(sum, a[p], keys_part[2 * side], keys_part[2 * side + 1]);
          }
        }
#pragma unroll
        for (int e = 0; e < 4; ++e) x[2 * pair + side][e] = fmaf(sum[e], plan.unit, x[2 * pair + side][e]);
      }
    }
  }
}

// Block (x, y): rows of head y of batch·heads, the last ones first, which see the most keys.
template <typename T>
__global__ void __launch_bounds__(Tile<T>::kThreads, 2) LseKernel(const LseProblem problem, const Plan plan) {
  using Part = typename Tile<T>::Part;
  constexpr int kParts = Tile<T>::kParts, kRows = Tile<T>::kRows, kKeys = Tile<T>::kKeys;
  const HeadRows &q = problem.q, &k = problem.k;
  if (!problem.Takes(kernels::SquaredBound(problem.squared_norms, q.heads, k.heads, blockIdx.y))) return;
  extern __shared__ uint4 shared[];  // rows of q, then keys
  const int stride = StrideOf(plan.slices);
  Part* const query_tile = reinterpret_cast<Part*>(shared);
  Part* const key_tile = query_tile + kParts * kRows * stride;
  const int64_t row = blockIdx.y / q.heads, head = blockIdx.y % q.heads;
  const T* const queries = static_cast<const T*>(q.data) + row * q.batch_stride + head * q.head_stride;
  const T* const keys =
      static_cast<const T*>(k.data) + row * k.batch_stride + head / (q.heads / k.heads) * k.head_stride;
  float* const lse = problem.lse + row * problem.lse_batch_stride + head * problem.lse_head_stride;
  const int64_t first_row = static_cast<int64_t>(gridDim.x - 1 - blockIdx.x) * kRows;
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  const int64_t warp_row = first_row + warp * kWarpRows, behind = k.rows - q.rows;
  const int64_t rows[2] = {warp_row + lane / 4, warp_row + lane / 4 + 8};
  float base[2] = {0, 0};
  bool taken[2] = {false, false};
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    if (rows[i] >= q.rows) continue;
    const float held = lse[rows[i] * problem.lse_row_stride];
    base[i] = static_cast<float>(held * kLog2E);
    taken[i] = problem.TakesRow(held);
  }
  if (!__syncthreads_or(taken[0] || taken[1])) return;
  LoadRows<T>(q, queries, first_row, kRows, problem.size, plan, query_tile);
  // This lane's row of the matrices it loads: rows 0-7 and 8-15 of q at elements 0-7, then at 8-15; keys 0-7
  // at elements 0-7 and 8-15, then keys 8-15.
  const Part* const query_row = query_tile + (warp * kWarpRows + lane % 16) * stride + lane / 16 * kChunk;
  const Part* const key_row = key_tile + (lane / 16 * 8 + lane % 8) * stride + lane / 8 % 2 * kChunk;

  // Sums of a tile in float32, of tiles in float64.
  double sums[2] = {0, 0};
  const int64_t first_position = behind + first_row;
  const int64_t oldest =
      problem.window > 0 && first_position >= problem.window ? first_position - problem.window + 1 : 0;
  const int64_t end = min(first_position + kRows, k.rows);
  for (int64_t tile = oldest / kKeys * kKeys; tile < end; tile += kKeys) {
    __syncthreads();  // all have done with the tile before
    LoadRows<T>(k, keys, tile, kKeys, problem.size, plan, key_tile);
    __syncthreads();
    const int64_t warp_first = behind + warp_row, warp_last = warp_first + kWarpRows - 1;
    const bool later = tile > warp_last,
               left = problem.window > 0 && tile + kKeys - 1 <= warp_first - problem.window;
    if (later || left) continue;
    float x[kKeys / 8][4];
    Scores<T>(x, query_row, key_row, plan, base);
    const bool all_seen =
        tile + kKeys - 1 <= warp_first && (problem.window == 0 || tile > warp_last - problem.window);
    if (!all_seen) {
#pragma unroll
      for (int i = 0; i < kKeys / 8; ++i) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int64_t key = tile + 8 * i + lane % 4 * 2 + e % 2, position = behind + rows[e / 2];
          if (key > position || (problem.window > 0 && key <= position - problem.window))
            x[i][e] = -HUGE_VALF;
        }
      }
    }
    float part[2] = {0, 0};
#pragma unroll
    for (int i = 0; i < kKeys / 8; ++i) {
      part[0] += kernels::PowerOfTwo(x[i][0]) + kernels::PowerOfTwo(x[i][1]);
      part[1] += kernels::PowerOfTwo(x[i][2]) + kernels::PowerOfTwo(x[i][3]);
    }
    sums[0] += part[0];
    sums[1] += part[1];
  }

  for (int offset = 1; offset < 4; offset *= 2) {
    sums[0] += __shfl_xor_sync(0xffffffffu, sums[0], offset);
    sums[1] += __shfl_xor_sync(0xffffffffu, sums[1], offset);
  }
  if (lane % 4 != 0) return;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    if (!taken[i]) continue;
    // That c is rounded changes every score by the same share, and so what they come to.
    double answer = kLn2 * (base[i] * (1 + plan.correction) + log2(sums[i]));
    if (problem.sinks != nullptr) {
      const double sink = problem.sinks[head], larger = answer > sink ? answer : sink;
      answer = larger + log1p(exp(-fabs(answer - sink)));
    }
    if (isfinite(answer)) lse[rows[i] * problem.lse_row_stride] = static_cast<float>(answer);
  }
}

template <typename T>
absl::Status Launch(const LseProblem& problem, cudaStream_t stream) {
  const auto aligned = [](const HeadRows& rows) {
    constexpr int64_t kVector = 16 / sizeof(T);
    return reinterpret_cast<uintptr_t>(rows.data) % 16 == 0 && rows.batch_stride % kVector == 0 &&
           rows.head_stride % kVector == 0 && rows.row_stride % kVector == 0;
  };
  Plan plan;
  plan.slices = static_cast<int>((problem.size + kSlice - 1) / kSlice);
  plan.vectors = aligned(problem.q) && aligned(problem.k);
  plan.unit = static_cast<float>(problem.scale * kLog2E);
  plan.correction = problem.scale * kLog2E / plan.unit - 1;
  const size_t shared = SharedBytes<T>(plan.slices);
  if (cudaFuncSetAttribute(LseKernel<T>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                           static_cast<int>(shared)) != cudaSuccess) {
    cudaGetLastError();  // not the next call's
    return absl::InvalidArgumentError(absl::StrCat("log-sum-exps of heads of ", problem.size,
                                                   " elements: the device has no ", shared,
                                                   " bytes of shared memory for a block"));
  }
  const int64_t tiles = (problem.q.rows + Tile<T>::kRows - 1) / Tile<T>::kRows;
  const dim3 grid(static_cast<unsigned>(tiles), static_cast<unsigned>(problem.batch * problem.q.heads));
  LseKernel<T><<<grid, Tile<T>::kThreads, shared, stream>>>(problem, plan);
  return kernels::LaunchStatus("log-sum-exps");
}

}  // namespace

absl::Status RefineLseOnCuda(const LseProblem& problem, void* stream) {
  const int64_t heads = problem.batch * problem.q.heads;
  if (heads == 0 || problem.q.rows == 0) return absl::OkStatus();
  if (heads > LseProblem::kMostHeads || problem.size < 1 || problem.size > LseProblem::kMostSize) {
    return absl::InvalidArgumentError(absl::StrCat("log-sum-exps of ", heads, " heads of ", problem.size,
                                                   " elements; at most ", LseProblem::kMostHeads, " of ",
                                                   LseProblem::kMostSize, " are taken at once"));
  }
  return kernels::WithElement(problem.element, [&](auto element) {
    return Launch<decltype(element)>(problem, static_cast<cudaStream_t>(stream));
  });
}

}  // namespace eigsvc
