#include "models/layers/mlp.h"

#include <vector>

#include "ATen/ops/glu.h"
#include "ATen/ops/linear.h"
#include "ATen/ops/matmul.h"
#include "ATen/ops/silu.h"

namespace eigsvc {

at::Tensor Linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  return bias.defined() ? at::linear(x, weight, bias) : at::linear(x, weight);
}

at::Tensor HeadwiseLinear(const at::Tensor& x, const at::Tensor& weight) {
  const at::Tensor slices = x.unflatten(-1, {weight.size(0), weight.size(2)});  // [...,H,in]
  const at::Tensor products =
      at::matmul(slices.flatten(0, -3).transpose(0, 1), weight.transpose(-1, -2));  // [H,N,out]
  std::vector<int64_t> shape = x.sizes().vec();
  shape.back() = weight.size(0) * weight.size(1);
  return products.transpose(0, 1).reshape(shape);
}

at::Tensor SwiGlu(const at::Tensor& x, const GatedMlp& weights) {
  // The product goes into silu's own output: one large buffer less to fault in.
  const at::Tensor hidden = at::silu(Linear(x, weights.gate, weights.gate_bias));
  return Linear(hidden.mul_(Linear(x, weights.up, weights.up_bias)), weights.down, weights.down_bias);
}

at::Tensor GatedLinear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  return at::glu(Linear(x, weight, bias), -1);
}

}  // namespace eigsvc
