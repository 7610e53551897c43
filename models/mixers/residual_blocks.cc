#include "models/mixers/residual_blocks.h"

#include <cmath>

#include "ATen/TensorOperators.h"
#include "ATen/ops/glu.h"
#include "ATen/ops/linear.h"
#include "ATen/ops/sigmoid.h"
#include "ATen/ops/silu.h"
#include "models/base/status_macros.h"

namespace eigsvc {
namespace {

// `norm`: the one before the mixer, null where it comes after the sum.
absl::Status ReportDepartures(const LayerCall& call, const Module& mixer, const NormSpec* norm,
                              const at::Tensor& x, const at::Tensor& result) {
  if (call.context.tap == nullptr || !call.departs()) return absl::OkStatus();
  const Departures& departures = call.context.convention.departures;
  const at::Tensor& input = departures.layer_output ? result : x;
  const bool normed = norm != nullptr && !departures.skip_norm;
  return mixer.ReportDeparting(call, normed ? ApplyNorm(*norm, call, "norm", input) : input);
}

}  // namespace

void AttentionBlock::Plan(const WeightPlanner& planner) const {
  PlanNorm(planner, "norm", spec_.norm, spec_.width);
  attention_->Plan(planner);
  if (spec_.gated) {
    // The reference: bias 1, Xavier uniform with gain 0.1.
    const double bound = 0.1 * std::sqrt(6.0 / (2.0 * static_cast<double>(spec_.width)));
    planner.Add("Wz.weight", {spec_.width, spec_.width}, DrawUniform(-bound, bound));
    planner.Add("Wz.bias", {spec_.width}, DrawConstant(1));
  }
  if (spec_.scaled_skip) planner.Add("lambd", {1}, DrawConstant(1));
  if (network_ != nullptr) network_->Plan(planner);
}

absl::StatusOr<at::Tensor> AttentionBlock::Run(const LayerCall& call, const at::Tensor& input) const {
  const at::Tensor x = Dropped(call, input, spec_.input_dropout);
  EIGSVC_ASSIGN_OR_RETURN(const at::Tensor attended,
                          attention_->Run(call, ApplyNorm(spec_.norm, call, "norm", x)));
  const at::Tensor skip = spec_.scaled_skip ? x * Weight(call, "lambd") : x;
  const at::Tensor middle = skip + Dropped(call, attended, spec_.dropout);
  at::Tensor y = ApplyNorm(spec_.norm, call, "norm", middle);
  if (network_ != nullptr) {
    EIGSVC_ASSIGN_OR_RETURN(const at::Tensor update, network_->Run(call, y));
    y = middle + update;
  }
  if (spec_.gated) y = y * at::silu(Linear(call, "Wz", x));
  EIGSVC_RETURN_IF_ERROR(ReportDepartures(call, *attention_, &spec_.norm, x, y));
  return y;
}

void SsmBlock::Plan(const WeightPlanner& planner) const {
  PlanNorm(planner, "norm", spec_.norm, spec_.width);
  mixer_->Plan(planner);
  switch (spec_.output) {
    case SsmBlockSpec::Output::kNone:
      break;
    case SsmBlockSpec::Output::kGlu: {
      const int64_t mixed = spec_.mixed_width > 0 ? spec_.mixed_width : spec_.width;
      if (spec_.output_is_conv) {
        planner.Add("glu.linear.weight", {2 * spec_.width, mixed, 1}, DrawLinear(mixed));
        planner.Add("glu.linear.bias", {2 * spec_.width}, DrawLinear(mixed));
      } else {
        planner.Linear("glu.linear", 2 * spec_.width, mixed, true);
      }
      break;
    }
    case SsmBlockSpec::Output::kTwoLinear:
      planner.Linear("out1", spec_.width, spec_.width, true);
      [[fallthrough]];
    case SsmBlockSpec::Output::kGate:
    case SsmBlockSpec::Output::kGateOnly:
      planner.Linear("out2", spec_.width, spec_.width, true);
      break;
  }
}

// y: the mixer's output.
at::Tensor SsmBlock::Output(const LayerCall& call, const at::Tensor& y) const {
  const at::Tensor z = Dropped(call, Activate(spec_.activation, y), spec_.dropout, spec_.tied_dropout);
  switch (spec_.output) {
    case SsmBlockSpec::Output::kNone:
      return z;
    case SsmBlockSpec::Output::kGlu:
      return at::glu(
          at::linear(z, Weight(call, "glu.linear.weight").flatten(1), Weight(call, "glu.linear.bias")), -1);
    case SsmBlockSpec::Output::kTwoLinear:
      return Linear(call, "out1", z) * at::sigmoid(Linear(call, "out2", z));
    case SsmBlockSpec::Output::kGate:
      return z * at::sigmoid(Linear(call, "out2", z));
    case SsmBlockSpec::Output::kGateOnly:
      break;
  }
  return y * at::sigmoid(Linear(call, "out2", z));
}

absl::StatusOr<at::Tensor> SsmBlock::Run(const LayerCall& call, const at::Tensor& x) const {
  EIGSVC_ASSIGN_OR_RETURN(const at::Tensor mixed,
                          mixer_->Run(call, spec_.prenorm ? ApplyNorm(spec_.norm, call, "norm", x) : x));
  const at::Tensor output = Output(call, Dropped(call, mixed, spec_.mixer_dropout, spec_.tied_dropout));
  at::Tensor y = x + (spec_.dropout_once ? output : Dropped(call, output, spec_.dropout, spec_.tied_dropout));
  if (!spec_.prenorm) y = ApplyNorm(spec_.norm, call, "norm", y);
  EIGSVC_RETURN_IF_ERROR(ReportDepartures(call, *mixer_, spec_.prenorm ? &spec_.norm : nullptr, x, y));
  return y;
}

}  // namespace eigsvc
