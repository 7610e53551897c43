#include "models/mixers/normalization.h"

#include "ATen/TensorOperators.h"
#include "ATen/ops/zeros_like.h"
#include "models/layers/norm.h"

namespace eigsvc {

void PlanNorm(const WeightPlanner& planner, const std::string& name, const NormSpec& spec, int64_t size) {
  const bool plus_one = spec.kind == NormSpec::Kind::kRmsPlusOne;
  planner.Add(name + ".weight", {size}, DrawConstant(plus_one ? 0 : 1));
  if (spec.kind == NormSpec::Kind::kLayer) planner.Add(name + ".bias", {size}, DrawConstant(0));
}

at::Tensor ApplyNorm(const NormSpec& spec, const Weights& weights, const std::string& name,
                     const at::Tensor& x) {
  const at::Tensor& weight = weights[name + ".weight"];
  switch (spec.kind) {
    case NormSpec::Kind::kRms:
      break;
    case NormSpec::Kind::kRmsPlusOne:
      return RmsNorm(x, weight.to(x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat) + 1, spec.eps)
          .to(weight.scalar_type());
    case NormSpec::Kind::kLayer:
      return LayerNorm(x, weight, weights[name + ".bias"], spec.eps);
    case NormSpec::Kind::kLayerNoBias:
      return LayerNorm(x, weight, at::zeros_like(weight), spec.eps);
  }
  return RmsNorm(x, weight, spec.eps);
}

}  // namespace eigsvc
