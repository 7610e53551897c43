#include "models/mixers/mixture_of_experts.h"

#include <limits>
#include <vector>

#include "ATen/TensorOperators.h"
#include "ATen/core/IListRef.h"
#include "ATen/ops/argsort.h"
#include "ATen/ops/bincount.h"
#include "ATen/ops/cat.h"
#include "ATen/ops/linear.h"
#include "ATen/ops/ones_like.h"
#include "ATen/ops/promote_types.h"
#include "ATen/ops/sigmoid.h"
#include "ATen/ops/softmax.h"
#include "ATen/ops/topk.h"
#include "ATen/ops/zeros_like.h"
#include "absl/strings/str_cat.h"
#include "models/base/status_macros.h"

namespace eigsvc {

absl::Status MixtureOfExpertsSpec::Check() const {
  const auto within = [](absl::string_view what, int64_t value, absl::string_view whole, int64_t most) {
    if (value >= 1 && value <= most) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat("settings disagree: ", what, " is ", value,
                                                   "; it must be between 1 and ", whole, " = ", most));
  };
  EIGSVC_RETURN_IF_ERROR(within("the number of groups of experts", groups, "the number of experts", experts));
  EIGSVC_RETURN_IF_ERROR(
      within("the number of groups a step chooses", chosen_groups, "that of all groups", groups));
  if (experts % groups != 0 || (groups > 1 && experts / groups < 2)) {
    return absl::InvalidArgumentError(
        absl::StrCat("settings disagree: ", experts, " experts in ", groups, " groups of two or more"));
  }
  return within("the number of experts a step goes to", chosen, "the experts it may choose from",
                experts / groups * chosen_groups);
}

void MixtureOfExperts::Plan(const WeightPlanner& planner) const {
  const auto [width, hidden] = std::pair(spec_.expert.width, spec_.expert.hidden);
  planner.Linear(Name("router"), spec_.experts, width, /*bias=*/false);
  if (spec_.correction) {
    WeightSpec& correction = planner.Add(Name("router.correction"), {spec_.experts}, DrawConstant(0));
    correction.keep_float32 = true;
    correction.trained = false;
  }
  if (spec_.stacked) {
    planner.Stack(Name("experts.input"), spec_.experts, (spec_.gated ? 2 : 1) * hidden, width);
    planner.Stack(Name("experts.output"), spec_.experts, width, hidden);
    return;
  }
  for (int64_t expert = 0; expert < spec_.experts; ++expert) {
    const std::string prefix = Name(absl::StrCat("experts.", expert, "."));
    if (spec_.gated) planner.Linear(prefix + "gate_proj", hidden, width, spec_.expert.bias);
    planner.Linear(prefix + "up_proj", hidden, width, spec_.expert.bias);
    planner.Linear(prefix + "down_proj", width, hidden, spec_.expert.bias);
  }
}

MixtureOfExperts::Choice MixtureOfExperts::Route(const LayerCall& call, const at::Tensor& steps) const {
  const auto wide = at::promote_types(steps.scalar_type(), at::kFloat);
  const at::Tensor& router = Weight(call, "router.weight");
  if (spec_.score == MixtureOfExpertsSpec::Score::kSoftmax) {
    const at::Tensor scores = at::linear(steps, router).to(wide);
    if (spec_.renormalised) {
      const auto [best, expert] = at::topk(scores, spec_.chosen, -1);
      return {expert, at::softmax(best, -1) * spec_.scale};
    }
    const auto [best, expert] = at::topk(at::softmax(scores, -1), spec_.chosen, -1);
    return {expert, best * spec_.scale};
  }
  const at::Tensor scores = at::sigmoid(at::linear(steps.to(wide), router.to(wide)));
  at::Tensor preference = scores.detach();
  if (spec_.correction) preference = preference + Weight(call, "router.correction");
  if (spec_.chosen_groups < spec_.groups) {
    const at::Tensor grouped = preference.unflatten(-1, {spec_.groups, -1});
    const at::Tensor group_scores = std::get<0>(at::topk(grouped, 2, -1)).sum(-1);
    const at::Tensor kept = std::get<1>(at::topk(group_scores, spec_.chosen_groups, -1));
    const at::Tensor out = at::ones_like(group_scores, at::kBool).scatter(-1, kept, false);
    preference = grouped.masked_fill(out.unsqueeze(-1), -std::numeric_limits<double>::infinity()).flatten(-2);
  }
  const at::Tensor expert = std::get<1>(at::topk(preference, spec_.chosen, -1));
  at::Tensor weight = scores.gather(-1, expert);
  if (spec_.renormalised) weight = weight / (weight.sum(-1, /*keepdim=*/true) + spec_.sum_eps);
  return {expert, weight * spec_.scale};
}

// x [m,D] -> [m,D].
at::Tensor MixtureOfExperts::RunExpert(const LayerCall& call, int64_t expert, const at::Tensor& x) const {
  const Activation activation = spec_.expert.activation;
  if (spec_.stacked) {
    const at::Tensor inner = at::linear(x, Weight(call, "experts.input").select(0, expert));
    const at::Tensor output = Weight(call, "experts.output").select(0, expert);
    if (!spec_.gated) return at::linear(Activate(activation, inner), output);
    const std::vector<at::Tensor> halves = inner.chunk(2, -1);
    return at::linear(Activate(activation, halves[0]) * halves[1], output);
  }
  const std::string prefix = absl::StrCat("experts.", expert, ".");
  const at::Tensor up = Linear(call, prefix + "up_proj", x);
  if (!spec_.gated) return Linear(call, prefix + "down_proj", Activate(activation, up));
  return Linear(call, prefix + "down_proj", Activate(activation, Linear(call, prefix + "gate_proj", x)) * up);
}

// The steps are gathered once, expert by expert, and what the experts say is taken back to them once.
absl::StatusOr<at::Tensor> MixtureOfExperts::Run(const LayerCall& call, const at::Tensor& x) const {
  const at::Tensor steps = x.flatten(0, -2);  // [n,D]
  const Choice choice = Route(call, steps);
  const at::Tensor expert = choice.expert.flatten();                                       // [n·chosen]
  const at::Tensor order = at::argsort(expert, /*stable=*/true, 0, /*descending=*/false);  // by expert
  const at::Tensor gathered = steps.index_select(0, order.floor_divide(spec_.chosen));
  const at::Tensor counts = at::bincount(expert, {}, spec_.experts).to(at::kCPU);
  std::vector<at::Tensor> said;
  int64_t begin = 0;
  for (int64_t e = 0; e < spec_.experts; ++e) {
    const int64_t count = counts.const_data_ptr<int64_t>()[e];
    if (count == 0) continue;
    if (call.context.stop != nullptr) EIGSVC_RETURN_IF_ERROR(call.context.stop->Check());
    said.push_back(RunExpert(call, e, gathered.narrow(0, begin, count)));
    begin += count;
  }
  const at::Tensor by_step =
      at::cat(said).index_select(0, at::argsort(order)).unflatten(0, {-1, spec_.chosen});
  return (by_step * choice.weight.to(by_step.scalar_type()).unsqueeze(-1)).sum(1).view(x.sizes());
}

}  // namespace eigsvc
