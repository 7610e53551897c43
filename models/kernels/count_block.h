// For CUDA sources: what a block counts into, its unit's part of a table of slots in shared memory, and what
// each of its lanes keeps by itself until the end (spectrum_counts.cu).
//
// What costs is arithmetic, not memory (measured on an H100), so that a usual value's way has no branch: its
// top bits are its place in the table, an edge inside a bin makes two places of it, and moments are exact
// sums in doubles (FixedSum). A value that is not usual (0, beyond the bins, not finite) sends its warp
// another way.
#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>

#include "models/kernels/count_one.h"
#include "models/kernels/spectrum_counts.h"

namespace eigsvc::kernels {

namespace slots = spectrum_slots;

inline constexpr int kCountThreads = 256;
// Values that go through a warp's votes together.
inline constexpr int kGroup = 4;
inline constexpr int kRare = slots::kSum - slots::kOnEdge;  // the slots of what is rare, in their order

// A key is what is above a float's last 18 bits: sign, exponent, 5 bits of the mantissa; an octave what is
// above its last 23. Both count from those of the first bin, so that bins of λ > 1 come first, and those of λ
// < 1 as many places later as the sign bit is worth; what lies between is not used.
inline constexpr int kFirstOctave = 127 + Spectrum::kMinExponent,
                     kFirstKey = kFirstOctave * Spectrum::kBinsPerOctave;
inline constexpr int kSideOctaves = 1 << 8, kSideKeys = kSideOctaves * Spectrum::kBinsPerOctave;
inline constexpr int kSpanOctaves = kSideOctaves + slots::kOctaves;
// A side's bins, then the same ones for what is beyond the edge of its octave.
inline constexpr int kSideTable = 2 * Spectrum::kBins, kSpanTable = kSideKeys + kSideTable;

using Slot = unsigned long long;

__device__ __forceinline__ uint64_t WarpSum(uint64_t x) {
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_down_sync(0xffffffffu, x, offset);
  return x;
}
__device__ __forceinline__ double WarpLeast(double x) {
  for (int offset = 16; offset > 0; offset /= 2) x = fmin(x, __shfl_down_sync(0xffffffffu, x, offset));
  return x;
}
__device__ __forceinline__ void AddWarpSum(const Limbs& limbs, Slot* to) {
  for (int i = 0; i < 4; ++i) {
    const uint64_t limb = WarpSum(limbs.limb[i]);
    if (threadIdx.x % 32u == 0 && limb != 0) atomicAdd(to + i, static_cast<Slot>(limb));
  }
}

// The largest T that is not above.
template <typename T>
__device__ __forceinline__ T Floor(double x) {
  if constexpr (std::is_same_v<T, float>) return __double2float_rd(x);
  return x;
}
__device__ __forceinline__ uint32_t SignBit(float x) { return __float_as_uint(x) >> 31; }
__device__ __forceinline__ uint32_t SignBit(double x) {
  return static_cast<uint32_t>(__double2hiint(x)) >> 31;
}
__device__ __forceinline__ uint32_t NarrowBits(double x) { return __float_as_uint(static_cast<float>(x)); }

// What the threads of a block count into together.
template <typename T>
struct BlockCounts {
  uint32_t table[kSpanTable];
  uint32_t rare[kRare];
  T edges[kSpanOctaves];  // the |log|λ|| that is on an edge, by octave and side; at most one each

  __device__ __forceinline__ void AddRare(int slot, uint32_t amount = 1) {
    atomicAdd(rare + (slot - slots::kOnEdge), amount);
  }
  __device__ void Clear() {
    for (unsigned i = threadIdx.x; i < 2 * kSideTable; i += kCountThreads)
      table[i < kSideTable ? i : i - kSideTable + kSideKeys] = 0;
    for (unsigned i = threadIdx.x; i < 2 * slots::kOctaves; i += kCountThreads)
      edges[i < slots::kOctaves ? i : i - slots::kOctaves + kSideOctaves] = HUGE_VAL;
    if (threadIdx.x < kRare) rare[threadIdx.x] = 0;
    __syncthreads();
    if (threadIdx.x < spectrum_edges::kEdges) {
      const int edge = static_cast<int>(threadIdx.x);
      const double size = EdgeSize(edge);
      edges[(NarrowBits(edge < kEdgesBelow1 ? -size : size) >> 23) - kFirstOctave] = Floor<T>(size);
    }
    __syncthreads();
  }
  // After all have counted, and a barrier.
  __device__ void AddTo(Slot* to, Slot weight) const {
    for (int slot = static_cast<int>(threadIdx.x); slot < 2 * Spectrum::kBins; slot += kCountThreads) {
      const uint32_t* const place =
          table + (slot < Spectrum::kBins ? kSideKeys + slot : slot - Spectrum::kBins);
      const uint32_t beyond = place[Spectrum::kBins];
      if (const uint32_t amount = *place + beyond; amount != 0) atomicAdd(to + slot, amount * weight);
      const int edge = beyond != 0 ? EdgeOfSlot(slot) : -1;
      if (edge >= 0) atomicAdd(to + slots::kBeyondEdge + edge, beyond * weight);
    }
    if (threadIdx.x < kRare && rare[threadIdx.x] != 0)
      atomicAdd(to + slots::kOnEdge + threadIdx.x, rare[threadIdx.x] * weight);
  }
};

// What a lane keeps of its values.
template <typename T>
class LaneCounts {
 public:
  __device__ explicit LaneCounts(double noise_floor) : above_1_edge_(Floor<T>(fmax(noise_floor, 1e-6))) {}

