#include "models/mixers/linear_attention.h"

#include <cmath>

#include "ATen/TensorOperators.h"
#include "ATen/ops/complex.h"
#include "ATen/ops/log_sigmoid.h"
#include "ATen/ops/promote_types.h"
#include "ATen/ops/tensor.h"
#include "models/base/status_macros.h"
#include "models/layers/gated_linear_attention.h"
#include "models/layers/mlp.h"
#include "models/layers/ssd.h"
#include "models/tensor/host_copy.h"
#include "models/transition/noise_floor.h"

namespace eigsvc {

LinearAttentionMixer::LinearAttentionMixer(std::string name, LinearAttentionSpec spec)
    : Module(std::move(name)),
      spec_(std::move(spec)),
      output_{spec_.heads, spec_.value_size, Name(spec_.norm), spec_.affine, spec_.norm_eps} {}

ConvolvedProjectionSpec LinearAttentionMixer::Projection(int64_t size) const {
  return {spec_.width, size, spec_.taps, spec_.convolution_bias,
          spec_.taps > 0 ? Activation::kSilu : Activation::kIdentity};
}

void LinearAttentionMixer::Plan(const WeightPlanner& planner) const {
  const int64_t keys = spec_.groups * spec_.key_size, values = spec_.heads * spec_.value_size;
  PlanConvolvedProjection(planner, Name("q"), Projection(spec_.heads * spec_.key_size));
  PlanConvolvedProjection(planner, Name("k"), Projection(keys));
  PlanConvolvedProjection(planner, Name("v"), Projection(spec_.groups * spec_.value_size));
  if (spec_.decay == LinearAttentionSpec::Decay::kPerDimension) {
    planner.Linear(Name("gk_proj.0"), spec_.gate_rank, spec_.width, /*bias=*/false);
    planner.Linear(Name("gk_proj.1"), keys, spec_.gate_rank, /*bias=*/true);
  }
  if (spec_.gated) planner.Linear(Name("g_proj"), values, spec_.width, /*bias=*/false);
  PlanHeadNorm(planner, output_);
  planner.Linear(Name("o_proj"), spec_.width, values, /*bias=*/false);
}

// log λ in at least float32: [B,T,H] or, a key dimension, [B,T,H,K].
at::Tensor LinearAttentionMixer::LogDecay(const LayerCall& call, const at::Tensor& x,
                                          at::ScalarType type) const {
  if (spec_.decay == LinearAttentionSpec::Decay::kFixed) {
    return CopyOn(x.device(), at::tensor(spec_.log_decays, type)).expand({x.size(0), x.size(1), spec_.heads});
  }
  const at::Tensor logits = Linear(call, "gk_proj.1", Linear(call, "gk_proj.0", x));
  at::Tensor log_decay = at::log_sigmoid(logits.to(type)) / spec_.gate_normalizer;
  if (spec_.least_log_decay) log_decay = log_decay.clamp_min(*spec_.least_log_decay);
  return SharedHeads(log_decay.unflatten(-1, {spec_.groups, spec_.key_size}), spec_.heads);
}

absl::StatusOr<at::Tensor> LinearAttentionMixer::Run(const LayerCall& call, const at::Tensor& x) const {
  const auto type = at::promote_types(x.scalar_type(), at::kFloat);
  const auto projected = [&](const char* name, int64_t heads, int64_t size) {
    return ConvolvedProjection(call, Name(name), Projection(heads * size), x).unflatten(-1, {heads, size});
  };
  at::Tensor q = Activate(spec_.feature_map, projected("q", spec_.heads, spec_.key_size));
  at::Tensor k = Activate(spec_.feature_map, projected("k", spec_.groups, spec_.key_size));
  if (spec_.rotary) {
    q = spec_.rotary->Turn(q, call.state.position, call.state.length);
    k = spec_.rotary->Turn(k, call.state.position, call.state.length);
  }
  const double scale = spec_.scale != 0 ? spec_.scale : 1 / std::sqrt(static_cast<double>(spec_.key_size));
  q = q.to(type) * scale;
  k = SharedHeads(k.to(type), spec_.heads);
  const at::Tensor v = SharedHeads(projected("v", spec_.groups, spec_.value_size).to(type), spec_.heads);
  const at::Tensor log_decay = LogDecay(call, x, type);
  if (call.Wants(spec_.mixer)) EIGSVC_RETURN_IF_ERROR(Report(call, log_decay, x.scalar_type()));

  at::Tensor& kept = State(call, "state");
  at::Tensor o;
  if (spec_.decay == LinearAttentionSpec::Decay::kPerDimension) {
    const LinearAttentionOutput output = GatedLinearAttention({q, k, v, log_decay, {}, kept});
    o = output.o;
    kept = output.final_state;
  } else {
    const SsdOutput output = Ssd({v, {}, log_decay, k, q, kept});
    o = output.y;
    kept = output.final_state;
  }
  at::Tensor normed = HeadNorm(call, output_, o, x.scalar_type());
  if (spec_.gated) normed = normed * Activate(spec_.gate_activation, Linear(call, "g_proj", x));
  return Linear(call, "o_proj", normed);
}

absl::Status LinearAttentionMixer::Report(const LayerCall& call, const at::Tensor& log_decay,
                                          at::ScalarType dtype) const {
  Transition transition;
  transition.first_step = call.state.position;
  transition.noise_floor = RoundingNoise(dtype);
  if (spec_.decay == LinearAttentionSpec::Decay::kPerDimension) {
    Diagonal kind;
    kind.values = log_decay.detach();
    kind.discretization = Discretization::kExp;
    kind.multiplicity = spec_.value_size;
    transition.kind = std::move(kind);
  } else {
    if (call.state.position > 0) return absl::OkStatus();
    transition.constant = true;
    const at::Tensor once = log_decay.narrow(0, 0, 1).narrow(1, 0, 1);  // [1,1,H]
    if (spec_.rotary && call.context.convention.rotation == Rotation::kState) {
      // γ·e^{±iθ} of each pair of dimensions that turns by θ a step.
      const at::Tensor angles = spec_.rotary->Frequencies(call.state.length).to(once.device(), at::kDouble);
      Diagonal kind;
      kind.values =
          at::complex(once.to(at::kDouble).unsqueeze(-1).expand({1, 1, spec_.heads, angles.numel()}),
                      angles.expand({1, 1, spec_.heads, angles.numel()}));
      kind.discretization = Discretization::kExp;
      kind.conjugate_pairs = true;
      kind.multiplicity = spec_.value_size;
      transition.kind = std::move(kind);
    } else {
      transition.kind = ScalarPerUnit{once, spec_.key_size * spec_.value_size};
    }
  }
  return call.Report(spec_.mixer, UnitKind::kHead, std::move(transition));
}

std::vector<MixerDescription> LinearAttentionMixer::Mixers() const {
  const bool fixed = spec_.decay == LinearAttentionSpec::Decay::kFixed;
  return {{spec_.mixer, UnitKind::kHead, spec_.heads, fixed ? 1 : spec_.key_size,
           fixed ? spec_.key_size * spec_.value_size : spec_.value_size, fixed,
           fixed ? TransitionForm::kScalar : TransitionForm::kDiagonal}};
}

double LinearAttentionMixer::ExtraOperations() const {
  // Products inside a block of 64 steps, and the state's update and reading.
  const auto k = static_cast<double>(spec_.key_size), v = static_cast<double>(spec_.value_size);
  return 2 * static_cast<double>(spec_.heads) * (64 * (k + v) + 2 * k * v);
}

}  // namespace eigsvc
