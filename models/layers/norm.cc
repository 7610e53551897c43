#include "models/layers/norm.h"

#include "ATen/TensorOperators.h"
#include "ATen/ops/addcmul.h"
#include "ATen/ops/layer_norm.h"
#include "ATen/ops/linalg_vector_norm.h"
#include "ATen/ops/mean.h"
#include "ATen/ops/native_batch_norm.h"
#include "ATen/ops/promote_types.h"
#include "ATen/ops/rsqrt.h"
#include "ATen/ops/silu.h"

namespace eigsvc {
namespace {

at::Tensor AtLeastFloat(const at::Tensor& x) { return x.to(at::promote_types(x.scalar_type(), at::kFloat)); }

}  // namespace

at::Tensor RmsNorm(const at::Tensor& x, const at::Tensor& weight, double eps) {
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
  const at::Tensor silu = at::silu(AtLeastFloat(gate));
  const at::Tensor input = norm_before_gate ? AtLeastFloat(x) : x * silu;
  const at::Tensor grouped = input.unflatten(-1, {groups, input.size(-1) / groups});
  const at::Tensor scale = at::rsqrt(at::mean(grouped * grouped, -1, /*keepdim=*/true) + eps);
  at::Tensor output = (grouped * scale).flatten(-2) * weight;
  if (norm_before_gate) output = output * silu;
  return output.to(weight.scalar_type());
}

}  // namespace eigsvc
