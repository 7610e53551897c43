#include "models/mixers/gated_convolution.h"

#include "ATen/TensorOperators.h"
#include "models/base/status_macros.h"
#include "models/mixers/short_convolution.h"

namespace eigsvc {

void GatedConvolution::Plan(const WeightPlanner& planner) const {
  planner.Linear(Name("in_proj"), (spec_.input_gate ? 3 : 2) * spec_.channels, spec_.width, spec_.bias);
  PlanShortConvolution(planner, Name("conv"), spec_.channels, spec_.taps, spec_.convolution_bias);
  planner.ResidualLinear(Name("out_proj"), spec_.width, spec_.channels, spec_.bias);
}

absl::StatusOr<at::Tensor> GatedConvolution::Run(const LayerCall& call, const at::Tensor& x) const {
  if (spec_.taps > 1 && call.WantsConstant(kConvolutionMixer)) {
    Transition transition;
    transition.kind = Nilpotent{spec_.channels, spec_.taps - 1};
    transition.constant = true;
    EIGSVC_RETURN_IF_ERROR(call.Report(kConvolutionMixer, UnitKind::kChannel, std::move(transition)));
  }
  const std::vector<at::Tensor> parts = Linear(call, "in_proj", x).chunk(spec_.input_gate ? 3 : 2, -1);
  if (spec_.input_gate) {
    return Linear(call, "out_proj", parts[1] * ShortConvolution(call, Name("conv"), parts[0] * parts[2]));
  }
  return Linear(call, "out_proj", ShortConvolution(call, Name("conv"), parts[0], /*silu=*/true) * parts[1]);
}

std::vector<MixerDescription> GatedConvolution::Mixers() const {
  if (spec_.taps == 1) return {};
  MixerDescription description;
  description.mixer = std::string(kConvolutionMixer);
  description.unit_kind = UnitKind::kChannel;
  description.units = spec_.channels;
  description.multiplicity = spec_.taps - 1;
  description.constant = true;
  description.form = TransitionForm::kNilpotent;
  return {std::move(description)};
}

}  // namespace eigsvc
