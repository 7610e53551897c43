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
constexpr int kUnroll = 4;  // loads in flight a lane
constexpr int kTables = 2 * Spectrum::kBins;
constexpr int kRare = slots::kSum - slots::kOnEdge;  // the slots of what is rare, in their order
// Values of one row that a warp takes at a time; as many of them a block as pay for clearing and adding up
// its table.
constexpr int kSegment = 2048;
constexpr int kSegmentsPerBlock = 64;

using Slot = unsigned long long;

template <typename T>
struct Launched {
  CountProblem<T> problem;
  int64_t per_row;   // values of a row, those beyond its length included
  int64_t segments;  // of a row
};

__device__ __forceinline__ int64_t WarpSum(int64_t x) {
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_down_sync(0xffffffffu, x, offset);
  return x;
}
__device__ __forceinline__ double WarpLeast(double x) {
  for (int offset = 16; offset > 0; offset /= 2) x = fmin(x, __shfl_down_sync(0xffffffffu, x, offset));
  return x;
}

// Sums of the bits of what Fixed() adds up; the bits of its constant are taken off at the end.
struct Moments {
  int64_t sum_high = 0, sum_low = 0, squares_high = 0, squares_low = 0;
  uint32_t count = 0;
  __device__ __forceinline__ void Add(double x) {
    const kernels::FixedParts sum = kernels::RawParts(x, kernels::kMomentScaleSum, 0x1p64);
    const kernels::FixedParts squares =
        kernels::RawParts(kernels::RoundedSquare(x), kernels::kMomentScaleSquares, 0x1p56);
    sum_high += sum.high;
    sum_low += sum.low;
    squares_high += squares.high;
    squares_low += squares.low;
    ++count;
  }
  __device__ __forceinline__ void Finish() {
    const int64_t constant = static_cast<int64_t>(count) * kernels::NearestBits();
    sum_high -= constant;
    sum_low -= constant;
    squares_high -= constant;
    squares_low -= constant;
  }
};

