#include "models/transition/softmax.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "ATen/TensorOperators.h"
#include "ATen/core/IListRef.h"
#include "ATen/ops/cat.h"

namespace eigsvc {
namespace {

// What log λ may be off by on the same q and k. A score is a sum of rounded products, so its error grows with
// its size; the scores that make a log-sum-exp are about as large as it. Measured against float64: within 4
// ulp of the largest, and 5e-6 from the exponentials and the sum where scores are small. In float64 the same
// ulps vanish beside 1e-9, what q and k themselves keep through a network.
double NoiseFloor(const at::Tensor& lse) {
  const bool full = lse.scalar_type() == c10::kDouble;
  const double largest = lse.numel() == 0 ? 0 : lse.abs().max().item<double>();
  const double ulps =
      std::isfinite(largest) && largest > 0 ? std::ldexp(4.0, std::ilogb(largest) - (full ? 52 : 23)) : 0;
  return std::max(full ? 1e-9 : 5e-6, ulps);
}

}  // namespace

Transition SoftmaxTransition(const at::Tensor& lse, const at::Tensor& previous_lse, int64_t first_position) {
  at::Tensor all = lse.detach().to(c10::kDouble);
  if (previous_lse.defined()) all = at::cat({previous_lse.detach().to(c10::kDouble), all}, -1);
  const int64_t steps = all.size(-1) - 1;
  const at::Tensor log_magnitude = all.narrow(-1, 0, steps) - all.narrow(-1, 1, steps);
  Transition transition;
  transition.kind = ScalarPerUnit{log_magnitude.transpose(1, 2), /*multiplicity=*/0};
  transition.first_step = previous_lse.defined() ? first_position : first_position + 1;
  transition.noise_floor = NoiseFloor(lse);
  return transition;
}

}  // namespace eigsvc
