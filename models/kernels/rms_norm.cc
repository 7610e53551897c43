#include "models/kernels/rms_norm.h"

#include <cmath>
#include <vector>

namespace eigsvc {

void RmsNormPlainly(const RmsNormProblem& p) {
  using Gate = RmsNormProblem::Gate;
  const auto at = [&](const void* data, int64_t i) { return kernels::ElementAt(p.element, data, i); };
  auto* y = static_cast<float*>(p.y);
  std::vector<double> values(p.size), gates(p.size, 1);
  for (int64_t row = 0; row < p.rows; ++row) {
    for (int64_t group = 0; group < p.groups; ++group) {
      const int64_t first = group * p.size;
      double sum = 0;
      for (int64_t i = 0; i < p.size; ++i) {
        if (p.gate != Gate::kNone) {
          const double z = at(p.z, row * p.z_stride + first + i);
          gates[i] = z / (1 + std::exp(-z));
        }
        values[i] = kernels::ElementAt(p.x_element, p.x, row * p.x_stride + first + i) *
                    (p.gate == Gate::kBeforeNorm ? gates[i] : 1);
        sum += values[i] * values[i];
      }
      const double scale = 1 / std::sqrt(sum / static_cast<double>(p.size) + p.eps);
      for (int64_t i = 0; i < p.size; ++i) {
        *y++ = static_cast<float>(values[i] * scale * at(p.weight, first + i) *
                                  (p.gate == Gate::kAfterNorm ? gates[i] : 1));
      }
    }
  }
}

}  // namespace eigsvc
