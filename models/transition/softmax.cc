#include "models/transition/softmax.h"

#include <cmath>
#include <optional>
#include <tuple>

#include "ATen/TensorOperators.h"
#include "ATen/ops/empty.h"
#include "ATen/ops/frexp.h"
#include "ATen/ops/linalg_vector_norm.h"
#include "ATen/ops/maximum.h"
#include "ATen/ops/nan_to_num.h"
#include "c10/core/DeviceGuard.h"
#include "models/kernels/score_bound.h"
#include "models/transition/kernel_call.h"
#include "models/transition/normaliser.h"

namespace eigsvc {
namespace {

// A score is a sum of rounded products, so its error grows with ‖q‖‖k‖ even where the products cancel: 4 ulp
// of that bound, and 5e-6 from the exponentials and their sum where scores are small (measured against
// float64). In float64 the same ulps vanish beside 1e-9, what q and k themselves keep through a network.
double Least(bool full) { return full ? 1e-9 : 5e-6; }
double Ulps(bool full) { return 4 * (full ? 0x1p-52 : 0x1p-23); }

// [] float64; of a bound that is 0 or not finite, the smallest.
at::Tensor NoiseFloor(const at::Tensor& largest_score, bool full) {
  const at::Tensor largest = largest_score.to(c10::kDouble);
  // A double over its mantissa in [1/2, 1) is twice the power of two below it, exactly.
  const at::Tensor twice_power = largest / std::get<0>(at::frexp(largest));
  return at::nan_to_num(twice_power * (Ulps(full) / 2), 0, 0, 0).clamp_min(Least(full));
}

// scale·max‖q‖·max‖k‖ >= |score| over the heads, [].
at::Tensor LargestScore(const at::Tensor& q, const at::Tensor& k, double scale) {
  const auto longest = [](const at::Tensor& x) {  // [B,heads]
    const auto type = x.scalar_type() == c10::kDouble ? c10::kDouble : c10::kFloat;
    return at::linalg_vector_norm(x.detach(), 2, at::IntArrayRef{-1}, /*keepdim=*/false, type).amax(-1);
  };
  const at::Tensor keys = longest(k).unsqueeze(-1), queries = longest(q).unflatten(-1, {k.size(1), -1});
  return (queries * keys).max() * std::abs(scale);
}

#ifdef EIGSVC_CUDA_KERNELS
// Undefined where the kernel does not take these.
at::Tensor NoiseFloorByKernel(const at::Tensor& q, const at::Tensor& k, double scale, double cap) {
  const std::optional<Element> element = ElementOf(q.scalar_type());
  if (!element || k.scalar_type() != q.scalar_type() || q.stride(-1) != 1 || k.stride(-1) != 1) return {};
  const auto rows = [](const at::Tensor& x) {
    return HeadRows{x.const_data_ptr(), x.size(1), x.size(2), x.stride(0), x.stride(1), x.stride(2)};
  };
  const bool full = q.scalar_type() == c10::kDouble;
  const auto options = q.options().dtype(c10::kDouble);
  ScoreBoundProblem problem{*element, q.size(0), q.size(3),   rows(q),   rows(k),
                            scale,    cap,       Least(full), Ulps(full)};
  const at::Tensor norms = at::empty({problem.NormRoom()}, options), floor = at::empty({}, options);
  problem.norms = norms.mutable_data_ptr<double>();
  problem.noise_floor = floor.mutable_data_ptr<double>();
  const c10::DeviceGuard guard(q.device());
  const absl::Status status = BoundOnCuda(problem, KernelStream(q.device()));
  return status.ok() ? floor : at::Tensor();
}
#endif

}  // namespace

at::Tensor SoftmaxNoiseFloor(const at::Tensor& q, const at::Tensor& k, double scale, double cap,
                             const at::Tensor& sinks) {
#ifdef EIGSVC_CUDA_KERNELS
  if (q.is_cuda() && !sinks.defined()) {
    if (at::Tensor floor = NoiseFloorByKernel(q, k, scale, cap); floor.defined()) return floor;
  }
#endif
  at::Tensor bound = LargestScore(q, k, scale);
  if (cap > 0) bound = bound.clamp_max(cap);
  if (sinks.defined()) bound = at::maximum(bound, sinks.detach().abs().max());
  return NoiseFloor(bound, q.scalar_type() == c10::kDouble);
}

Transition SoftmaxTransition(const at::Tensor& lse, const at::Tensor& previous_lse, int64_t first_position,
                             const at::Tensor& noise_floor) {
  Transition transition =
      NormaliserTransition(lse, previous_lse, first_position, /*multiplicity=*/0, /*noise_floor=*/0);
  if (noise_floor.is_cpu()) {
    transition.noise_floor = noise_floor.item<double>();
  } else {
    transition.device_noise_floor = noise_floor;
  }
  return transition;
}

}  // namespace eigsvc
