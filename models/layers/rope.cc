#include "models/layers/rope.h"

#include <numbers>
#include <utility>

#include "ATen/TensorOperators.h"
#include "ATen/core/IListRef.h"
#include "ATen/ops/addcmul.h"
#include "ATen/ops/arange.h"
#include "ATen/ops/cat.h"
#include "ATen/ops/cos.h"
#include "ATen/ops/mul.h"
#include "ATen/ops/pow.h"
#include "ATen/ops/reciprocal.h"
#include "ATen/ops/sin.h"
#include "ATen/ops/stack.h"
#include "ATen/ops/where.h"

namespace eigsvc {

at::Tensor RotaryFrequencies(int64_t size, double base, const RotaryScaling& scaling, at::ScalarType dtype) {
  const auto options = at::TensorOptions().dtype(dtype == at::kDouble ? at::kDouble : at::kFloat);
  // The operations and their order are the reference implementations', so that float32 rounds as it does
  // there.
  const at::Tensor frequencies = at::pow(base, at::arange(0, size, 2, options) / size).reciprocal();
  switch (scaling.kind) {
    case RotaryScaling::Kind::kNone:
      break;
    case RotaryScaling::Kind::kLinear:
      return frequencies / scaling.factor;
    case RotaryScaling::Kind::kLlama3: {
      const at::Tensor wavelength = 2 * std::numbers::pi / frequencies;
      const at::Tensor slowed = frequencies / scaling.factor;
      const at::Tensor share = (scaling.original_positions / wavelength - scaling.low_factor) /
                               (scaling.high_factor - scaling.low_factor);
      const at::Tensor blended = (1 - share) * slowed + share * frequencies;
      const at::Tensor is_long = wavelength > scaling.original_positions / scaling.low_factor;
      const at::Tensor is_short = wavelength < scaling.original_positions / scaling.high_factor;
      return at::where(is_long, slowed, at::where(is_short, frequencies, blended));
    }
  }
  return frequencies;
}

Rotary::Table Rotary::TableFor(const at::Tensor& x, int64_t first) const {
  const std::lock_guard lock(mutex_);
  const bool fits = last_.cos.defined() && last_.first == first && last_.cos.size(0) == x.size(1) &&
                    last_.cos.device() == x.device() && last_.cos.scalar_type() == x.scalar_type();
  if (!fits) {
    const at::Tensor position = at::arange(first, first + x.size(1), frequencies_.options());
    const at::Tensor angle = (position.unsqueeze(-1) * frequencies_).unsqueeze(1).to(x.device());
    last_ = {first, at::cos(angle).to(x.scalar_type()), at::sin(angle).to(x.scalar_type())};
  }
  return last_;
}

at::Tensor Rotary::Turn(const at::Tensor& x, int64_t first) const {
  const Table table = TableFor(x, first);
  const int64_t half = x.size(-1) / 2;
  const bool interleaved = pairs_ == RotaryPairs::kInterleaved;
  const at::Tensor pairs = interleaved ? x.unflatten(-1, {half, 2}) : x.unflatten(-1, {2, half});
  const int64_t axis = interleaved ? -1 : -2;
  const at::Tensor a = pairs.select(axis, 0), b = pairs.select(axis, 1);
  const at::Tensor turned_a = at::addcmul(a * table.cos, b, table.sin, -1);
  const at::Tensor turned_b = at::addcmul(b * table.cos, a, table.sin);
  return interleaved ? at::stack({turned_a, turned_b}, -1).flatten(-2) : at::cat({turned_a, turned_b}, -1);
}

}  // namespace eigsvc
