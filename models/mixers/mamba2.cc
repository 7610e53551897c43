#include "models/mixers/mamba2.h"

#include <cmath>

#include "ATen/TensorOperators.h"
#include "ATen/core/IListRef.h"
#include "ATen/ops/cat.h"
#include "ATen/ops/clamp.h"
#include "ATen/ops/exp.h"
#include "ATen/ops/linear.h"
#include "ATen/ops/promote_types.h"
#include "ATen/ops/silu.h"
#include "ATen/ops/softplus.h"
#include "ATen/ops/tensor.h"
#include "absl/strings/str_cat.h"
#include "models/base/status_macros.h"
#include "models/layers/conv1d.h"
#include "models/layers/norm.h"
#include "models/layers/ssd.h"
#include "models/layers/ssd_by_blocks.h"
#include "models/mixers/short_convolution.h"
#include "models/tensor/host_copy.h"
#include "models/transition/noise_floor.h"
#include "models/transition/paper_compat.h"

namespace eigsvc {

absl::Status Mamba2Spec::Check() const {
  const auto divides = [](absl::string_view what, int64_t size, absl::string_view parts, int64_t count) {
    if (count > 0 && size % count == 0) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat("settings disagree: Mamba-2's ", size, " ", what,
                                                   " do not divide into ", count, " ", parts));
  };
  EIGSVC_RETURN_IF_ERROR(divides("heads", heads, "groups", groups));
  if (time_invariant) {
    EIGSVC_RETURN_IF_ERROR(divides("channels of B", groups * order, "heads", heads));
    // Δ's rows are added to a bias a head.
    if (groups != 1 && groups != heads) {
      return absl::InvalidArgumentError(absl::StrCat("settings disagree: the pseudo-LTI has ", groups,
                                                     " groups and ", heads,
                                                     " heads; groups must be 1 or as many"));
    }
  }
  EIGSVC_RETURN_IF_ERROR(divides("channels", inner(), "groups of the gated norm", norm_groups));
  return absl::OkStatus();
}

void Mamba2::Plan(const WeightPlanner& planner) const {
  // The initial values of the reference (state-spaces/mamba, modules/mamba2.py): A uniform in [1,16], Δ
  // log-uniform in [0.001, 0.1]; output projections shrink so that the residual stream does not grow with
  // depth (GPT-2's scheme).
  const double out_bound =
      1 / std::sqrt(static_cast<double>(spec_.inner() + spec_.gated_mlp) * static_cast<double>(spec_.depth));
  planner.Add(Name("in_proj.weight"), {spec_.projection_rows(), spec_.width}, DrawLinear(spec_.width));
  if (spec_.input_bias) planner.Add(Name("in_proj.bias"), {spec_.projection_rows()}, DrawConstant(0));
  const int64_t skip_size = spec_.skip_per_channel ? spec_.inner() : spec_.heads;
  if (spec_.time_invariant) {
    planner.Add(Name("A"), {spec_.heads}, DrawUniform(-8, -2)).keep_float32 = true;
    WeightSpec& beta = planner.Add(Name("beta"), {spec_.heads}, DrawConstant(1));
    beta.keep_float32 = true;
    beta.trained = false;
  } else {
    const Draw a_log = [](Random& random) { return std::log(1 + 15 * random.Unit()); };
    planner.Add(Name("A_log"), {spec_.heads}, a_log).keep_float32 = true;
  }
  planner.Add(Name("D"), {skip_size}, DrawConstant(1)).keep_float32 = true;
  planner.Add(Name("dt_bias"), {spec_.heads}, DrawStepBias(0.001, 0.1)).keep_float32 = true;
  if (spec_.taps > 0)
    PlanShortConvolution(planner, Name("conv1d"), spec_.conv_rows(), spec_.taps, spec_.conv_bias);
  if (spec_.learned_start) {
    planner.Add(Name("init_states"), {spec_.heads, spec_.head_width, spec_.order}, DrawConstant(0)).decays =
        false;
  }
  if (spec_.gate && spec_.norm != Mamba2Spec::Norm::kNone)
    planner.Add(Name("norm.weight"), {spec_.inner()}, DrawConstant(1));
  planner.Add(Name("out_proj.weight"), {spec_.width, spec_.inner() + spec_.gated_mlp},
              DrawUniform(-out_bound, out_bound));
  if (spec_.output_bias) planner.Add(Name("out_proj.bias"), {spec_.width}, DrawConstant(0));
}

