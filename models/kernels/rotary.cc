#include "models/kernels/rotary.h"

namespace eigsvc {

void RotatePlainly(const RotaryProblem& p) {
  const auto at = [&](const void* data, int64_t i) { return kernels::ElementAt(p.element, data, i); };
  auto* y = static_cast<float*>(p.y);
  for (int64_t i = 0; i < p.rows * p.steps * p.heads; ++i, y += p.size) {
    const int64_t head = i % p.heads, step = i / p.heads % p.steps, row = i / p.heads / p.steps;
    const int64_t from = row * p.row_stride + step * p.step_stride + head * p.head_stride;
    for (int64_t k = 0; k < p.half; ++k) {
      const int64_t first = p.interleaved ? 2 * k : k, second = p.interleaved ? 2 * k + 1 : k + p.half;
      const double a = at(p.x, from + first), b = at(p.x, from + second);
      const double cos = at(p.cos, step * p.half + k), sin = at(p.sin, step * p.half + k);
      y[first] = static_cast<float>(a * cos - b * sin);
      y[second] = static_cast<float>(b * cos + a * sin);
    }
    for (int64_t k = 2 * p.half; k < p.size; ++k) y[k] = static_cast<float>(at(p.x, from + k));
  }
}

}  // namespace eigsvc
