#include "models/mixers/experts.h"

#include <algorithm>

#include "ATen/TensorOperators.h"
#include "ATen/ops/addmm.h"
#include "ATen/ops/index_select.h"
#include "ATen/ops/nonzero.h"
#include "ATen/ops/sigmoid.h"
#include "ATen/ops/softmax.h"
#include "ATen/ops/topk.h"
#include "ATen/ops/zeros_like.h"
#include "models/base/status_macros.h"

namespace eigsvc {

void Experts::Plan(const WeightPlanner& planner) const {
  planner.Linear(Name("router"), spec_.experts, spec_.width, /*bias=*/true);
  const auto stack = [&](const char* rest, int64_t in, int64_t out) {
    planner.Add(Name(rest), {spec_.experts, in, out}, DrawNormal(0.02));
    planner.Add(Name(rest) + "_bias", {spec_.experts, out}, DrawConstant(0));
  };
  stack("experts.gate_up_proj", spec_.width, 2 * spec_.hidden);
  stack("experts.down_proj", spec_.hidden, spec_.width);
}

// x [n,D] -> [n,D].
at::Tensor Experts::RunExpert(const LayerCall& call, int64_t expert, const at::Tensor& x) const {
  const auto affine = [&](const std::string& rest, const at::Tensor& input) {
    return at::addmm(Weight(call, rest + "_bias")[expert], input, Weight(call, rest)[expert]);
  };
  const at::Tensor both = affine("experts.gate_up_proj", x).unflatten(-1, {spec_.hidden, 2});
  // Beyond what the type holds there is nothing to limit, and clamp() refuses the number.
  const double limit = std::min(spec_.limit, both.scalar_type() == at::kHalf ? 65504.0 : 3e38);
  const at::Tensor gate = both.select(-1, 0).clamp_max(limit);
  const at::Tensor up = both.select(-1, 1).clamp(-limit, limit);
  return affine("experts.down_proj", (up + 1) * gate * at::sigmoid(gate * spec_.alpha));
}

absl::StatusOr<at::Tensor> Experts::Run(const LayerCall& call, const at::Tensor& x) const {
  const at::Tensor steps = x.flatten(0, -2);                                                // [n,D]
  const auto [scores, chosen] = at::topk(Linear(call, "router", steps), spec_.active, -1);  // [n,active]
  const at::Tensor weights = at::softmax(scores, -1);
  const at::Tensor sum = at::zeros_like(steps);
  for (int64_t expert = 0; expert < spec_.experts; ++expert) {
    if (call.context.stop != nullptr) EIGSVC_RETURN_IF_ERROR(call.context.stop->Check());
    const at::Tensor hits = at::nonzero(chosen == expert);  // [m,2]: step, rank
    if (hits.size(0) == 0) continue;
    const at::Tensor step = hits.select(1, 0);
    const at::Tensor weight = weights.flatten().index_select(0, step * spec_.active + hits.select(1, 1));
    const at::Tensor output = RunExpert(call, expert, at::index_select(steps, 0, step));
    sum.index_add_(0, step, output * weight.unsqueeze(-1));
  }
  return sum.view(x.sizes());
}

}  // namespace eigsvc
