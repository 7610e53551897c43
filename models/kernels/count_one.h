// What counting one eigenvalue comes to, on a host or a device.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "models/kernels/spectrum_counts.h"

#if defined(__CUDACC__)
#define EIGSVC_COUNT __host__ __device__ __forceinline__
#else
#define EIGSVC_COUNT inline
#endif

namespace eigsvc::kernels {

// Doubles in the order of their codes.
EIGSVC_COUNT uint64_t OrderedCode(double x) {
  int64_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits < 0 ? ~static_cast<uint64_t>(bits) : static_cast<uint64_t>(bits) | (uint64_t{1} << 63);
}

constexpr EIGSVC_COUNT int BinOfBits(uint32_t bits) {
  constexpr int kFirst = (127 + Spectrum::kMinExponent) * Spectrum::kBinsPerOctave;
  const int bin = static_cast<int>((bits & 0x7fffffffu) >> (23 - 5)) - kFirst;
  return bin < 0 ? 0 : bin >= Spectrum::kBins ? Spectrum::kBins - 1 : bin;
}
EIGSVC_COUNT int BinOf(double x) {
  const float narrow = static_cast<float>(x);
  uint32_t bits;
  memcpy(&bits, &narrow, sizeof bits);
  return BinOfBits(bits);
}

// The slots that an edge lies in, of the bins of λ < 1, then of those of λ > 1. Bins are narrower than edges
// are apart. Constants, checked in the plain form's tests.
inline constexpr int kEdgeSlots[spectrum_edges::kEdges] = {745, 853, 940, 996, 2088, 2340, 2372};
// The edge in a bin, or -1.
EIGSVC_COUNT int EdgeOfSlot(int slot) {
  // Of this function, as a device has no use for the host's arrays.
  constexpr int kSlots[] = {kEdgeSlots[0], kEdgeSlots[1], kEdgeSlots[2], kEdgeSlots[3],
                            kEdgeSlots[4], kEdgeSlots[5], kEdgeSlots[6]};
  int found = -1;
  for (int edge = 0; edge < spectrum_edges::kEdges; ++edge) found = slot == kSlots[edge] ? edge : found;
  return found;
}
inline constexpr int kEdgesBelow1 = 4;  // the first ones
EIGSVC_COUNT double EdgeSize(int edge) {
  namespace edges = spectrum_edges;
  return edge == 0   ? -edges::kLog0_99
         : edge == 1 ? -edges::kLog0_9
         : edge == 2 ? -edges::kLog0_5
         : edge == 3 ? -edges::kLog0_1
         : edge == 4 ? edges::kLog1_01
         : edge == 5 ? edges::kLog10
                     : edges::kLog100;
}

// A product that is rounded before it is used: compilers may fuse a plain one into a later sum.
EIGSVC_COUNT double RoundedSquare(double x) {
#if defined(__CUDA_ARCH__)
  return __dmul_rn(x, x);
#else
  return x * x;
#endif
}

EIGSVC_COUNT double Limited(double x) {
  return x < -spectrum_edges::kMomentLimit  ? -spectrum_edges::kMomentLimit
         : x > spectrum_edges::kMomentLimit ? spectrum_edges::kMomentLimit
                                            : x;
}

// (high·2^shift + low)·weight as four 32-bit limbs of two's complement. |high|, |low| < 2^63.
struct Limbs {
  uint64_t limb[4];
};
EIGSVC_COUNT Limbs ToLimbs(int64_t high, int64_t low, int shift, uint64_t weight) {
  // 128-bit arithmetic by halves, which nvcc has on every target: x = high << shift, plus low, times weight.
  const uint64_t sign = high < 0 ? ~uint64_t{0} : 0;
  uint64_t l = static_cast<uint64_t>(high) << shift;
  uint64_t h = (static_cast<uint64_t>(high) >> (64 - shift)) | (sign << shift);
  const uint64_t before = l;
  l += static_cast<uint64_t>(low);
  h += (low < 0 ? ~uint64_t{0} : 0) + (l < before ? 1 : 0);
  const uint64_t l0 = l & 0xffffffffu, l1 = l >> 32, w0 = weight & 0xffffffffu, w1 = weight >> 32;
  const uint64_t p00 = l0 * w0, p01 = l0 * w1, p10 = l1 * w0;
  const uint64_t middle = (p00 >> 32) + (p01 & 0xffffffffu) + (p10 & 0xffffffffu);
  const uint64_t low_product = (p00 & 0xffffffffu) | (middle << 32);
  const uint64_t high_product = h * weight + l1 * w1 + (p01 >> 32) + (p10 >> 32) + (middle >> 32);
  return {{low_product & 0xffffffffu, low_product >> 32, high_product & 0xffffffffu, high_product >> 32}};
}

// A sum of terms of which each is rounded to a multiple of 2^-kUnit on its own, half to even, as Spectrum
// rounds them; beyond that it is exact, so that no order matters. In few operations: a double that is far
// larger than any term takes what it can hold of it, a multiple of 2^-kHighUnit, and what it dropped is
// counted in an integer.
template <int kHighUnit, int kUnit>
class FixedSum {
 public:
  // REQUIRES at most kMostTerms terms of |term| <= 2^(51 - kHighUnit) / kMostTerms.
  EIGSVC_COUNT void Add(double term) {
    const double before = high_;
    high_ = before + term;
    const double dropped = term - (high_ - before);  // exact: `before` is the larger
    low_ += BitsOf(dropped + kNearest) - BitsOf(kNearest);
  }
  EIGSVC_COUNT Limbs Times(uint64_t weight) const {
    return ToLimbs(BitsOf(high_) - BitsOf(kStart), low_, kUnit - kHighUnit, weight);
  }

