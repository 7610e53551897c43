// How exactly a log λ is known, from the dtype that it was computed from.
#pragma once

#include <variant>

#include "ATen/core/Tensor.h"
#include "c10/core/ScalarType.h"
#include "models/transition/transition.h"

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

// What a log λ may be off by: a number, or [] float64, which stays on its device.
using NoiseFloor = std::variant<double, at::Tensor>;

// Of a sum of numbers that are off by `noise` of their sizes: of the largest, or of 1 where that is more or
// where some size is NaN. Nothing waits for it. Throws like LibTorch; so below.
NoiseFloor NoiseOfLargest(double noise, const at::Tensor& sizes);

// As a transition has it: a host's is a number.
void SetNoiseFloor(const NoiseFloor& floor, Transition& transition);

}  // namespace eigsvc
