#include "models/kernels/selective_scan.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace eigsvc {

int64_t SelectiveScanProblem::Stretches() const {
  // Blocks of 128 channels, as many as keep a large device busy; a stretch is worth a second look at its
  // steps.
  constexpr int64_t kBlocks = 768, kChannels = 128, kLeastSteps = 64;
  const int64_t at_once = std::max<int64_t>(rows * ((channels + kChannels - 1) / kChannels), 1);
  return std::clamp<int64_t>(kBlocks / at_once, 1, std::max<int64_t>(steps / kLeastSteps, 1));
}

void SelectiveScanPlainly(const SelectiveScanProblem& p) {
  std::vector<double> state(p.order);
  for (int64_t row = 0; row < p.rows; ++row) {
    for (int64_t channel = 0; channel < p.channels; ++channel) {
      const int64_t first = (row * p.channels + channel) * p.order;
      for (int64_t n = 0; n < p.order; ++n) state[n] = p.initial == nullptr ? 0.0 : p.initial[first + n];
      for (int64_t step = 0; step < p.steps; ++step) {
        const double x = p.x[row * p.x_row_stride + step * p.x_step_stride + channel],
                     dt = p.dt[row * p.dt_row_stride + step * p.dt_step_stride + channel];
        const float* const b = p.b + row * p.b_row_stride + step * p.b_step_stride;
        const float* const c = p.c + row * p.c_row_stride + step * p.c_step_stride;
        double y = p.d[channel] * x;
        for (int64_t n = 0; n < p.order; ++n) {
          state[n] = std::exp(dt == 0 ? 0.0 : dt * p.a[channel * p.order + n]) * state[n] + dt * x * b[n];
          y += c[n] * state[n];
        }
        p.y[(row * p.steps + step) * p.channels + channel] = static_cast<float>(y);
      }
      for (int64_t n = 0; n < p.order; ++n) p.final_state[first + n] = static_cast<float>(state[n]);
    }
  }
}

}  // namespace eigsvc
