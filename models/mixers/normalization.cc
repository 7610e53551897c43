#include "models/mixers/normalization.h"

#include "ATen/TensorOperators.h"
#include "ATen/ops/zeros_like.h"
#include "c10/core/GradMode.h"
#include "models/layers/norm.h"

namespace eigsvc {

void PlanNorm(const WeightPlanner& planner, const std::string& name, const NormSpec& spec, int64_t size) {
  const bool plus_one =
      spec.kind == NormSpec::Kind::kRmsPlusOne || spec.kind == NormSpec::Kind::kLayerPlusOne;
  planner.Add(name + ".weight", {size}, DrawConstant(plus_one ? 0 : 1));
  const bool batch = spec.kind == NormSpec::Kind::kBatch;
  if (spec.kind == NormSpec::Kind::kLayer || batch) planner.Add(name + ".bias", {size}, DrawConstant(0));
  if (!batch) return;
  planner.Add(name + ".running_mean", {size}, DrawConstant(0)).trained = false;
  planner.Add(name + ".running_var", {size}, DrawConstant(1)).trained = false;
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
    case NormSpec::Kind::kLayerPlusOne:
      return LayerNorm(x, weight + 1, at::zeros_like(weight), spec.eps);
    case NormSpec::Kind::kBatch:
      return BatchNorm(x, weight, weights[name + ".bias"], weights[name + ".running_mean"],
                       weights[name + ".running_var"], spec.eps);
  }
  return RmsNorm(x, weight, spec.eps);
}

at::Tensor ApplyNorm(const NormSpec& spec, const LayerCall& call, const std::string& name,
                     const at::Tensor& x) {
  if (spec.kind != NormSpec::Kind::kBatch || call.context.training == nullptr) {
    return ApplyNorm(spec, call.weights, name, x);
  }
  const BatchNormOutput output =
      BatchNormByBatch(x, call.weights[name + ".weight"], call.weights[name + ".bias"], spec.eps);
  const c10::NoGradGuard no_grad;
  const double count = static_cast<double>(x.size(0) * x.size(1));
  const double correction = spec.unbiased && count > 1 ? count / (count - 1) : 1;
  const auto move = [&](const char* statistic, const at::Tensor& of_batch) {
    at::Tensor running = call.weights[name + statistic];  // a handle: the tensor itself is moved
    running.mul_(1 - spec.momentum).add_(of_batch, spec.momentum);
  };
  move(".running_mean", output.mean);
  move(".running_var", output.variance * correction);
  return output.y;
}

}  // namespace eigsvc
