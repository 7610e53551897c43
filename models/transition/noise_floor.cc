#include "models/transition/noise_floor.h"

#include <limits>

#include "ATen/TensorOperators.h"
#include "ATen/ops/nan_to_num.h"

namespace eigsvc {

NoiseFloor NoiseOfLargest(double noise, const at::Tensor& sizes) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  return at::nan_to_num(sizes.detach().max().to(c10::kDouble), 1, kInfinity, -kInfinity).clamp_min(1) * noise;
}

void SetNoiseFloor(const NoiseFloor& floor, Transition& transition) {
  const auto* tensor = std::get_if<at::Tensor>(&floor);
  if (tensor != nullptr && !tensor->is_cpu()) {
    transition.device_noise_floor = *tensor;
  } else {
    transition.noise_floor = tensor != nullptr ? tensor->item<double>() : std::get<double>(floor);
  }
}

}  // namespace eigsvc
