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
#include "models/kernels/accurate_lse.h"
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
at::Tensor FloorOf(const at::Tensor& largest_score, bool full) {
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
// In log λ operators were off by up to 1.7e-7 of the bound on |score| where that was 15 to 18, and 2.2e-7
// where it was 80 to 110 (docs/benchmarks.md: log λ of softmax): up to here they keep to 5e-6. Heads of 64 to
// 128 elements whose q and k have unit variance are below it for 65536 steps.
constexpr double kLeastRefinedBound = 20;
// And by up to 4.8e-7 of the largest score where that was 32 to 42, which in no row is above its log-sum-exp.
constexpr float kLeastRefinedLse = 10;

HeadRows RowsOf(const at::Tensor& x) {
  return {x.const_data_ptr(), x.size(1), x.size(2), x.stride(0), x.stride(1), x.stride(2)};
}

// Undefined where the kernel does not take these.
ScoreBounds BoundByKernel(const at::Tensor& q, const at::Tensor& k, double scale, double cap) {
  const std::optional<Element> element = ElementOf(q.scalar_type());
  if (!element || k.scalar_type() != q.scalar_type() || q.stride(-1) != 1 || k.stride(-1) != 1) return {};
  const bool full = q.scalar_type() == c10::kDouble;
  const auto options = q.options().dtype(c10::kDouble);
  ScoreBoundProblem problem{*element, q.size(0), q.size(3),   RowsOf(q), RowsOf(k),
                            scale,    cap,       Least(full), Ulps(full)};
  const at::Tensor norms = at::empty({problem.NormRoom()}, options), floor = at::empty({}, options);
  problem.norms = norms.mutable_data_ptr<double>();
  problem.noise_floor = floor.mutable_data_ptr<double>();
  const c10::DeviceGuard guard(q.device());
  const absl::Status status = BoundOnCuda(problem, KernelStream(q.device()));
  return status.ok() ? ScoreBounds{floor, norms} : ScoreBounds();
}
#endif

}  // namespace

ScoreBounds BoundScores(const at::Tensor& q, const at::Tensor& k, double scale, double cap,
                        const at::Tensor& sinks) {
  const bool full = q.scalar_type() == c10::kDouble;
  ScoreBounds bounds;
#ifdef EIGSVC_CUDA_KERNELS
  if (q.is_cuda()) bounds = BoundByKernel(q, k, scale, cap);
#endif
  if (!bounds.noise_floor.defined()) {
    const at::Tensor bound = LargestScore(q, k, scale);
    bounds.noise_floor = FloorOf(cap > 0 ? bound.clamp_max(cap) : bound, full);
  }
  if (sinks.defined()) {
    bounds.noise_floor = at::maximum(bounds.noise_floor, FloorOf(sinks.detach().abs().max(), full));
  }
  return bounds;
}

void RefineLse(const at::Tensor& lse, const at::Tensor& q, const at::Tensor& k,
               const AttentionOptions& options, const ScoreBounds& bounds) {
#ifdef EIGSVC_CUDA_KERNELS
  if (!LayerKernelsTake(q) || !bounds.squared_norms.defined() || options.cap > 0 ||
      q.size(3) > LseProblem::kMostSize || q.size(0) * q.size(1) > LseProblem::kMostHeads) {
    return;
  }
  LseProblem problem;
  problem.element = *ElementOf(q.scalar_type());
  problem.batch = q.size(0);
  problem.size = q.size(3);
  problem.q = RowsOf(q);
  problem.k = RowsOf(k);
  problem.scale = options.scale;
  problem.window = options.window;
  at::Tensor sinks;
  if (options.sinks.defined()) {
    sinks = options.sinks.to(c10::kFloat).contiguous();
    problem.sinks = sinks.const_data_ptr<float>();
  }
  problem.squared_norms = bounds.squared_norms.const_data_ptr<double>();
  problem.least_bound = kLeastRefinedBound;
  problem.least_lse = kLeastRefinedLse;
  problem.lse = lse.mutable_data_ptr<float>();
  problem.lse_batch_stride = lse.stride(0);
  problem.lse_head_stride = lse.stride(1);
  problem.lse_row_stride = lse.stride(2);
  const c10::DeviceGuard guard(q.device());
  const absl::Status status = RefineLseOnCuda(problem, KernelStream(q.device()));
  // A device of little shared memory keeps what its operators gave.
  if (!absl::IsInvalidArgument(status)) ThrowUnlessOk(status);
#else
  (void)lse, (void)q, (void)k, (void)options, (void)bounds;
#endif
}

Transition SoftmaxTransition(const at::Tensor& lse, const at::Tensor& previous_lse, int64_t first_position,
                             const at::Tensor& noise_floor) {
  return NormaliserTransition(lse, previous_lse, first_position, /*multiplicity=*/0, noise_floor);
}

}  // namespace eigsvc
