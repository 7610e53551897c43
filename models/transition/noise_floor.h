// How exactly a log λ is known, from the dtype that it was computed from.
#pragma once

#include "c10/core/ScalarType.h"

namespace eigsvc {

// A few roundings of the dtype that what forms λ was rounded to: for log λ that is a product (Δ·A), whose
// error is relative. Stated at |log λ| = 1; nearer to |λ| = 1 the absolute error is smaller.
inline double RoundingNoise(c10::ScalarType dtype) {
  switch (dtype) {
    case c10::kDouble:
      return 4 * 0x1p-52;
    case c10::kHalf:
      return 4 * 0x1p-10;
    case c10::kBFloat16:
      return 4 * 0x1p-7;
    default:
      return 4 * 0x1p-23;
  }
}

}  // namespace eigsvc
