#include "models/kernels/short_convolution.h"

#include <cmath>

namespace eigsvc {

void ConvolvePlainly(const ShortConvolutionProblem& p) {
  const auto input = [&](int64_t row, int64_t step, int64_t channel) -> double {
    if (step >= 0)
      return kernels::ElementAt(p.element, p.x, row * p.row_stride + step * p.step_stride + channel);
    return p.before == nullptr ? 0.0
                               : p.before[(row * (p.taps - 1) + p.taps - 1 + step) * p.channels + channel];
  };
  auto* y = static_cast<float*>(p.y);
  for (int64_t row = 0; row < p.rows; ++row) {
    for (int64_t step = 0; step < p.steps; ++step) {
      for (int64_t channel = 0; channel < p.channels; ++channel) {
        double sum = p.bias == nullptr ? 0 : p.bias[channel];
        for (int j = 0; j < p.taps; ++j)
          sum += p.weight[channel * p.taps + j] * input(row, step - p.taps + 1 + j, channel);
        *y++ = static_cast<float>(p.silu ? sum / (1 + std::exp(-sum)) : sum);
      }
    }
  }
}

}  // namespace eigsvc
