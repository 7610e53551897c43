#include "models/layers/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <utility>

#include "ATen/TensorOperators.h"
#include "ATen/core/IListRef.h"
#include "ATen/ops/addcmul.h"
#include "ATen/ops/arange.h"
#include "ATen/ops/cat.h"
#include "ATen/ops/cos.h"
#include "ATen/ops/empty.h"
#include "ATen/ops/mul.h"
#include "ATen/ops/pow.h"
#include "ATen/ops/reciprocal.h"
#include "ATen/ops/sin.h"
#include "ATen/ops/stack.h"
#include "ATen/ops/tensor.h"
#include "ATen/ops/where.h"
#include "c10/core/DeviceGuard.h"
#include "models/kernels/rotary.h"
#include "models/transition/kernel_call.h"

namespace eigsvc {
namespace {

// The dimension whose frequency makes `turns` turns over the original context.
double YarnDimension(const RotarySpec& spec, double turns) {
  return static_cast<double>(spec.size) *
         std::log(spec.scaling.original_positions / (turns * 2 * std::numbers::pi)) /
         (2 * std::log(spec.base));
}

// The operations and their order are the reference implementations', so that float32 rounds as it does there.
at::Tensor YarnFrequencies(const RotarySpec& spec, const at::Tensor& periods) {
  const RotaryScaling& scaling = spec.scaling;
  double low = YarnDimension(spec, scaling.beta_fast), high = YarnDimension(spec, scaling.beta_slow);
  if (scaling.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(spec.size - 1));
  if (low == high) high += 0.001;
  const at::Tensor ramp = ((at::arange(spec.size / 2, periods.options()) - low) / (high - low)).clamp(0, 1);
  const at::Tensor kept = 1 - ramp;
  return (scaling.factor * periods).reciprocal() * (1 - kept) + periods.reciprocal() * kept;
}

at::Tensor Llama3Frequencies(const RotaryScaling& scaling, const at::Tensor& frequencies) {
  const at::Tensor wavelength = 2 * std::numbers::pi / frequencies;
  const at::Tensor slowed = frequencies / scaling.factor;
  const at::Tensor share = (scaling.original_positions / wavelength - scaling.low_factor) /
                           (scaling.high_factor - scaling.low_factor);
  const at::Tensor blended = (1 - share) * slowed + share * frequencies;
  const at::Tensor is_long = wavelength > scaling.original_positions / scaling.low_factor;
  const at::Tensor is_short = wavelength < scaling.original_positions / scaling.high_factor;
  return at::where(is_long, slowed, at::where(is_short, frequencies, blended));
}

}  // namespace

bool RotarySpec::DependsOnLength() const {
  return scaling.kind == RotaryScaling::Kind::kDynamic || scaling.kind == RotaryScaling::Kind::kLongRope;
}

int64_t RotarySpec::Stretch(int64_t length) const {
  const auto original = static_cast<int64_t>(scaling.original_positions);
  if (scaling.kind == RotaryScaling::Kind::kDynamic) return std::max(length, original);
  if (scaling.kind == RotaryScaling::Kind::kLongRope) return length > original ? 1 : 0;
  return 0;
}

double YarnMagnitude(double factor, double mscale) {
  return factor <= 1 ? 1 : 0.1 * mscale * std::log(factor) + 1;
}

double LongRopeMagnitude(double factor, double original_positions) {
  return factor <= 1 ? 1 : std::sqrt(1 + std::log(factor) / std::log(original_positions));
}

at::Tensor RotaryFrequencies(const RotarySpec& spec, int64_t length, at::ScalarType dtype) {
  const auto options = at::TensorOptions().dtype(dtype == at::kDouble ? at::kDouble : at::kFloat);
  const RotaryScaling& scaling = spec.scaling;
  const auto size = static_cast<double>(spec.size);
  double base = spec.base;
  if (scaling.kind == RotaryScaling::Kind::kDynamic) {
    const double longer = static_cast<double>(spec.Stretch(length)) / scaling.original_positions;
    base *= std::pow(scaling.factor * longer - (scaling.factor - 1), size / (size - 2));
  }
  const at::Tensor periods = at::pow(base, at::arange(0, spec.size, 2, options) / size);
  switch (scaling.kind) {
    case RotaryScaling::Kind::kNone:
    case RotaryScaling::Kind::kDynamic:
      break;
    case RotaryScaling::Kind::kLinear:
      return periods.reciprocal() / scaling.factor;
    case RotaryScaling::Kind::kYarn:
      return YarnFrequencies(spec, periods);
    case RotaryScaling::Kind::kLongRope:
      return (at::tensor(spec.Stretch(length) > 0 ? scaling.long_factors : scaling.short_factors, options) *
              periods)
          .reciprocal();
    case RotaryScaling::Kind::kLlama3:
      return Llama3Frequencies(scaling, periods.reciprocal());
  }
  return periods.reciprocal();
}

Rotary::Rotary(RotarySpec spec, at::ScalarType dtype) : spec_(std::move(spec)), dtype_(dtype) {}

Rotary::Table Rotary::TableFor(const at::Tensor& x, int64_t first, int64_t length) const {
  const std::lock_guard lock(mutex_);
  const int64_t stretch = spec_.Stretch(length);
  Table& last = last_[x.device()];
  const bool fits = last.cos.defined() && last.first == first && last.stretch == stretch &&
                    last.cos.size(0) == x.size(1) && last.cos.scalar_type() == x.scalar_type();
  if (!fits) {
    const at::Tensor frequencies = RotaryFrequencies(spec_, length, dtype_);
    const at::Tensor position = at::arange(first, first + x.size(1), frequencies.options());
    const at::Tensor angle = (position.unsqueeze(-1) * frequencies).unsqueeze(1).to(x.device());
    const double magnitude = spec_.scaling.attention_factor;
    last = {first, stretch, (at::cos(angle) * magnitude).to(x.scalar_type()),
            (at::sin(angle) * magnitude).to(x.scalar_type())};
  }
  return last;
}

#ifdef EIGSVC_CUDA_KERNELS
namespace {

at::Tensor ByKernel(const RotarySpec& spec, const at::Tensor& x, const at::Tensor& cos,
                    const at::Tensor& sin) {
  const at::Tensor y = at::empty(x.sizes(), x.options());
  const RotaryProblem problem{*ElementOf(x.scalar_type()),
                              x.const_data_ptr(),
                              x.size(0),
                              x.size(1),
                              x.size(2),
                              x.size(3),
                              x.stride(0),
                              x.stride(1),
                              x.stride(2),
                              spec.size / 2,
                              spec.pairs == RotaryPairs::kInterleaved,
                              cos.const_data_ptr(),
                              sin.const_data_ptr(),
                              y.mutable_data_ptr()};
  const c10::DeviceGuard guard(x.device());
  ThrowUnlessOk(RotateOnCuda(problem, KernelStream(x.device())));
  return y;
}

}  // namespace
#endif

at::Tensor Rotary::Turn(const at::Tensor& x, int64_t first, int64_t length) const {
  const Table table = TableFor(x, first, length);
#ifdef EIGSVC_CUDA_KERNELS
  if (LayerKernelsTake(x) && x.stride(3) == 1) return ByKernel(spec_, x, table.cos, table.sin);
#endif
  const int64_t half = spec_.size / 2, rest = x.size(-1) - spec_.size;
  const at::Tensor turning = rest > 0 ? x.narrow(-1, 0, spec_.size) : x;
  const bool interleaved = spec_.pairs == RotaryPairs::kInterleaved;
  const at::Tensor pairs = interleaved ? turning.unflatten(-1, {half, 2}) : turning.unflatten(-1, {2, half});
  const int64_t axis = interleaved ? -1 : -2;
  const at::Tensor a = pairs.select(axis, 0), b = pairs.select(axis, 1);
  std::vector<at::Tensor> parts = {at::addcmul(a * table.cos, b, table.sin, -1),
                                   at::addcmul(b * table.cos, a, table.sin)};
  if (interleaved) parts = {at::stack(parts, -1).flatten(-2)};
  if (rest > 0) parts.push_back(x.narrow(-1, spec_.size, rest));
  return parts.size() == 1 ? parts[0] : at::cat(parts, -1);
}

}  // namespace eigsvc