// `kPhase`: complex eigenvalues. `kFlat`: a row's values are one stride apart, so that an index is an
// address.
template <typename T, bool kPhase, bool kFlat>
__global__ void __launch_bounds__(kThreads) CountKernel(const __grid_constant__ Launched<T> launched) {
  __shared__ uint32_t table[kTables];
  __shared__ uint32_t rare[kRare];
  const CountProblem<T>& problem = launched.problem;
  for (int i = static_cast<int>(threadIdx.x); i < kTables; i += kThreads) table[i] = 0;
  if (threadIdx.x < kRare) rare[threadIdx.x] = 0;
  __syncthreads();

  const unsigned part_units = static_cast<unsigned>(problem.units);
  const auto& part = problem.parts[blockIdx.x / part_units];
  const double noise_floor = *part.noise_floor;
  const double above_1_edge = noise_floor > 1e-6 ? noise_floor : 1e-6;
  const int64_t unit_offset = blockIdx.x % part_units * problem.unit_stride;
  const int64_t stride = problem.per_unit == 1 ? problem.step_stride : problem.value_stride;
  const auto add_rare = [&](int slot) { atomicAdd(rare + (slot - slots::kOnEdge), 1u); };
  const int lane = static_cast<int>(threadIdx.x % 32u);
  Moments moments;
  T smallest = HUGE_VAL, largest = -HUGE_VAL;
  uint32_t above_1 = 0;

  constexpr int64_t kWarps = kThreads / 32;
  const int64_t items = problem.rows * launched.segments;
  for (int64_t item = blockIdx.y * kWarps + threadIdx.x / 32u; item < items; item += gridDim.y * kWarps) {
    const int64_t row = item / launched.segments, begin = (item - row * launched.segments) * kSegment;
    int64_t end = launched.per_row;
    if (problem.lengths != nullptr) {
      const int64_t steps = problem.lengths[row] - problem.offset - problem.first;
      end = steps * problem.per_unit < end ? steps * problem.per_unit : end;
    }
    const int count = static_cast<int>(end - begin < kSegment ? end - begin : kSegment);
    const int64_t start = unit_offset + row * problem.row_stride + problem.first * problem.step_stride;
    // Every lane takes part in each round, so that the vote below is of all.
    for (int base = lane; base - lane < count; base += 32 * kUnroll) {
      T loaded[kUnroll];
      int64_t at[kUnroll];
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        const int64_t j = begin + base + u * 32;
        at[u] = kFlat ? start + j * stride
                      : start + j / problem.per_unit * problem.step_stride +
                            j % problem.per_unit * problem.value_stride;
        loaded[u] = base + u * 32 < count ? part.log_magnitude[at[u]] : T(0);
      }
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        const T value = loaded[u];
        bool counts = base + u * 32 < count;
        if (kPhase && counts) {
          const double phase = part.phase[at[u]];
          if (!isfinite(phase)) {
            add_rare(slots::kNonfinite);
            counts = false;
          } else if (isfinite(value)) {
            const int cell = kernels::PhaseSlotOf(value, phase);
            if (cell >= 0) {
              Slot* const cells = reinterpret_cast<Slot*>(problem.phase_slots) +
                                  static_cast<int64_t>(blockIdx.x) * slots::kPhaseSlots;
              atomicAdd(cells + cell, static_cast<Slot>(problem.weight));
              atomicAdd(cells + kernels::PhaseClassSlotOf(phase), static_cast<Slot>(problem.weight));
            }
          }
        }
        const T size = value < 0 ? -value : value;
        const bool usual = counts && size > 0 && size < static_cast<T>(spectrum_edges::kMomentLimit);
        const int bin = kernels::BinOfBits(__float_as_uint(static_cast<float>(value)));
        int slot = value < 0 ? bin : bin + Spectrum::kBins;
        if (!usual) {
          const bool finite = counts && size > 0 && size < static_cast<T>(HUGE_VAL);
          if (finite) {
            moments.Add(kernels::Limited(value));
          } else {
            slot = -1;
            if (counts) {
              add_rare(value == 0                           ? slots::kOnes
                       : value == -static_cast<T>(HUGE_VAL) ? slots::kZeros
                                                            : slots::kNonfinite);
            }
          }
          if (finite || (counts && value == 0)) {
            smallest = value < smallest ? value : smallest;
            largest = value > largest ? value : largest;
          }
        } else {
          moments.Add(value);
          smallest = value < smallest ? value : smallest;
          largest = value > largest ? value : largest;
        }
        // Where a whole warp meets in one bin, one lane adds for all.
        const int first = __shfl_sync(0xffffffffu, slot, 0);
        if (__all_sync(0xffffffffu, slot == first)) {
          if (lane == 0 && slot >= 0) atomicAdd(table + slot, 32u);
        } else if (slot >= 0) {
          atomicAdd(table + slot, 1u);
        }
        if (slot >= 0) {
          above_1 += value > above_1_edge;
          const int edge = kernels::EdgeOfSlot(slot);
          if (edge >= 0) {
            const double edge_size = kernels::EdgeSize(edge), exact = size;
            if (exact == edge_size) add_rare(slots::kOnEdge + edge);
            if (exact > edge_size) add_rare(slots::kBeyondEdge + edge);
          }
        }
      }
    }
  }
  if (above_1 != 0) atomicAdd(rare + (slots::kAbove1 - slots::kOnEdge), above_1);
  moments.Finish();
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
  if (lane == 0) {
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
  const int64_t units = problem.units * problem.part_count;
  if (units == 0) return absl::OkStatus();
  const int64_t per_row = (problem.steps - problem.first) * problem.per_unit;
  const int64_t segments = std::max<int64_t>(1, (per_row + kSegment - 1) / kSegment);
  // A block's bins are of 32 bits and its lanes' sums must stay below 2^63.
  const int64_t blocks = std::clamp<int64_t>(problem.rows * segments / kSegmentsPerBlock, 1, 4096);
  const int64_t most = blocks * (int64_t{1} << 20) * kThreads / 32;
  if (problem.rows * std::max<int64_t>(per_row, 1) > most || units > 0x7fffffff) {
    return absl::InvalidArgumentError(absl::StrCat("spectrum counts: ", problem.rows, " rows of ", per_row,
                                                   " values of ", units, " units are too many for one call"));
  }
  const bool flat = problem.per_unit == 1 || problem.step_stride == problem.per_unit * problem.value_stride;
  const Launched<T> launched{problem, per_row, segments};
  const dim3 grid(static_cast<unsigned>(units), static_cast<unsigned>(blocks));
  const auto launch = [&](auto* kernel) {
    kernel<<<grid, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(launched);
  };
  if (problem.parts[0].phase != nullptr) {
    launch(flat ? &CountKernel<T, true, true> : &CountKernel<T, true, false>);
  } else {
    launch(flat ? &CountKernel<T, false, true> : &CountKernel<T, false, false>);
  }
  if (const cudaError_t error = cudaGetLastError(); error != cudaSuccess) {
    return absl::InternalError(absl::StrCat("spectrum counts: CUDA error: ", cudaGetErrorString(error)));
  }
  return absl::OkStatus();
}

template absl::Status CountOnCuda(const CountProblem<float>&, void*);
template absl::Status CountOnCuda(const CountProblem<double>&, void*);

}  // namespace eigsvc
