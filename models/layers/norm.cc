#include "models/layers/norm.h"

#include "ATen/TensorOperators.h"
#include "ATen/ops/addcmul.h"
#include "ATen/ops/empty.h"
#include "ATen/ops/layer_norm.h"
#include "ATen/ops/linalg_vector_norm.h"
#include "ATen/ops/mean.h"
#include "ATen/ops/native_batch_norm.h"
#include "ATen/ops/promote_types.h"
#include "ATen/ops/rsqrt.h"
#include "ATen/ops/silu.h"
#include "c10/core/DeviceGuard.h"
#include "models/kernels/rms_norm.h"
#include "models/transition/kernel_call.h"

namespace eigsvc {
namespace {

at::Tensor AtLeastFloat(const at::Tensor& x) { return x.to(at::promote_types(x.scalar_type(), at::kFloat)); }

#ifdef EIGSVC_CUDA_KERNELS
// Rows of `size` values, one behind the other or at a distance.
struct Rows {
  at::Tensor tensor;
  int64_t count = 0, stride = 0;
};
Rows RowsOf(const at::Tensor& x, int64_t size) {
  const bool slice = x.dim() == 3 && x.size(2) == size && x.stride(2) == 1 &&
                     (x.size(0) == 1 || x.stride(0) == x.size(1) * x.stride(1));
  if (slice) return {x, x.size(0) * x.size(1), x.stride(1)};
  return {x.contiguous(), x.numel() / size, size};
}

bool NormKernelTakes(const at::Tensor& x, const at::Tensor& weight) {
  const bool fits = x.scalar_type() == weight.scalar_type() ||
                    (x.scalar_type() == at::kFloat && weight.scalar_type() != at::kDouble);
  return LayerKernelsTake(x) && fits && weight.is_contiguous() && weight.dim() > 0 &&
         weight.dim() <= x.dim() && weight.sizes() == x.sizes().slice(x.dim() - weight.dim());
}

at::Tensor ByKernel(RmsNormProblem problem, const at::Tensor& x, const at::Tensor& gate,
                    const at::Tensor& weight) {
  const int64_t size = problem.groups * problem.size;
  const Rows values = RowsOf(x, size);
  const at::Tensor y = at::empty(x.sizes(), weight.options());
  problem.x_element = *ElementOf(x.scalar_type());
  problem.element = *ElementOf(weight.scalar_type());
  problem.x = values.tensor.const_data_ptr();
  problem.rows = values.count;
  problem.x_stride = values.stride;
  Rows gates;
  if (problem.gate != RmsNormProblem::Gate::kNone) {
    gates = RowsOf(gate, size);
    problem.z = gates.tensor.const_data_ptr();
    problem.z_stride = gates.stride;
  }
  problem.weight = weight.const_data_ptr();
  problem.y = y.mutable_data_ptr();
  const c10::DeviceGuard guard(x.device());
  ThrowUnlessOk(RmsNormOnCuda(problem, KernelStream(x.device())));
  return y;
}
#endif

}  // namespace

at::Tensor RmsNorm(const at::Tensor& x, const at::Tensor& weight, double eps) {
#ifdef EIGSVC_CUDA_KERNELS
  if (NormKernelTakes(x, weight)) {
    RmsNormProblem problem;
    problem.size = x.size(-1);
    problem.groups = weight.numel() / problem.size;
    problem.eps = eps;
    return ByKernel(problem, x, {}, weight);
  }
#endif
  // One new buffer instead of three: on the CPU, faulting in fresh pages costs more than the arithmetic.
  const at::Tensor wide = AtLeastFloat(x);
  const at::Tensor norm = at::linalg_vector_norm(wide, 2, at::IntArrayRef{-1}, /*keepdim=*/true);
  const at::Tensor scale = at::rsqrt(norm * norm / wide.size(-1) + eps);
  return (wide * scale).mul_(weight).to(weight.scalar_type());
}

at::Tensor LayerNorm(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, double eps) {
  const at::Tensor wide = AtLeastFloat(x);
  const auto type = wide.scalar_type();
  return at::layer_norm(wide, weight.sizes(), weight.to(type), bias.to(type), eps).to(weight.scalar_type());
}

at::Tensor BatchNorm(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                     const at::Tensor& mean, const at::Tensor& variance, double eps) {
  const at::Tensor wide = AtLeastFloat(x);
  const auto type = wide.scalar_type();
  const at::Tensor scale = at::rsqrt(variance.to(type) + eps) * weight.to(type);
  return at::addcmul(bias.to(type), wide - mean.to(type), scale).to(weight.scalar_type());
}

BatchNormOutput BatchNormByBatch(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                                 double eps) {
  const at::Tensor wide = AtLeastFloat(x).flatten(0, 1);
  const auto type = wide.scalar_type();
  const auto [y, mean, inverse_deviation] =
      at::native_batch_norm(wide, weight.to(type), bias.to(type), {}, {}, /*training=*/true,
                            /*momentum=*/0, eps);
  const at::Tensor variance = inverse_deviation.detach().square().reciprocal() - eps;
  return {y.view(x.sizes()).to(weight.scalar_type()), mean.detach(), variance};
}

at::Tensor GroupNorm(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, double eps) {
  const at::Tensor normed = at::layer_norm(AtLeastFloat(x), x.sizes().slice(x.dim() - 1), {}, {}, eps);
  return (normed.flatten(-2) * weight + bias).to(weight.scalar_type());
}

at::Tensor GatedRmsNorm(const at::Tensor& x, const at::Tensor& gate, const at::Tensor& weight, double eps,
                        int64_t groups, bool norm_before_gate) {
#ifdef EIGSVC_CUDA_KERNELS
  if (NormKernelTakes(x, weight) && gate.scalar_type() == weight.scalar_type()) {
    RmsNormProblem problem;
    problem.gate = norm_before_gate ? RmsNormProblem::Gate::kAfterNorm : RmsNormProblem::Gate::kBeforeNorm;
    problem.groups = groups;
    problem.size = x.size(-1) / groups;
    problem.eps = eps;
    return ByKernel(problem, x, gate, weight);
  }
#endif
  const at::Tensor silu = at::silu(AtLeastFloat(gate));
  const at::Tensor input = norm_before_gate ? AtLeastFloat(x) : x * silu;
  const at::Tensor grouped = input.unflatten(-1, {groups, input.size(-1) / groups});
  const at::Tensor scale = at::rsqrt(at::mean(grouped * grouped, -1, /*keepdim=*/true) + eps);
  at::Tensor output = (grouped * scale).flatten(-2) * weight;
  if (norm_before_gate) output = output * silu;
  return output.to(weight.scalar_type());
}

}  // namespace eigsvc