absl::StatusOr<at::Tensor> Mamba2::Run(const LayerCall& call, const at::Tensor& x) const {
  at::Tensor projected = Linear(call, "in_proj", x);
  if (!spec_.multipliers.empty()) projected = projected * Multipliers(projected);
  const std::vector<at::Tensor> parts =
      projected.split_with_sizes({spec_.gated_mlp, spec_.gated_mlp, spec_.gate ? spec_.inner() : 0,
                                  spec_.conv_rows(), spec_.step_rows()},
                                 -1);
  const Scanned scanned = Scan(call, parts[3], parts[4]);
  if (spec_.time_invariant ? call.WantsConstant(kMamba2Mixer) : !call.departs() && call.Wants(kMamba2Mixer)) {
    EIGSVC_RETURN_IF_ERROR(Report(call, scanned.log_decay, projected.scalar_type()));
  }
  at::Tensor y = spec_.gate ? Gated(call, scanned.y, parts[2]) : scanned.y.to(projected.scalar_type());
  if (spec_.gated_mlp > 0) y = at::cat({at::silu(parts[0]) * parts[1], y}, -1);
  return Linear(call, "out_proj", y);
}

absl::Status Mamba2::Report(const LayerCall& call, const at::Tensor& log_decay,
                            at::ScalarType projected) const {
  at::Tensor reported = log_decay.detach();
  if (call.context.convention.departures.closed_bins) {
    reported = LogOfRounded(reported, at::promote_types(projected, at::kFloat));
  }
  Transition transition;
  transition.kind = ScalarPerUnit{reported, spec_.head_width * spec_.order};
  transition.constant = spec_.time_invariant;
  transition.first_step = spec_.time_invariant ? 0 : call.state.position;
  transition.noise_floor = RoundingNoise(projected);
  return call.Report(kMamba2Mixer, UnitKind::kHead, std::move(transition));
}

absl::Status Mamba2::ReportDeparting(const LayerCall& call, const at::Tensor& x) const {
  if (spec_.time_invariant || !call.Wants(kMamba2Mixer)) return absl::OkStatus();
  const auto steps = [&](const at::Tensor& rows) {
    return rows.narrow(0, spec_.projection_rows() - spec_.step_rows(), spec_.step_rows());
  };
  const at::Tensor weight = steps(Weight(call, "in_proj.weight"));
  const at::Tensor dt_raw =
      spec_.input_bias ? at::linear(x, weight, steps(Weight(call, "in_proj.bias"))) : at::linear(x, weight);
  return Report(call, LogDecay(call, StepSizes(call, dt_raw)), dt_raw.scalar_type());
}

// One for each row of the projection; a gated MLP's have none.
at::Tensor Mamba2::Multipliers(const at::Tensor& projected) const {
  std::vector<double> values(2 * spec_.gated_mlp, 1);
  const int64_t bc = spec_.groups * spec_.order;
  const int64_t sizes[] = {spec_.gate ? spec_.inner() : 0, spec_.inner(), bc, bc, spec_.step_rows()};
  for (size_t part = 0; part < spec_.multipliers.size(); ++part) {
    values.insert(values.end(), sizes[part], spec_.multipliers[part]);
  }
  return CopyOn(projected.device(), at::tensor(values, at::kDouble).to(projected.scalar_type()));
}

