// A block counts a stretch of one unit's eigenvalues into shared memory (count_block.h) and adds what it
// found to the unit's slots.
#include <cuda_runtime.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "models/kernels/count_block.h"
#include "models/kernels/count_one.h"
#include "models/kernels/spectrum_counts.h"

namespace eigsvc {
namespace {

namespace slots = spectrum_slots;
using kernels::Slot;

constexpr int kThreads = kernels::kCountThreads, kWarps = kThreads / 32;
constexpr int kBlocksPerProcessor = 4;
// Blocks of all units, in multiples of what the device holds at a time.
constexpr int64_t kWaves = 2;
// Values that a lane has in hand: two groups.
constexpr int kGroup = kernels::kGroup, kInHand = 2 * kGroup, kRound = 32 * kInHand;
// Values of one row that a warp takes at a time, in multiples of kRound.
constexpr int64_t kLeastSegment = 512, kMostSegment = 4096;
// So that a lane adds no more than kMostTerms to its moments.
constexpr int64_t kMostSegmentsAWarp = kernels::kMostTerms / (kMostSegment / 32 + 2);

template <typename T>
struct Launched {
  CountProblem<T> problem;
  int64_t per_row;    // values of a row, those beyond its length included
  int64_t segment;    // values of one
  uint32_t segments;  // of a row
};

// kFactored: a step's number times each of the unit's factors.
enum class Layout { kContiguous, kStrided, kNested, kFactored };
// What a value is: the number that lies there, that beside its phase, or the number before it less that.
enum class Form { kPlain, kPhase, kDifference };

__device__ __forceinline__ float Product(float a, float b) { return __fmul_rn(a, b); }
__device__ __forceinline__ double Product(double a, double b) { return __dmul_rn(a, b); }

// Counts the phase; the value to count, NaN where the phase is not finite.
template <typename T>
__device__ T CountPhase(T value, double phase, Slot* cells, Slot weight) {
  if (!isfinite(phase)) return static_cast<T>(NAN);
  const int cell = isfinite(value) ? kernels::PhaseSlotOf(value, phase) : -1;
  if (cell >= 0) {
    atomicAdd(cells + cell, weight);
    atomicAdd(cells + kernels::PhaseClassSlotOf(phase), weight);
  }
  return value;
}

template <typename T, Form kForm, Layout kLayout>
__global__ void __launch_bounds__(kThreads, kBlocksPerProcessor)
    CountKernel(const __grid_constant__ Launched<T> launched) {
  __shared__ kernels::BlockCounts<T> shared;
  shared.Clear();
  const CountProblem<T>& problem = launched.problem;
  const unsigned part_units = static_cast<unsigned>(problem.units);
  const auto& part = problem.parts[blockIdx.x / part_units];
  const double noise_floor = *part.noise_floor;
  kernels::LaneCounts<T> tally(noise_floor);
  const int64_t unit_offset = blockIdx.x % part_units * problem.unit_stride;
  const int64_t stride = problem.per_unit == 1 ? problem.step_stride : problem.value_stride;
  const uint32_t per_unit = static_cast<uint32_t>(problem.per_unit);
  const Slot weight = problem.weight;
  Slot* const cells =
      reinterpret_cast<Slot*>(problem.phase_slots) + static_cast<int64_t>(blockIdx.x) * slots::kPhaseSlots;
  const int lane = static_cast<int>(threadIdx.x % 32u);
  // Where a step's values divide a warp's, a lane meets one factor only, and a shift finds the step.
  const T* factors = nullptr;
  T factor = 0;
  int shift = -1;
  if constexpr (kLayout == Layout::kFactored) {
    factors = part.factors + blockIdx.x % part_units * problem.per_unit;
    if (32 % per_unit == 0) {
      shift = __ffs(static_cast<int>(per_unit)) - 1;
      factor = factors[static_cast<unsigned>(lane) % per_unit];
    }
  }

  const uint32_t items = static_cast<uint32_t>(problem.rows) * launched.segments;
  for (uint32_t item = blockIdx.y * kWarps + threadIdx.x / 32u; item < items; item += gridDim.y * kWarps) {
    const uint32_t row = item / launched.segments;
    const int64_t begin = (item - row * launched.segments) * launched.segment;
    int64_t end = launched.per_row;
    if (problem.lengths != nullptr) {
      const int64_t steps = problem.lengths[row] - problem.offset - problem.first;
      end = steps * problem.per_unit < end ? steps * problem.per_unit : end;
    }
    if (begin >= end) continue;
    const int count = static_cast<int>(end - begin < launched.segment ? end - begin : launched.segment);
    const int64_t start = unit_offset + row * problem.row_stride + problem.first * problem.step_stride +
                          (kLayout >= Layout::kNested ? 0 : begin * stride);
    const auto before = [&](int i) {  // the number before the item's value i
      const T* at = part.log_magnitude + start + (i - 1) * stride;
      if (i == 0 && problem.first + begin == 0) {
        at = part.previous + row * problem.previous_row_stride +
             blockIdx.x % part_units * problem.previous_unit_stride;
      }
      return *at;
    };
    const auto fetch = [&](int i) {  // the item's value i
      int64_t at = start + i * stride;
      if constexpr (kLayout == Layout::kNested) {
        const uint32_t j = static_cast<uint32_t>(begin) + static_cast<uint32_t>(i), step = j / per_unit;
        at = start + step * problem.step_stride + (j - step * per_unit) * problem.value_stride;
      }
      if constexpr (kLayout == Layout::kFactored) {
        const uint32_t j = static_cast<uint32_t>(begin) + static_cast<uint32_t>(i);
        if (shift >= 0)
          return Product(part.log_magnitude[start + (j >> shift) * problem.step_stride], factor);
        const uint32_t step = j / per_unit;
        return Product(part.log_magnitude[start + step * problem.step_stride], factors[j - step * per_unit]);
      }
      const T value = part.log_magnitude[at];
      if constexpr (kForm == Form::kPhase) return CountPhase(value, part.phase[at], cells, weight);
      if constexpr (kForm == Form::kDifference) return before(i) - value;
      return value;
    };
    int done = 0;
    if constexpr (kLayout == Layout::kContiguous) {
      const T* const values = part.log_magnitude + start;
      const int past = static_cast<int>(reinterpret_cast<uintptr_t>(values) % sizeof(float4) / sizeof(T));
      constexpr int kAtOnce = sizeof(float4) / sizeof(T), kLoads = kInHand / kAtOnce;
      done = past == 0 ? 0 : min(count, kAtOnce - past);
      if (lane < done) tally.CountOne(fetch(lane), shared);
      for (; done + kRound <= count; done += kRound) {
        union {
          float4 whole[kLoads];
          T values[kInHand];
        } loaded;
#pragma unroll
        for (int i = 0; i < kLoads; ++i)
          loaded.whole[i] = __ldcs(reinterpret_cast<const float4*>(values + done) + i * 32 + lane);
        T counted[kInHand];
#pragma unroll
        for (int i = 0; i < kInHand; ++i) {
          counted[i] = loaded.values[i];
          if constexpr (kForm == Form::kDifference) {
            // The number before a load's first is in the load of the lane before, and so in a cache.
            const T last =
                i % kAtOnce != 0 ? loaded.values[i - 1] : before(done + (i / kAtOnce * 32 + lane) * kAtOnce);
            counted[i] = last - counted[i];
          }
        }
#pragma unroll
        for (int i = 0; i < kInHand; i += kGroup) tally.CountGroup(counted + i, shared);
      }
    } else {
      for (; done + kRound <= count; done += kRound) {
        T values[kInHand];
#pragma unroll
        for (int i = 0; i < kInHand; ++i) values[i] = fetch(done + i * 32 + lane);
#pragma unroll
        for (int i = 0; i < kInHand; i += kGroup) tally.CountGroup(values + i, shared);
      }
    }
    for (int i = done + lane; i < count; i += 32) tally.CountOne(fetch(i), shared);
  }

  Slot* const to = reinterpret_cast<Slot*>(problem.slots) + static_cast<int64_t>(blockIdx.x) * slots::kSlots;
  __syncwarp();
  tally.AddTo(to, weight, shared);
  if (threadIdx.x == 0 && blockIdx.y == 0)
    atomicMax(to + slots::kNoiseFloor, static_cast<Slot>(kernels::OrderedCode(noise_floor)));
  __syncthreads();
  shared.AddTo(to, weight);
}

}  // namespace

template <typename T>
absl::Status CountOnCuda(const CountProblem<T>& problem, void* stream) {
  const int64_t units = problem.units * problem.part_count;
  if (units == 0) return absl::OkStatus();
  const auto failed = [](cudaError_t error) {
    return absl::InternalError(absl::StrCat("spectrum counts: CUDA error: ", cudaGetErrorString(error)));
  };
  int device = 0, processors = 0;
  if (const cudaError_t error = cudaGetDevice(&device); error != cudaSuccess) return failed(error);
  if (const cudaError_t error = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
      error != cudaSuccess)
    return failed(error);

  const int64_t per_row = std::max<int64_t>(0, (problem.steps - problem.first) * problem.per_unit);
  const int64_t total = problem.rows * per_row, resident = int64_t{kBlocksPerProcessor} * processors;
  // Several waves of them, but a segment for each warp; and no more for a lane than its moments hold.
  const int64_t useful = std::max<int64_t>(1, total / (kWarps * kLeastSegment));
  int64_t blocks = std::clamp<int64_t>(kWaves * resident / units, 1, useful);
  const int64_t per_warp = (total + blocks * kWarps - 1) / (blocks * kWarps);
  const int64_t segment = std::clamp((per_warp + kRound - 1) / kRound * kRound, kLeastSegment, kMostSegment);
  const int64_t segments = (per_row + segment - 1) / segment, items = problem.rows * segments;
  blocks = std::max(blocks, (items + kMostSegmentsAWarp * kWarps - 1) / (kMostSegmentsAWarp * kWarps));
  if (per_row > 0x7fffffff || items > 0x7fffffff || blocks > 0xffff || units > 0x7fffffff) {
    return absl::InvalidArgumentError(absl::StrCat("spectrum counts: ", problem.rows, " rows of ", per_row,
                                                   " values of ", units, " units are too many for one call"));
  }
  const Launched<T> launched{problem, per_row, segment, static_cast<uint32_t>(segments)};
  const dim3 grid(static_cast<unsigned>(units), static_cast<unsigned>(blocks));
  const auto launch = [&](auto* kernel) {
    kernel<<<grid, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(launched);
  };
  const bool flat = problem.per_unit == 1 || problem.step_stride == problem.per_unit * problem.value_stride;
  const bool contiguous = flat && (problem.per_unit == 1 ? problem.step_stride : problem.value_stride) == 1;
  if (problem.parts[0].factors != nullptr) {
    launch(&CountKernel<T, Form::kPlain, Layout::kFactored>);
  } else if (problem.parts[0].previous != nullptr) {
    launch(contiguous ? &CountKernel<T, Form::kDifference, Layout::kContiguous>
                      : &CountKernel<T, Form::kDifference, Layout::kStrided>);
  } else if (problem.parts[0].phase != nullptr) {
    launch(flat ? &CountKernel<T, Form::kPhase, Layout::kStrided>
                : &CountKernel<T, Form::kPhase, Layout::kNested>);
  } else {
    launch(contiguous ? &CountKernel<T, Form::kPlain, Layout::kContiguous>
           : flat     ? &CountKernel<T, Form::kPlain, Layout::kStrided>
                      : &CountKernel<T, Form::kPlain, Layout::kNested>);
  }
  if (const cudaError_t error = cudaGetLastError(); error != cudaSuccess) return failed(error);
  return absl::OkStatus();
}

template absl::Status CountOnCuda(const CountProblem<float>&, void*);
template absl::Status CountOnCuda(const CountProblem<double>&, void*);

}  // namespace eigsvc
