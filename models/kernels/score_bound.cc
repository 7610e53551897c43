#include "models/kernels/score_bound.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "models/kernels/bound_one.h"

namespace eigsvc {
namespace {

double HalfToDouble(uint16_t bits) {
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  const double size = exponent == 0    ? std::ldexp(fraction, -24)
                      : exponent == 31 ? (fraction == 0 ? HUGE_VAL : NAN)
                                       : std::ldexp(1024 + fraction, exponent - 25);
  return bits >> 15 ? -size : size;
}

double ElementAt(const ScoreBoundProblem& problem, const void* data, int64_t at) {
  switch (problem.element) {
    case HeadElement::kFloat32:
      return static_cast<const float*>(data)[at];
    case HeadElement::kFloat64:
      return static_cast<const double*>(data)[at];
    case HeadElement::kFloat16:
      return HalfToDouble(static_cast<const uint16_t*>(data)[at]);
    case HeadElement::kBFloat16:
      return std::bit_cast<float>(uint32_t{static_cast<const uint16_t*>(data)[at]} << 16);
  }
  return 0;
}

}  // namespace

void BoundPlainly(const ScoreBoundProblem& problem) {
  const int64_t width = problem.q.heads + problem.k.heads;
  for (int64_t i = 0; i < problem.batch * width; ++i) {
    const int64_t row = i / width, column = i % width;
    const bool of_q = column < problem.q.heads;
    const HeadRows& rows = of_q ? problem.q : problem.k;
    const int64_t head = of_q ? column : column - problem.q.heads;
    for (int64_t step = 0; step < rows.rows; ++step) {
      const int64_t at = row * rows.batch_stride + head * rows.head_stride + step * rows.row_stride;
      double sum = 0;
      for (int64_t d = 0; d < problem.size; ++d) {
        const double x = ElementAt(problem, rows.data, at + d);
        sum += x * x;
      }
      problem.norms[i] = std::max(problem.norms[i], sum);
    }
  }
  double largest = 0;
  for (int64_t i = 0; i < problem.batch * problem.q.heads; ++i)
    largest = std::max(largest, kernels::SquaredBound(problem, i));
  *problem.noise_floor = kernels::NoiseFloorOf(problem, largest);
}

}  // namespace eigsvc
