#include "models/mixers/head_outputs.h"

#include "ATen/ops/ones.h"
#include "models/layers/mlp.h"
#include "models/layers/norm.h"
#include "models/mixers/short_convolution.h"

namespace eigsvc {

void PlanConvolvedProjection(const WeightPlanner& planner, const std::string& name,
                             const ConvolvedProjectionSpec& spec) {
  planner.Linear(name + "_proj", spec.size, spec.width, /*bias=*/false);
  if (spec.taps > 0) {
    PlanShortConvolution(planner, name + "_conv1d", spec.size, spec.taps, spec.convolution_bias);
  }
}

at::Tensor ConvolvedProjection(const LayerCall& call, const std::string& name,
                               const ConvolvedProjectionSpec& spec, const at::Tensor& x) {
  at::Tensor projected = Linear(x, call.weights[name + "_proj.weight"], {});
  if (spec.taps > 0) projected = ShortConvolution(call, name + "_conv1d", projected);
  return Activate(spec.activation, projected);
}

at::Tensor SharedHeads(const at::Tensor& x, int64_t heads) {
  const int64_t groups = x.size(2);
  if (groups == heads) return x;
  return x.unsqueeze(3).expand({-1, -1, -1, heads / groups, -1}).flatten(2, 3);
}

void PlanHeadNorm(const WeightPlanner& planner, const HeadOutputSpec& spec) {
  if (!spec.norm.empty() && spec.affine) planner.Add(spec.norm + ".weight", {spec.size}, DrawConstant(1));
}

at::Tensor HeadNorm(const LayerCall& call, const HeadOutputSpec& spec, const at::Tensor& o,
                    at::ScalarType dtype) {
  if (spec.norm.empty()) return o.flatten(-2).to(dtype);
  const at::Tensor weight =
      spec.affine ? call.weights[spec.norm + ".weight"] : at::ones({spec.size}, o.options().dtype(dtype));
  return RmsNorm(o, weight, spec.eps).flatten(-2);
}

}  // namespace eigsvc
