#include "models/transition/softmax.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "ATen/TensorOperators.h"
#include "ATen/ops/linalg_vector_norm.h"
#include "models/transition/normaliser.h"

namespace eigsvc {
namespace {

// What log λ may be off by on the same q and k. A score is a sum of rounded products, so its error grows with
// ‖q‖‖k‖ even where the products cancel: 4 ulp of that bound, and 5e-6 from the exponentials and their sum
// where scores are small (measured against float64). In float64 the same ulps vanish beside 1e-9, what q and
// k themselves keep through a network.
double NoiseFloor(c10::ScalarType type, double largest_score) {
  const bool full = type == c10::kDouble;
  const bool usable = std::isfinite(largest_score) && largest_score > 0;
  const double ulps = usable ? std::ldexp(4.0, std::ilogb(largest_score) - (full ? 52 : 23)) : 0;
  return std::max(full ? 1e-9 : 5e-6, ulps);
}

}  // namespace

Transition SoftmaxTransition(const at::Tensor& lse, const at::Tensor& previous_lse, int64_t first_position,
                             double largest_score) {
  return NormaliserTransition(lse, previous_lse, first_position, /*multiplicity=*/0,
                              NoiseFloor(lse.scalar_type(), largest_score));
}

double LargestScore(const at::Tensor& q, const at::Tensor& k, double scale) {
  const auto longest = [](const at::Tensor& x) {  // [B,heads]
    const auto type = x.scalar_type() == c10::kDouble ? c10::kDouble : c10::kFloat;
    return at::linalg_vector_norm(x.detach(), 2, at::IntArrayRef{-1}, /*keepdim=*/false, type).amax(-1);
  };
  const at::Tensor keys = longest(k).unsqueeze(-1), queries = longest(q).unflatten(-1, {k.size(1), -1});
  return std::abs(scale) * (queries * keys).max().item<double>();
}

}  // namespace eigsvc
