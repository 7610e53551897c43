#include "models/mixers/hgrn.h"

#include <cmath>

#include "ATen/TensorOperators.h"
#include "ATen/ops/cumsum.h"
#include "ATen/ops/exp.h"
#include "ATen/ops/expm1.h"
#include "ATen/ops/log.h"
#include "ATen/ops/log1p.h"
#include "ATen/ops/log_sigmoid.h"
#include "ATen/ops/logaddexp.h"
#include "ATen/ops/promote_types.h"
#include "ATen/ops/silu.h"
#include "ATen/ops/softmax.h"
#include "models/base/status_macros.h"
#include "models/layers/diagonal_scan.h"
#include "models/layers/gated_linear_attention.h"
#include "models/transition/noise_floor.h"

namespace eigsvc {
namespace {

ConvolvedProjectionSpec Projection(const HgrnSpec& spec, int64_t size) {
  return {spec.width, size, spec.taps, spec.convolution_bias};
}

// The layer's name for what all layers share.
void PlanLowerBounds(const WeightPlanner& planner, const std::string& name, const HgrnSpec& spec) {
  if (spec.bounded_layers > 0) {
    planner.Add(name, {spec.bounded_layers, spec.size}, DrawConstant(0)).tied_to = kLowerBounds;
  }
}

// log f of the logits [B,T,size], in at least float32.
at::Tensor LogForget(const LayerCall& call, const std::string& bounds, const HgrnSpec& spec,
                     const at::Tensor& logits) {
  const auto type = at::promote_types(logits.scalar_type(), at::kFloat);
  const at::Tensor log_sigmoid = at::log_sigmoid(logits.to(type));
  if (spec.bounded_layers == 0 || spec.layer == 0) return log_sigmoid;
  const at::Tensor shares = at::softmax(call.weights[bounds].to(type), 0);
  const at::Tensor bound = shares.narrow(0, 1, spec.layer).sum(0);
  return at::logaddexp(at::log(bound), at::log1p(-bound) + log_sigmoid);
}

absl::Status ReportForget(const LayerCall& call, absl::string_view mixer, UnitKind unit_kind,
                          const at::Tensor& log_forget, int64_t multiplicity, at::ScalarType dtype) {
  Diagonal kind;
  kind.values = log_forget.detach();
  kind.discretization = Discretization::kExp;
  kind.multiplicity = multiplicity;
  Transition transition;
  transition.kind = std::move(kind);
  transition.first_step = call.state.position;
  transition.noise_floor = RoundingNoise(dtype);
  return call.Report(mixer, unit_kind, std::move(transition));
}

constexpr absl::string_view kHgrnMixer = "hgrn", kHgrn2Mixer = "hgrn2";

}  // namespace

Hgrn::Hgrn(std::string name, HgrnSpec spec)
    : Module(std::move(name)),
      spec_(spec),
      output_{1, spec.size, Name("g_norm"), spec.affine, spec.norm_eps} {}

void Hgrn::Plan(const WeightPlanner& planner) const {
  PlanConvolvedProjection(planner, Name("i"), Projection(spec_, spec_.size));
  PlanConvolvedProjection(planner, Name("f"), Projection(spec_, spec_.size));
  planner.Linear(Name("g_proj"), spec_.size, spec_.width, /*bias=*/false);
  PlanLowerBounds(planner, Name(kLowerBounds), spec_);
  PlanHeadNorm(planner, output_);
  planner.Linear(Name("o_proj"), spec_.width, spec_.size, /*bias=*/false);
}

absl::StatusOr<at::Tensor> Hgrn::Run(const LayerCall& call, const at::Tensor& x) const {
  const auto projection = Projection(spec_, spec_.size);
  const at::Tensor input = ConvolvedProjection(call, Name("i"), projection, x);
  const at::Tensor log_forget =
      LogForget(call, Name(kLowerBounds), spec_, ConvolvedProjection(call, Name("f"), projection, x));
  if (call.Wants(kHgrnMixer)) {
    EIGSVC_RETURN_IF_ERROR(ReportForget(call, kHgrnMixer, UnitKind::kChannel, log_forget.unsqueeze(-1),
                                        /*multiplicity=*/1, x.scalar_type()));
  }
  at::Tensor& kept = State(call, "state");
  const at::Tensor h =
      DiagonalScan(log_forget, at::silu(input.to(log_forget.scalar_type())) * -at::expm1(log_forget), kept);
  kept = h.select(1, h.size(1) - 1).clone();
  return Linear(
      call, "o_proj",
      HeadNorm(call, output_, h.unsqueeze(2), x.scalar_type()) * at::silu(Linear(call, "g_proj", x)));
}

std::vector<MixerDescription> Hgrn::Mixers() const {
  return {{std::string(kHgrnMixer), UnitKind::kChannel, spec_.size, 1, 1, /*constant=*/false,
           TransitionForm::kDiagonal}};
}

// The norm is over all heads at once.
Hgrn2::Hgrn2(std::string name, HgrnSpec spec)
    : Module(std::move(name)),
      spec_(spec),
      output_{1, spec.width, Name("g_norm"), spec.affine, spec.norm_eps} {}

void Hgrn2::Plan(const WeightPlanner& planner) const {
  PlanConvolvedProjection(planner, Name("q"), Projection(spec_, spec_.size));
  PlanConvolvedProjection(planner, Name("f"), Projection(spec_, spec_.size));
  PlanConvolvedProjection(planner, Name("i"), Projection(spec_, spec_.width));
  PlanLowerBounds(planner, Name(kLowerBounds), spec_);
  PlanHeadNorm(planner, output_);
  planner.Linear(Name("o_proj"), spec_.width, spec_.width, /*bias=*/false);
}

absl::StatusOr<at::Tensor> Hgrn2::Run(const LayerCall& call, const at::Tensor& x) const {
  const auto projected = [&](const char* name, int64_t size) {
    return ConvolvedProjection(call, Name(name), Projection(spec_, size), x);
  };
  const at::Tensor log_forget =
      LogForget(call, Name(kLowerBounds), spec_, projected("f", spec_.size)).unflatten(-1, {spec_.heads, -1});
  const auto type = log_forget.scalar_type();
  if (call.Wants(kHgrn2Mixer)) {
    EIGSVC_RETURN_IF_ERROR(ReportForget(call, kHgrn2Mixer, UnitKind::kHead, log_forget,
                                        spec_.width / spec_.heads, x.scalar_type()));
  }
  GatedLinearAttentionInput input;
  input.q = at::silu(projected("q", spec_.size)).to(type).unflatten(-1, {spec_.heads, -1});
  input.q = input.q / std::sqrt(static_cast<double>(input.q.size(-1)));
  input.k = -at::expm1(log_forget);
  input.v = projected("i", spec_.width).to(type).unflatten(-1, {spec_.heads, -1});
  input.log_decay = log_forget;
  at::Tensor& kept = State(call, "state");
  input.initial_state = kept;
  const LinearAttentionOutput output = GatedLinearAttention(input);
  kept = output.final_state;
  return Linear(call, "o_proj", HeadNorm(call, output_, output.o.flatten(-2).unsqueeze(2), x.scalar_type()));
}

std::vector<MixerDescription> Hgrn2::Mixers() const {
  return {{std::string(kHgrn2Mixer), UnitKind::kHead, spec_.heads, spec_.size / spec_.heads,
           spec_.width / spec_.heads, /*constant=*/false, TransitionForm::kDiagonal}};
}

double Hgrn2::ExtraOperations() const {
  const auto k = static_cast<double>(spec_.size) / static_cast<double>(spec_.heads),
             v = static_cast<double>(spec_.width) / static_cast<double>(spec_.heads);
  return 2 * static_cast<double>(spec_.heads) * (64 * (k + v) + 2 * k * v);
}

}  // namespace eigsvc
