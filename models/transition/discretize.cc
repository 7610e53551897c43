#include "models/transition/discretize.h"

#include <limits>
#include <numbers>

#include "ATen/TensorOperators.h"
#include "ATen/ops/atan2.h"
#include "ATen/ops/full_like.h"
#include "ATen/ops/hypot.h"
#include "ATen/ops/imag.h"
#include "ATen/ops/log.h"
#include "ATen/ops/log1p.h"
#include "ATen/ops/real.h"
#include "ATen/ops/remainder.h"
#include "ATen/ops/where.h"
#include "ATen/ops/zeros_like.h"

namespace eigsvc {
namespace {

constexpr double kPi = std::numbers::pi;

at::Tensor Square(const at::Tensor& x) { return x * x; }

// log|(1+w)/(1-w)| for w = a + bi. |1+w|² - |1-w|² = 4a keeps every digit of a slow decay; where |1+w| is
// small the logarithm of the ratio itself does.
at::Tensor LogAbsMoebius(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor above = Square(1 + a) + b * b, below = Square(1 - a) + b * b;
  return at::where(2 * above < below, at::log(above / below), at::log1p(4 * a / below)) / 2;
}

}  // namespace

at::Tensor ToFull(const at::Tensor& x) { return x.to(x.is_complex() ? c10::kComplexDouble : c10::kDouble); }

LogPolar Discretized(const at::Tensor& values, Discretization discretization, bool look) {
  const bool real = !values.is_complex();
  if (discretization == Discretization::kExp && real) return {values, {}};
  const at::Tensor full = ToFull(values);
  const at::Tensor a = real ? full : at::real(full);
  // Adding zero turns -0 into +0, so that negative real values have phase π, never -π.
  const at::Tensor b = real ? at::zeros_like(full) : at::imag(full) + 0.0;
  LogPolar result;
  switch (discretization) {
    case Discretization::kNone:
      result.log_magnitude = at::log(real ? a.abs() : at::hypot(a, b));
      result.phase = at::atan2(b, a);
      break;
    case Discretization::kExp:
      result.log_magnitude = a.clone();
      result.phase = kPi - at::remainder(kPi - b, 2 * kPi);
      break;
    case Discretization::kBilinear:
      // λ = (1+w)/(1-w) for w = Δμ/2; its argument is that of (1+w)·conj(1-w).
      result.log_magnitude = LogAbsMoebius(a / 2, b / 2);
      result.phase = at::atan2(b, 1 - (a * a + b * b) / 4);
      break;
  }
  // Zero has no phase; nor is one kept when every eigenvalue is positive real.
  result.phase =
      result.phase.masked_fill(result.log_magnitude == -std::numeric_limits<double>::infinity(), 0);
  if (look && !result.phase.any().item<bool>()) result.phase = at::Tensor();
  return result;
}

at::Tensor ErrorOfLogMagnitude(const at::Tensor& values, const at::Tensor& error,
                               Discretization discretization) {
  const at::Tensor full = ToFull(values);
  switch (discretization) {
    case Discretization::kNone:
      return error / full.abs();
    case Discretization::kExp:
      return error;
    case Discretization::kBilinear:  // d log λ = 2 dw/((1+w)(1-w)) for w = Δμ/2
      return error / (1 - full * full / 4).abs();
  }
  return error;
}

}  // namespace eigsvc
