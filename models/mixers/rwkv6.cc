#include "models/mixers/rwkv6.h"

#include <cmath>

#include "ATen/TensorOperators.h"
#include "ATen/ops/addcmul.h"
#include "ATen/ops/exp.h"
#include "ATen/ops/matmul.h"
#include "ATen/ops/promote_types.h"
#include "ATen/ops/silu.h"
#include "ATen/ops/tanh.h"
#include "models/base/status_macros.h"
#include "models/layers/gated_linear_attention.h"
#include "models/layers/norm.h"
#include "models/layers/token_shift.h"
#include "models/mixers/rwkv.h"
#include "models/transition/noise_floor.h"

namespace eigsvc {
namespace {

constexpr absl::string_view kShares = "wkvrg", kFlaShares = "rwkvg";

}  // namespace

// As RWKV-LM initialises it (RWKV-v5/src/model.py), but for output projections, which are small instead of
// zero: layers that are the identity would show nothing.
void Rwkv6TimeMix::Plan(const WeightPlanner& planner) const {
  const Rwkv6Spec& spec = spec_;
  const int64_t width = spec.width, keys = spec.heads * spec.key_size, values = spec.heads * spec.value_size;
  const double to_one =
      spec.layers > 1 ? static_cast<double>(spec.layer) / static_cast<double>(spec.layers - 1) : 0;
  const auto shift = [spec, to_one](char letter, double n) {
    const double power = letter == 'r' || letter == 'g' ? 0.5 : 1;
    return FreshShift(n, spec.width, power, spec.layer, spec.layers) - (letter == 'v' ? 0.3 * to_one : 0);
  };
  const auto ramp = [keys](double n) { return keys > 1 ? n / static_cast<double>(keys - 1) : 0; };

  PlanVector(planner, Name("time_maa_x"), width, spec.linear_layout, /*keep_float32=*/false,
             [shift](double n) { return shift('x', n); });
  if (spec.linear_layout) {
    planner.Add(Name("x_bias"), {5, width}, nullptr).draw_tensor = DrawByIndex([shift, width](int64_t index) {
      return shift(kFlaShares[index / width], static_cast<double>(index % width));
    });
  } else {
    for (const char letter : kShares) {
      PlanVector(planner, Name("time_maa_") + letter, width, /*linear_layout=*/false, /*keep_float32=*/false,
                 [shift, letter](double n) { return shift(letter, n); });
    }
  }
  planner.Add(Name("time_maa_w1"), {width, 5 * spec.mix_rank}, DrawConstant(0)).transposed =
      spec.linear_layout;
  planner
      .Add(Name("time_maa_w2"),
           spec.linear_layout ? std::vector<int64_t>{5 * spec.mix_rank, width}
                              : std::vector<int64_t>{5, spec.mix_rank, width},
           DrawUniform(-0.01, 0.01))
      .transposed = spec.linear_layout;
  PlanVector(planner, Name("time_decay"), keys, spec.linear_layout, /*keep_float32=*/true,
             [=](double n) { return -6 + 5 * std::pow(ramp(n), 0.7 + 1.3 * to_one); });
  const auto decay_map = [&](const char* name, std::vector<int64_t> shape, const Draw& draw) {
    WeightSpec& added = planner.Add(Name(name), std::move(shape), draw);
    added.transposed = spec.linear_layout;
    added.keep_float32 = true;
  };
  decay_map("time_decay_w1", {width, spec.decay_rank}, DrawConstant(0));
  decay_map("time_decay_w2", {spec.decay_rank, keys}, DrawUniform(-0.01, 0.01));
  planner.Add(Name("time_faaaa"), {spec.heads, spec.key_size}, nullptr).draw_tensor =
      DrawByIndex([=](int64_t index) {
        return to_one * (1 - ramp(static_cast<double>(index))) +
               0.1 * static_cast<double>((index + 1) % 3 - 1);
      });
  planner.Add(Name("receptance.weight"), {keys, width}, WithinRoot(1, width));
  planner.Add(Name("key.weight"), {keys, width}, WithinRoot(0.1, width));
  planner.Add(Name("value.weight"), {values, width}, WithinRoot(1, width));
  planner.Add(Name("gate.weight"), {values, width}, WithinRoot(0.1, width));
  planner.Add(Name("output.weight"), {width, values}, OntoResidual(values, spec.layers));
  const double gain = std::pow(static_cast<double>(spec.layer + 1) / static_cast<double>(spec.layers), 0.7);
  planner.Add(Name("ln_x.weight"), {values}, DrawConstant(gain));
  planner.Add(Name("ln_x.bias"), {values}, DrawConstant(0));
}

absl::StatusOr<at::Tensor> Rwkv6TimeMix::Run(const LayerCall& call, const at::Tensor& x) const {
  const auto type = at::promote_types(x.scalar_type(), at::kFloat);
  const at::Tensor change = TokenShift(x, State(call, "shift")) - x;
  const at::Tensor inner =
      at::tanh(at::matmul(at::addcmul(x, change, Weight(call, "time_maa_x")), Weight(call, "time_maa_w1")));
  const at::Tensor shares = Weight(call, "time_maa_w2").reshape({5, spec_.mix_rank, spec_.width});
  const auto mixed = [&](char letter) {
    const auto i = static_cast<int64_t>((spec_.linear_layout ? kFlaShares : kShares).find(letter));
    const at::Tensor fixed =
        spec_.linear_layout ? Weight(call, "x_bias")[i] : Weight(call, std::string("time_maa_") + letter);
    return at::addcmul(x, change,
                       fixed + at::matmul(inner.narrow(-1, i * spec_.mix_rank, spec_.mix_rank), shares[i]));
  };
  const auto heads = [&](const at::Tensor& projected, int64_t size) {
    return projected.to(type).unflatten(-1, {spec_.heads, size});
  };
  const at::Tensor& down = Weight(call, "time_decay_w1");
  const at::Tensor logits = at::matmul(at::tanh(at::matmul(mixed('w').to(down.scalar_type()), down)),
                                       Weight(call, "time_decay_w2"));
  const at::Tensor log_decay =
      heads(-at::exp(Weight(call, "time_decay").reshape({-1}) + logits), spec_.key_size);
  if (call.Wants(kRwkv6Mixer)) EIGSVC_RETURN_IF_ERROR(Report(call, log_decay, x.scalar_type()));

  GatedLinearAttentionInput input;
  input.q = heads(Linear(call, "receptance", mixed('r')), spec_.key_size);
  input.k = heads(Linear(call, "key", mixed('k')), spec_.key_size);
  input.v = heads(Linear(call, "value", mixed('v')), spec_.value_size);
  input.log_decay = log_decay;
  input.bonus = Weight(call, "time_faaaa").to(type);
  at::Tensor& kept = State(call, "state");
  input.initial_state = kept;
  const LinearAttentionOutput output = GatedLinearAttention(input);
  kept = output.final_state;
  const at::Tensor normed =
      GroupNorm(output.o, Weight(call, "ln_x.weight"), Weight(call, "ln_x.bias"), spec_.norm_eps);
  return Linear(call, "output", normed * at::silu(Linear(call, "gate", mixed('g'))));
}

absl::Status Rwkv6TimeMix::Report(const LayerCall& call, const at::Tensor& log_decay,
                                  at::ScalarType dtype) const {
  Diagonal kind;
  kind.values = log_decay.detach();
  kind.discretization = Discretization::kExp;
  kind.multiplicity = spec_.value_size;
  Transition transition;
  transition.kind = std::move(kind);
  transition.first_step = call.state.position;
  transition.noise_floor = RoundingNoise(dtype);
  return call.Report(kRwkv6Mixer, UnitKind::kHead, std::move(transition));
}

std::vector<MixerDescription> Rwkv6TimeMix::Mixers() const {
  return {{std::string(kRwkv6Mixer), UnitKind::kHead, spec_.heads, spec_.key_size, spec_.value_size,
           /*constant=*/false, TransitionForm::kDiagonal}};
}

double Rwkv6TimeMix::ExtraOperations() const {
  // Products inside a block of 64 steps, and the state's update and reading.
  const auto k = static_cast<double>(spec_.key_size), v = static_cast<double>(spec_.value_size);
  return 2 * static_cast<double>(spec_.heads) * (64 * (k + v) + 2 * k * v);
}

}  // namespace eigsvc
