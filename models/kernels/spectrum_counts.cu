// A block counts a stretch of one unit's eigenvalues into shared memory and adds what it found to the unit's
// slots. Bins are 32-bit there: a block sees less than 2^31 values.
#include <cuda_runtime.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "models/kernels/count_one.h"
#include "models/kernels/spectrum_counts.h"

namespace eigsvc {
namespace {

namespace slots = spectrum_slots;

constexpr int kThreads = 256;
constexpr int kPerThread = 32;          // values: enough to pay for clearing and adding up the table
constexpr int kTables = slots::kZeros;  // bins and classes

using Slot = unsigned long long;

__device__ __forceinline__ int64_t WarpSum(int64_t x) {
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_down_sync(0xffffffffu, x, offset);
  return x;
}
__device__ __forceinline__ uint64_t WarpMax(uint64_t x) {
  for (int offset = 16; offset > 0; offset /= 2) {
    const uint64_t other = __shfl_down_sync(0xffffffffu, x, offset);
    x = x > other ? x : other;
  }
  return x;
}

// One more in `table[slot]`: neighbours' values often share a bin, so lanes that meet add once.
__device__ __forceinline__ void AddShared(uint32_t* table, int slot) {
  const unsigned peers = __match_any_sync(__activemask(), slot);
  if (static_cast<int>(threadIdx.x & 31u) == __ffs(static_cast<int>(peers)) - 1) {
    atomicAdd(table + slot, static_cast<uint32_t>(__popc(peers)));
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads) CountKernel(CountProblem<T> problem) {
  __shared__ uint32_t table[kTables];
  __shared__ uint32_t rare[4];  // zeros, ones, non-finite, above 1
  for (int i = static_cast<int>(threadIdx.x); i < kTables; i += kThreads) table[i] = 0;
  if (threadIdx.x < 4) rare[threadIdx.x] = 0;
  __syncthreads();

  const int64_t unit = blockIdx.x;
  const double noise_floor = *problem.noise_floor;
  const double above_1_edge = noise_floor > 1e-6 ? noise_floor : 1e-6;
  const int64_t steps = problem.steps - problem.first;
  const int64_t per_row = steps * problem.per_unit, total = problem.rows * per_row;
  int64_t sum_high = 0, sum_low = 0, squares_high = 0, squares_low = 0;
  uint64_t smallest = 0, largest = 0;  // codes; of the complement, and itself
  for (int64_t i = static_cast<int64_t>(blockIdx.y) * kThreads + threadIdx.x; i < total;
       i += static_cast<int64_t>(gridDim.y) * kThreads) {
    const int64_t row = i / per_row, rest = i - row * per_row;
    const int64_t step = problem.first + rest / problem.per_unit, k = rest % problem.per_unit;
    if (problem.lengths != nullptr && step >= problem.lengths[row] - problem.offset) continue;
    const int64_t at = row * problem.row_stride + step * problem.step_stride + unit * problem.unit_stride +
                       k * problem.value_stride;
    const double x = problem.log_magnitude[at];
    if (problem.phase != nullptr) {
      const double phase = problem.phase[at];
      if (!isfinite(phase)) {
        atomicAdd(rare + 2, 1u);
        continue;
      }
      const int cell = isfinite(x) ? kernels::PhaseSlotOf(x, phase) : -1;
      if (cell >= 0) {
        atomicAdd(reinterpret_cast<Slot*>(problem.phase_slots) + unit * slots::kPhaseSlots + cell,
                  static_cast<Slot>(problem.weight));
      }
    }
    const double size = x < 0 ? -x : x;
    if (!(size > 0 && size < HUGE_VAL)) {
      atomicAdd(rare + (x == 0 ? 1 : x == -HUGE_VAL ? 0 : 2), 1u);
      if (x != 0) continue;
    } else {
      AddShared(table, (x < 0 ? slots::kBelow1 : slots::kBeyond1) + kernels::BinOf(x));
      AddShared(table, slots::kClasses + kernels::ClassOf(x));
      if (x > above_1_edge) atomicAdd(rare + 3, 1u);
    }
    const double limited = kernels::Limited(x);
    const kernels::FixedParts sum = kernels::SumParts(limited), squares = kernels::SquareParts(limited);
    sum_high += sum.high;
    sum_low += sum.low;
    squares_high += squares.high;
    squares_low += squares.low;
    const uint64_t code = kernels::OrderedCode(x == 0 ? 0.0 : x);
    smallest = smallest > ~code ? smallest : ~code;
    largest = largest > code ? largest : code;
  }
  __syncthreads();

  Slot* const to = reinterpret_cast<Slot*>(problem.slots) + unit * slots::kSlots;
  const Slot weight = problem.weight;
  for (int i = static_cast<int>(threadIdx.x); i < kTables; i += kThreads) {
    if (table[i] != 0) atomicAdd(to + i, table[i] * weight);
  }
  if (threadIdx.x < 4 && rare[threadIdx.x] != 0) {
    constexpr int kOf[4] = {slots::kZeros, slots::kOnes, slots::kNonfinite, slots::kAbove1};
    atomicAdd(to + kOf[threadIdx.x], rare[threadIdx.x] * weight);
  }
  sum_high = WarpSum(sum_high);
  sum_low = WarpSum(sum_low);
  squares_high = WarpSum(squares_high);
  squares_low = WarpSum(squares_low);
  smallest = WarpMax(smallest);
  largest = WarpMax(largest);
  if (threadIdx.x % 32 == 0) {
    const kernels::Limbs sum = kernels::ToLimbs(sum_high, sum_low, 64 - 31, problem.weight);
    const kernels::Limbs squares = kernels::ToLimbs(squares_high, squares_low, 56 - 15, problem.weight);
    for (int i = 0; i < 4; ++i) {
      if (sum.limb[i] != 0) atomicAdd(to + slots::kSum + i, static_cast<Slot>(sum.limb[i]));
      if (squares.limb[i] != 0) atomicAdd(to + slots::kSquares + i, static_cast<Slot>(squares.limb[i]));
    }
    if (largest != 0) {
      atomicMax(to + slots::kMin, static_cast<Slot>(smallest));
      atomicMax(to + slots::kMax, static_cast<Slot>(largest));
    }
    if (threadIdx.x == 0 && blockIdx.y == 0) {
      atomicMax(to + slots::kNoiseFloor, static_cast<Slot>(kernels::OrderedCode(noise_floor)));
    }
  }
}

}  // namespace

template <typename T>
absl::Status CountOnCuda(const CountProblem<T>& problem, void* stream) {
  const int64_t values = problem.rows * (problem.steps - problem.first) * problem.per_unit;
  if (problem.units == 0) return absl::OkStatus();
  // A block's sums of 2^48 units a value must stay below 2^63, and its bins below 2^32.
  constexpr int64_t kMostPerBlock = int64_t{1} << 22;
  int64_t blocks = std::clamp<int64_t>(values / (kThreads * kPerThread), 1, 1024);
  blocks = std::max(blocks, (values + kMostPerBlock - 1) / kMostPerBlock);
  if (blocks > 65535 || problem.units > 0x7fffffff) {
    return absl::InvalidArgumentError("spectrum counts: too many eigenvalues in one call");
  }
  const dim3 grid(static_cast<unsigned>(problem.units), static_cast<unsigned>(blocks));
  CountKernel<T><<<grid, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(problem);
  if (const cudaError_t error = cudaGetLastError(); error != cudaSuccess) {
    return absl::InternalError(absl::StrCat("spectrum counts: CUDA error: ", cudaGetErrorString(error)));
  }
  return absl::OkStatus();
}

template absl::Status CountOnCuda(const CountProblem<float>&, void*);
template absl::Status CountOnCuda(const CountProblem<double>&, void*);

}  // namespace eigsvc
