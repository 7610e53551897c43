// Element types of tensors that kernels take as they lie in a model.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace eigsvc {

enum class Element { kFloat32, kFloat64, kFloat16, kBFloat16 };

namespace kernels {

inline double HalfToDouble(uint16_t bits) {
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  const double size = exponent == 0    ? std::ldexp(fraction, -24)
                      : exponent == 31 ? (fraction == 0 ? HUGE_VAL : NAN)
                                       : std::ldexp(1024 + fraction, exponent - 25);
  return bits >> 15 ? -size : size;
}

// Element `at` of an array on the host.
inline double ElementAt(Element element, const void* data, int64_t at) {
  switch (element) {
    case Element::kFloat32:
      return static_cast<const float*>(data)[at];
    case Element::kFloat64:
      return static_cast<const double*>(data)[at];
    case Element::kFloat16:
      return HalfToDouble(static_cast<const uint16_t*>(data)[at]);
    case Element::kBFloat16:
      return std::bit_cast<float>(uint32_t{static_cast<const uint16_t*>(data)[at]} << 16);
  }
  return 0;
}

}  // namespace kernels
}  // namespace eigsvc