at::Tensor Mamba2::StepSizes(const LayerCall& call, const at::Tensor& dt_raw) const {
  const auto type = at::promote_types(dt_raw.scalar_type(), at::kFloat);
  const at::Tensor dt = at::softplus(dt_raw.to(type) + Weight(call, "dt_bias"), 1, 20);
  return spec_.dt_min > 0 || std::isfinite(spec_.dt_max) ? at::clamp(dt, spec_.dt_min, spec_.dt_max) : dt;
}

at::Tensor Mamba2::LogDecay(const LayerCall& call, const at::Tensor& dt) const {
  if (!spec_.time_invariant) return dt * -at::exp(Weight(call, "A_log"));
  const at::Tensor beta = Weight(call, "beta").to(dt.scalar_type()).view({1, 1, -1});
  return beta * -at::softplus(Weight(call, "A").to(dt.scalar_type()));
}

Mamba2::Scanned Mamba2::Scan(const LayerCall& call, const at::Tensor& xbc, const at::Tensor& dt_raw) const {
  const auto type = at::promote_types(xbc.scalar_type(), at::kFloat);
  // As the reference's kernels do, products of bfloat16 are left to matrix units, which sum in float32.
  const bool narrow = xbc.scalar_type() == at::kBFloat16 && SsdGoesByBlocks(xbc, spec_.heads) &&
                      !spec_.time_invariant && (spec_.taps == 0 || ConvolvesInOnePass(xbc, spec_.taps));
  at::Tensor mixed = narrow ? xbc : xbc.to(type);
  if (spec_.taps > 0) mixed = ShortConvolution(call, Name("conv1d"), mixed, /*silu=*/true);
  at::Tensor dt = StepSizes(call, dt_raw);
  const at::Tensor log_decay = LogDecay(call, dt);

  const int64_t bc = spec_.groups * spec_.order;
  const std::vector<at::Tensor> parts = mixed.split_with_sizes({spec_.inner(), bc, bc}, -1);
  const at::Tensor x = parts[0].unflatten(-1, {spec_.heads, spec_.head_width});
  at::Tensor b = parts[1];
  if (spec_.time_invariant) {
    b = b * dt.repeat_interleave(bc / spec_.heads, -1);
    dt = Weight(call, "beta").to(type).view({1, 1, -1}).expand(dt.sizes());
  }
  at::Tensor& state = State(call, "ssm");
  if (!state.defined() && spec_.learned_start) {
    state = Weight(call, "init_states").to(type).expand({x.size(0), -1, -1, -1});
  }
  const SsdOutput scanned =
      Ssd({x, dt, log_decay.expand(dt.sizes()), b.unflatten(-1, {spec_.groups, spec_.order}),
           parts[2].unflatten(-1, {spec_.groups, spec_.order}), state, Weight(call, "D")});
  state = scanned.final_state;
  return {scanned.y.flatten(-2), log_decay};
}

at::Tensor Mamba2::Gated(const LayerCall& call, const at::Tensor& y, const at::Tensor& z) const {
  if (spec_.norm == Mamba2Spec::Norm::kNone) {
    const auto type = at::promote_types(y.scalar_type(), at::kFloat);
    return (y.to(type) * at::silu(z.to(type))).to(z.scalar_type());
  }
  return GatedRmsNorm(y, z, Weight(call, "norm.weight"), spec_.norm_eps, spec_.norm_groups,
                      spec_.norm == Mamba2Spec::Norm::kBeforeGate);
}

std::vector<MixerDescription> Mamba2::Mixers() const {
  return {{std::string(kMamba2Mixer), UnitKind::kHead, spec_.heads, 1, spec_.head_width * spec_.order,
           spec_.time_invariant}};
}

double Mamba2::ExtraOperations() const {
  const auto heads = static_cast<double>(spec_.heads), inner = static_cast<double>(spec_.inner());
  // The passes over each element of the decay matrix and of the channels cost as much as some 300 operations
  // of a matrix product (measured on a CPU).
  return 2 * inner * static_cast<double>(2 * spec_.order + kSsdBlock) +
         300 * (heads * kSsdBlock + inner + static_cast<double>(spec_.conv_rows()));
}

}  // namespace eigsvc