  static __device__ __forceinline__ bool IsUsual(uint32_t bits) {
    return 2 * bits - (static_cast<uint32_t>(kFirstOctave) << 24) < static_cast<uint32_t>(slots::kOctaves)
                                                                        << 24;
  }
  // Where in the table the value counts, in bytes: less to compute than an index. REQUIRES IsUsual.
  static __device__ __forceinline__ uint32_t PlaceOf(T value, uint32_t bits, BlockCounts<T>& shared) {
    const T size = fabs(value), edge = shared.edges[(bits >> 23) - kFirstOctave];
    uint32_t place = (bits >> (18 - 2)) & ~3u;
    if constexpr (!std::is_same_v<T, float>) {  // no edge is a float
      if (size == edge) [[unlikely]]
        AddOnEdge(place / 4 - kFirstKey, shared);
    }
    if (size > edge) place += sizeof(uint32_t) * Spectrum::kBins;
    return place;
  }
  static __device__ __forceinline__ void AddAt(uint32_t place, uint32_t amount, BlockCounts<T>& shared) {
    char* const first = reinterpret_cast<char*>(shared.table) - sizeof(uint32_t) * kFirstKey;
    atomicAdd(reinterpret_cast<uint32_t*>(first + place), amount);
  }
  __device__ __forceinline__ void Add(T value, double term) {
    moments_.Add(term);
    smallest_ = fmin(smallest_, value);
    largest_ = fmax(largest_, value);
    above_1_ += SignBit(above_1_edge_ - value);  // cheaper than a comparison
  }
  __device__ __forceinline__ void CountOne(T value, BlockCounts<T>& shared) {
    const uint32_t bits = NarrowBits(value);
    if (IsUsual(bits)) {
      AddAt(PlaceOf(value, bits, shared), 1, shared);
      Add(value, value);
    } else if (value == 0) {
      shared.AddRare(slots::kOnes);
      smallest_ = smallest_ > 0 ? 0 : smallest_;
      largest_ = largest_ < 0 ? 0 : largest_;
    } else if (isfinite(value)) {
      atomicAdd(shared.table + BinOfBits(bits) + (value < 0 ? kSideKeys : 0), 1u);
      Add(value, Limited(value));
    } else {
      shared.AddRare(value == -static_cast<T>(HUGE_VAL) ? slots::kZeros : slots::kNonfinite);
    }
  }
  // Whole warps.
  __device__ __forceinline__ void CountGroup(const T* values, BlockCounts<T>& shared) {
    uint32_t bits[kGroup], places[kGroup];
    bool usual = true;
#pragma unroll
    for (int i = 0; i < kGroup; ++i) {
      bits[i] = NarrowBits(values[i]);
      usual = usual && IsUsual(bits[i]);
    }
    if (!__all_sync(0xffffffffu, usual)) [[unlikely]] {
#pragma unroll
      for (int i = 0; i < kGroup; ++i) CountOne(values[i], shared);
      return;
    }
#pragma unroll
    for (int i = 0; i < kGroup; ++i) places[i] = PlaceOf(values[i], bits[i], shared);
    // Where a whole warp meets in one place, one lane adds for all.
    const uint32_t first = __shfl_sync(0xffffffffu, places[0], 0);
    bool same = true;
#pragma unroll
    for (int i = 0; i < kGroup; ++i) same = same && places[i] == first;
    if (__all_sync(0xffffffffu, same)) {
      if (threadIdx.x % 32u == 0) AddAt(first, 32 * kGroup, shared);
    } else {
#pragma unroll
      for (int i = 0; i < kGroup; ++i) AddAt(places[i], 1, shared);
    }
#pragma unroll
    for (int i = 0; i < kGroup; ++i) Add(values[i], values[i]);
  }

  // Whole warps, before the barrier that ends the counting.
  __device__ void AddTo(Slot* to, Slot weight, BlockCounts<T>& shared) {
    if (above_1_ != 0) shared.AddRare(slots::kAbove1, above_1_);
    AddWarpSum(moments_.sum.Times(weight), to + slots::kSum);
    AddWarpSum(moments_.squares.Times(weight), to + slots::kSquares);
    const double low = WarpLeast(smallest_), high = -WarpLeast(-static_cast<double>(largest_));
    if (threadIdx.x % 32u == 0 && low <= high) {  // a zero of either sign is +0
      atomicMax(to + slots::kMin, static_cast<Slot>(~OrderedCode(low + 0.0)));
      atomicMax(to + slots::kMax, static_cast<Slot>(OrderedCode(high + 0.0)));
    }
  }

 private:
  static __device__ __noinline__ void AddOnEdge(uint32_t key, BlockCounts<T>& shared) {
    const int slot =
        key < kSideKeys ? static_cast<int>(key) + Spectrum::kBins : static_cast<int>(key) - kSideKeys;
    if (const int edge = EdgeOfSlot(slot); edge >= 0) shared.AddRare(slots::kOnEdge + edge);
  }
  const T above_1_edge_;
  Moments moments_;
  T smallest_ = HUGE_VAL, largest_ = -HUGE_VAL;
  uint32_t above_1_ = 0;
};

}  // namespace eigsvc::kernels