 private:
  static constexpr double Power(int exponent) {
    double power = 1;
    for (int i = 0; i < exponent; ++i) power *= 2;
    for (int i = 0; i > exponent; --i) power /= 2;
    return power;
  }
  static EIGSVC_COUNT int64_t BitsOf(double x) {
    int64_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
  }
  // Doubles whose last bit is the unit, in the middle of those of their exponent.
  static constexpr double kStart = 1.5 * Power(52 - kHighUnit), kNearest = 1.5 * Power(52 - kUnit);
  double high_ = kStart;
  int64_t low_ = 0;
};

inline constexpr int kMostTerms = 1 << 12;
struct Moments {
  FixedSum<23, 64> sum;
  FixedSum<7, 56> squares;
  // REQUIRES |x| <= spectrum_edges::kMomentLimit, at most kMostTerms times.
  EIGSVC_COUNT void Add(double x) {
    sum.Add(x);
    squares.Add(RoundedSquare(x));
  }
};

inline constexpr double kPi = 3.141592653589793;

// The cell of the radius × phase grid, or -1 for a positive real λ.
EIGSVC_COUNT int PhaseSlotOf(double log_magnitude, double phase) {
  const double wrapped = remainder(phase, 2 * kPi);
  if (wrapped == 0) return -1;
  const int bin =
      static_cast<int>(floor((wrapped / kPi + 1) * (0.5 * Spectrum::kPhaseBins))) % Spectrum::kPhaseBins;
  int octave = 0;
  if (log_magnitude != 0) {
    int exponent;
    frexp(log_magnitude, &exponent);  // one above ilogb
    exponent -= 1;
    exponent = exponent < Spectrum::kMinExponent ? Spectrum::kMinExponent : exponent;
    exponent = exponent >= Spectrum::kMaxExponent ? Spectrum::kMaxExponent - 1 : exponent;
    octave = exponent - Spectrum::kMinExponent;
  }
  return ((log_magnitude > 0 ? 1 : 0) * spectrum_slots::kOctaves + octave) * Spectrum::kPhaseBins + bin;
}

// The slot of the class of a phase other than 0.
EIGSVC_COUNT int PhaseClassSlotOf(double phase) {
  const double wrapped = remainder(phase, 2 * kPi), size = wrapped < 0 ? -wrapped : wrapped;
  int slot = spectrum_slots::kPhaseClass;
  if (wrapped < 0 && size < kPi) slot += spectrum_edges::kPhaseClasses;  // -π is π
  const double one = spectrum_edges::kDegree, ten = 10 * spectrum_edges::kDegree;
  const double half = 45 * spectrum_edges::kDegree, right = 90 * spectrum_edges::kDegree;
  return slot + (size >= one) + (size > one) + (size >= ten) + (size > ten) + (size >= half) + (size > half) +
         (size >= right) + (size > right);
}

}  // namespace eigsvc::kernels
