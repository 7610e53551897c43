// A block counts a stretch of one unit's eigenvalues into shared memory and adds what it found to the unit's
// slots. Measured on an H100: what costs is arithmetic, not memory, so that a value's way is short: no 64-bit
// division, no conversion between integers and doubles, one atomic operation in shared memory.
#include <cuda_runtime.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "models/kernels/count_one.h"
#include "models/kernels/spectrum_counts.h"

namespace eigsvc {
namespace {

namespace slots = spectrum_slots;

constexpr int kThreads = 256;
constexpr int kUnroll = 4;      // loads in flight a thread
constexpr int kPerThread = 64;  // values: enough to pay for clearing and adding up the table
constexpr int kTables = 2 * Spectrum::kBins;
constexpr int kRare = slots::kSum - slots::kOnEdge;  // the slots of what is rare, in their order

using Slot = unsigned long long;

// Quotients by one divisor for dividends below 2^31 (Granlund & Montgomery 1994).
struct FastDivisor {
  uint32_t divisor = 1, magic = 0, shift = 0;
  explicit FastDivisor(uint32_t d) : divisor(d) {
    while ((uint64_t{1} << shift) < d) ++shift;
    magic = static_cast<uint32_t>(((uint64_t{1} << 32) * ((uint64_t{1} << shift) - d)) / d + 1);
  }
  __device__ __forceinline__ uint32_t Quotient(uint32_t x) const { return (__umulhi(x, magic) + x) >> shift; }
};

template <typename T>
struct Launched {
  CountProblem<T> problem;
  FastDivisor per_row, per_unit;
  uint32_t total;  // values of a unit
};

__device__ __forceinline__ int64_t WarpSum(int64_t x) {
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_down_sync(0xffffffffu, x, offset);
  return x;
}
__device__ __forceinline__ double WarpLeast(double x) {
  for (int offset = 16; offset > 0; offset /= 2) x = fmin(x, __shfl_down_sync(0xffffffffu, x, offset));
  return x;
}

struct Moments {
  int64_t sum_high = 0, sum_low = 0, squares_high = 0, squares_low = 0;
  __device__ __forceinline__ void Add(double x) {
    const kernels::FixedParts sum = kernels::SumParts(x), squares = kernels::SquareParts(x);
    sum_high += sum.high;
    sum_low += sum.low;
    squares_high += squares.high;
    squares_low += squares.low;
  }
};

template <typename T>
__device__ __forceinline__ uint32_t FloatBits(T x) {
  return __float_as_uint(static_cast<float>(x));
}

template <typename T>
__global__ void __launch_bounds__(kThreads) CountKernel(const Launched<T> launched) {
  __shared__ uint32_t table[kTables];
  __shared__ uint32_t rare[kRare];
  const CountProblem<T>& problem = launched.problem;
  for (int i = static_cast<int>(threadIdx.x); i < kTables; i += kThreads) table[i] = 0;
  if (threadIdx.x < kRare) rare[threadIdx.x] = 0;
  __syncthreads();

  const double noise_floor = *problem.noise_floor;
  const double above_1_edge = noise_floor > 1e-6 ? noise_floor : 1e-6;
  const T* const values = problem.log_magnitude + blockIdx.x * problem.unit_stride;
  const auto add_rare = [&](int slot) { atomicAdd(rare + (slot - slots::kOnEdge), 1u); };
  Moments moments;
  T smallest = HUGE_VAL, largest = -HUGE_VAL;
  uint32_t above_1 = 0;

  // Every lane of a warp takes part in each round, so that the vote below is of all.
  const uint32_t stride = gridDim.y * kThreads * kUnroll;
  for (uint32_t base = blockIdx.y * kThreads * kUnroll; base < launched.total; base += stride) {
    T loaded[kUnroll];
    int64_t at[kUnroll];
    bool counts[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const uint32_t i = base + u * kThreads + threadIdx.x;
      const uint32_t row = launched.per_row.Quotient(i), rest = i - row * launched.per_row.divisor;
      const uint32_t step = launched.per_unit.Quotient(rest), k = rest - step * launched.per_unit.divisor;
      const int64_t time = problem.first + step;
      counts[u] =
          i < launched.total && (problem.lengths == nullptr || time < problem.lengths[row] - problem.offset);
      at[u] = row * problem.row_stride + time * problem.step_stride + k * problem.value_stride;
      loaded[u] = counts[u] ? values[at[u]] : T(0);
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const T value = loaded[u];
      const T size = value < 0 ? -value : value;
      if (counts[u] && problem.phase != nullptr) {
        const double phase = problem.phase[blockIdx.x * problem.unit_stride + at[u]];
        if (!isfinite(phase)) {
          add_rare(slots::kNonfinite);
          counts[u] = false;
        } else if (isfinite(value)) {
          const int cell = kernels::PhaseSlotOf(value, phase);
          if (cell >= 0) {
            atomicAdd(reinterpret_cast<Slot*>(problem.phase_slots) +
                          static_cast<int64_t>(blockIdx.x) * slots::kPhaseSlots + cell,
                      static_cast<Slot>(problem.weight));
          }
        }
      }
      const bool usual = counts[u] && size > 0 && size < static_cast<T>(spectrum_edges::kMomentLimit);
      const bool finite = counts[u] && size > 0 && size < static_cast<T>(HUGE_VAL);
      const int bin = kernels::BinOfBits(FloatBits(value));
      const int slot = finite ? (value < 0 ? 0 : Spectrum::kBins) + bin : -1;
      // Where a whole warp meets in one bin, one lane adds for all.
      const int first = __shfl_sync(0xffffffffu, slot, 0);
      if (__all_sync(0xffffffffu, slot == first)) {
        if (threadIdx.x % 32 == 0 && slot >= 0) atomicAdd(table + slot, 32u);
      } else if (slot >= 0) {
        atomicAdd(table + slot, 1u);
      }
      if (usual) {
        moments.Add(value);
      } else if (finite) {
        moments.Add(kernels::Limited(value));
      } else if (counts[u]) {
        add_rare(value == 0                           ? slots::kOnes
                 : value == -static_cast<T>(HUGE_VAL) ? slots::kZeros
                                                      : slots::kNonfinite);
      }
      if (finite || (counts[u] && value == 0)) {
        smallest = value < smallest ? value : smallest;
        largest = value > largest ? value : largest;
      }
      if (finite) {
        above_1 += value > above_1_edge;
        const int edge = kernels::EdgeOf(value < 0, bin);
        if (edge >= 0) {
          const double edge_size = kernels::EdgeSize(edge), exact = size;
          if (exact == edge_size) add_rare(slots::kOnEdge + edge);
          if (exact > edge_size) add_rare(slots::kBeyondEdge + edge);
        }
      }
    }
  }
  if (above_1 != 0) atomicAdd(rare + (slots::kAbove1 - slots::kOnEdge), above_1);
  __syncthreads();

  Slot* const to = reinterpret_cast<Slot*>(problem.slots) + static_cast<int64_t>(blockIdx.x) * slots::kSlots;
  const Slot weight = problem.weight;
  for (int i = static_cast<int>(threadIdx.x); i < kTables; i += kThreads) {
    if (table[i] != 0) atomicAdd(to + i, table[i] * weight);
  }
  if (threadIdx.x < kRare && rare[threadIdx.x] != 0) {
    atomicAdd(to + slots::kOnEdge + threadIdx.x, rare[threadIdx.x] * weight);
  }
  const int64_t sum_high = WarpSum(moments.sum_high), sum_low = WarpSum(moments.sum_low);
  const int64_t squares_high = WarpSum(moments.squares_high), squares_low = WarpSum(moments.squares_low);
  const double low = WarpLeast(smallest), high = -WarpLeast(-static_cast<double>(largest));
  if (threadIdx.x % 32 == 0) {
    const kernels::Limbs sum = kernels::ToLimbs(sum_high, sum_low, 64 - 31, problem.weight);
    const kernels::Limbs squares = kernels::ToLimbs(squares_high, squares_low, 56 - 15, problem.weight);
    for (int i = 0; i < 4; ++i) {
      if (sum.limb[i] != 0) atomicAdd(to + slots::kSum + i, static_cast<Slot>(sum.limb[i]));
      if (squares.limb[i] != 0) atomicAdd(to + slots::kSquares + i, static_cast<Slot>(squares.limb[i]));
    }
    if (low <= high) {  // a zero of either sign is +0
      atomicMax(to + slots::kMin, static_cast<Slot>(~kernels::OrderedCode(low + 0.0)));
      atomicMax(to + slots::kMax, static_cast<Slot>(kernels::OrderedCode(high + 0.0)));
    }
    if (threadIdx.x == 0 && blockIdx.y == 0) {
      atomicMax(to + slots::kNoiseFloor, static_cast<Slot>(kernels::OrderedCode(noise_floor)));
    }
  }
}

}  // namespace

template <typename T>
absl::Status CountOnCuda(const CountProblem<T>& problem, void* stream) {
  const int64_t per_row = (problem.steps - problem.first) * problem.per_unit, total = problem.rows * per_row;
  if (problem.units == 0) return absl::OkStatus();
  // Indices and bins are of 32 bits, and a block's sums must stay below 2^63.
  if (total < 0 || total > 0x7fffffff || problem.units > 0x7fffffff) {
    return absl::InvalidArgumentError(
        absl::StrCat("spectrum counts: ", total, " values of ", problem.units,
                     " units in one call; at most 2^31 - 1 of each are counted"));
  }
  const int64_t blocks = std::clamp<int64_t>(total / (kThreads * kPerThread), 1, 16384);
  const Launched<T> launched{problem, FastDivisor(static_cast<uint32_t>(std::max<int64_t>(per_row, 1))),
                             FastDivisor(static_cast<uint32_t>(std::max<int64_t>(problem.per_unit, 1))),
                             static_cast<uint32_t>(total)};
  const dim3 grid(static_cast<unsigned>(problem.units), static_cast<unsigned>(blocks));
  CountKernel<T><<<grid, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(launched);
  if (const cudaError_t error = cudaGetLastError(); error != cudaSuccess) {
    return absl::InternalError(absl::StrCat("spectrum counts: CUDA error: ", cudaGetErrorString(error)));
  }
  return absl::OkStatus();
}

template absl::Status CountOnCuda(const CountProblem<float>&, void*);
template absl::Status CountOnCuda(const CountProblem<double>&, void*);

}  // namespace eigsvc
