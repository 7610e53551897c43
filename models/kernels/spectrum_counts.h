// Counts eigenvalues into the parts of a Spectrum where they are: one pass over [B,T,U,K], a table of 64-bit
// slots a unit, integers only, so that the order of addition cannot matter. Many small tensors (a layer each)
// take one pass together. Spectrum::Add defines the answer; the plain form here and the CUDA form give its
// bits.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "models/spectrum/edges.h"
#include "models/spectrum/spectrum.h"

namespace eigsvc {

// Where a unit's slots are. Sums are two's complement of 128 bits in four 32-bit limbs, each in a slot of its
// own whose carries are taken at the end. Extremes are doubles in an order-preserving code.
namespace spectrum_slots {
inline constexpr int kBelow1 = 0;
inline constexpr int kBeyond1 = kBelow1 + Spectrum::kBins;
inline constexpr int kOnEdge = kBeyond1 + Spectrum::kBins;  // of the values in the edge's bin
inline constexpr int kBeyondEdge = kOnEdge + spectrum_edges::kEdges;
inline constexpr int kZeros = kBeyondEdge + spectrum_edges::kEdges;
inline constexpr int kOnes = kZeros + 1;
inline constexpr int kNonfinite = kOnes + 1;
inline constexpr int kAbove1 = kNonfinite + 1;
inline constexpr int kSum = kAbove1 + 1;
inline constexpr int kSquares = kSum + 4;
inline constexpr int kMin = kSquares + 4;  // of the complement of the code, so that all slots start at zero
inline constexpr int kMax = kMin + 1;
inline constexpr int kNoiseFloor = kMax + 1;
inline constexpr int kSlots = kNoiseFloor + 1;

inline constexpr int kOctaves = Spectrum::kMaxExponent - Spectrum::kMinExponent;
// A table of its own: the grid, then the classes of positive and of negative phases.
inline constexpr int kPhaseClass = 2 * kOctaves * Spectrum::kPhaseBins;
inline constexpr int kPhaseSlots = kPhaseClass + 2 * spectrum_edges::kPhaseClasses;
}  // namespace spectrum_slots

template <typename T>
struct CountProblem {
  // Tensors of the same shape and strides, each with units of its own: those of part p are p·units and on.
  struct Part {
    const T* log_magnitude = nullptr;
    const double* phase = nullptr;        // null, in all parts: positive real
    const double* noise_floor = nullptr;  // one number; log|λ| > max(1e-6, *noise_floor) is above 1
    // [units,per_unit], in all parts and without phases, or null: a step then holds one number a unit, and
    // its values are that times each of these, rounded to T. value_stride is not looked at.
    const T* factors = nullptr;
    // [rows,units], in all parts, without phases, factors and more than one value a unit, or null: a value is
    // then the number of the step before less that of its own, rounded to T. Step 0 has this one before it.
    const T* previous = nullptr;
  };
  static constexpr int kMaxParts = 64;
  Part parts[kMaxParts];
  int part_count = 1;
  int64_t rows = 0, steps = 0, units = 0, per_unit = 0;
  int64_t row_stride = 0, step_stride = 0, unit_stride = 0, value_stride = 0;  // in elements
  int64_t previous_row_stride = 0, previous_unit_stride = 0;
  // Steps of row b that count: from `first` to min(steps, lengths[b] - offset), exclusive. Null: to `steps`.
  const int64_t* lengths = nullptr;
  int64_t offset = 0, first = 0;
  uint64_t weight = 1;
  uint64_t* slots = nullptr;        // [part_count·units, kSlots], added to
  uint64_t* phase_slots = nullptr;  // [part_count·units, kPhaseSlots], added to; null where phase is
};

// T is float or double. The plain form.
template <typename T>
void CountPlainly(const CountProblem<T>& problem);
// Pointers are of the current device; queued on `stream` (a cudaStream_t). INTERNAL naming the CUDA error.
// Where EIGSVC_CUDA_KERNELS is defined.
template <typename T>
absl::Status CountOnCuda(const CountProblem<T>& problem, void* stream);

// What a unit's slots amount to. `phase_slots` may be null.
Spectrum SpectrumOfSlots(const uint64_t* slots, const uint64_t* phase_slots);

}  // namespace eigsvc
