#include "models/training/optimizer.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "ATen/TensorOperators.h"
#include "ATen/ops/_foreach_mul.h"
#include "ATen/ops/_foreach_norm.h"
#include "ATen/ops/_fused_adamw.h"
#include "ATen/ops/full.h"
#include "ATen/ops/stack.h"
#include "ATen/ops/zeros.h"
#include "ATen/ops/zeros_like.h"
#include "c10/core/GradMode.h"

namespace eigsvc {
namespace {

// Applies the fused operator to those parameters of one kind that have a gradient. `number`: of this update,
// counted from 1. `skip`: where it is 1, nothing changes.
void Update(const std::vector<Parameter>& parameters, bool recurrence, bool decays,
            const TrainingOptions& options, int64_t step, const at::Tensor& number, const at::Tensor& skip) {
  std::vector<at::Tensor> values, gradients, first, second;
  for (const Parameter& parameter : parameters) {
    const bool shrinks = parameter.decays || (parameter.recurrence && options.decay_recurrence);
    if (parameter.recurrence != recurrence || shrinks != decays || !parameter.value.grad().defined())
      continue;
    values.push_back(parameter.value);
    gradients.push_back(parameter.value.grad());
    first.push_back(parameter.first_moment);
    second.push_back(parameter.second_moment);
  }
  if (values.empty()) return;
  const std::vector<at::Tensor> numbers(values.size(), number);
  at::_fused_adamw_(values, gradients, first, second, /*max_exp_avg_sqs=*/{}, numbers,
                    LearningRate(options, step, recurrence), options.beta1, options.beta2,
                    decays ? options.weight_decay : 0.0, options.epsilon,
                    /*amsgrad=*/false, /*maximize=*/false, /*grad_scale=*/{}, /*found_inf=*/skip);
}

}  // namespace

std::vector<Parameter> ListParameters(const SequenceModel& model, const ModelWeights& weights) {
  std::vector<Parameter> parameters;
  for (const WeightSpec& spec : model.plan()) {
    if (!spec.tied_to.empty() || !spec.trained) continue;
    const Weights& place = spec.layer == WeightSpec::kOuter ? weights.outer : weights.layers[spec.layer];
    const at::Tensor& value = place[spec.name];
    const at::Tensor plain = value.detach();
    parameters.push_back({spec.key, value, at::zeros_like(plain), at::zeros_like(plain),
                          spec.decays && value.dim() >= 2, !spec.decays});
  }
  return parameters;
}

double LearningRate(const TrainingOptions& options, int64_t step, bool recurrence) {
  const double peak = recurrence && options.recurrence_learning_rate > 0 ? options.recurrence_learning_rate
                                                                         : options.learning_rate;
  if (step < options.warmup_steps) {
    return peak * static_cast<double>(step + 1) / static_cast<double>(options.warmup_steps);
  }
  const int64_t last = std::max<int64_t>(options.steps - 1 - options.warmup_steps, 1);
  const double done =
      std::min(1.0, static_cast<double>(step - options.warmup_steps) / static_cast<double>(last));
  const double share = 0.5 * (1 + std::cos(std::numbers::pi * done));
  return options.final_learning_rate + share * (peak - options.final_learning_rate);
}

at::Tensor AdamWStep(std::vector<Parameter>& parameters, const TrainingOptions& options, int64_t step) {
  const c10::NoGradGuard no_grad;
  std::vector<at::Tensor> gradients;
  for (const Parameter& parameter : parameters) {
    if (parameter.value.grad().defined()) gradients.push_back(parameter.value.grad());
  }
  if (gradients.empty()) return at::zeros({});
  const at::Tensor norm = at::stack(at::_foreach_norm(gradients)).norm();
  if (options.gradient_clip > 0)
    at::_foreach_mul_(gradients, (norm.reciprocal() * options.gradient_clip).clamp_max(1));
  const at::Tensor skip = norm.isfinite().logical_not().to(at::kFloat),
                   number = at::full({}, step + 1, skip.options());
  for (const bool recurrence : {false, true}) {
    for (const bool decays : {false, true})
      Update(parameters, recurrence, decays, options, step, number, skip);
  }
  for (Parameter& parameter : parameters) parameter.value.mutable_grad().reset();
  return norm;
}

}  // namespace eigsvc
