#include "models/mixers/rwkv7.h"

#include <cmath>
#include <optional>

#include "ATen/TensorOperators.h"
#include "ATen/ops/addcmul.h"
#include "ATen/ops/linalg_vector_norm.h"
#include "ATen/ops/matmul.h"
#include "ATen/ops/promote_types.h"
#include "ATen/ops/relu.h"
#include "ATen/ops/rsqrt.h"
#include "ATen/ops/sigmoid.h"
#include "ATen/ops/tanh.h"
#include "absl/strings/str_cat.h"
#include "models/base/status_macros.h"
#include "models/layers/norm.h"
#include "models/layers/token_shift.h"
#include "models/mixers/delta_rule.h"
#include "models/mixers/rwkv.h"

namespace eigsvc {
namespace {

constexpr double kShiftPowers[] = {0.2, 0.9, 0.7, 0.7, 0.9, 0.2};  // of r, w, k, v, a, g
constexpr char kShifts[] = "rwkvag";

// The initialiser's functions of a channel: RWKV-LM's train_temp/src/model.py.
struct Fresh {
  double channels, head, layer, layers;

  double ToAlmostZero() const { return 1 - layer / layers; }
  double Linear(double n) const { return channels > 1 ? n / (channels - 1) - 0.5 : 0; }
  double Zigzag(double n) const {
    if (head < 2) return 0;
    const double z = (std::fmod(n, head) - (head - 1) / 2) / ((head - 1) / 2);
    return z * std::abs(z);
  }
  double Decay(double n) const {
    const double to_one = layers > 1 ? layer / (layers - 1) : 0;
    const double ramp = channels > 1 ? n / (channels - 1) : 0;
    return -6 + 6 * std::pow(ramp, 1 + std::pow(to_one, 0.3)) + 0.5 + 2.5 * Zigzag(n);
  }
  double Shift(double n, double power) const { return 1 - std::pow(n / channels, power * ToAlmostZero()); }
};

}  // namespace

// Fresh output projections are small instead of zero, as in flash-linear-attention: layers that are the
// identity would show nothing.
void Rwkv7TimeMix::Plan(const WeightPlanner& planner) const {
  const int64_t width = spec_.width, size = spec_.heads * spec_.head_size;
  const Fresh fresh{static_cast<double>(width), static_cast<double>(spec_.head_size),
                    static_cast<double>(spec_.layer), static_cast<double>(spec_.layers)};
  if (spec_.fused_shifts) {
    planner.Add(Name("x_x"), {6, width}, nullptr).draw_tensor = DrawByIndex([fresh, width](int64_t index) {
      return fresh.Shift(static_cast<double>(index % width), kShiftPowers[index / width]);
    });
  } else {
    for (int i = 0; i < 6; ++i) {
      PlanVector(planner, Name(absl::StrCat("x_", std::string(1, kShifts[i]))), width,
                 /*linear_layout=*/false,
                 /*keep_float32=*/false, [=](double n) { return fresh.Shift(n, kShiftPowers[i]); });
    }
  }
  const auto low_rank = [&](const std::string& letter, int64_t rank, bool keep_float32) {
    WeightSpec& down = planner.Add(Name(letter + "1"), {width, rank}, DrawConstant(0));
    down.transposed = spec_.linear_layout;
    down.keep_float32 = keep_float32;
    WeightSpec& up =
        planner.Add(Name(letter + "2"), {rank, size}, DrawNormal(0.1 / std::sqrt(static_cast<double>(size))));
    up.transposed = spec_.linear_layout;
    up.keep_float32 = keep_float32;
  };
  const auto vector = [&](const std::string& rest, bool keep_float32, const ByChannel& value) {
    PlanVector(planner, Name(rest), size, spec_.linear_layout, keep_float32, value);
  };
  low_rank("w", spec_.decay_rank, true);
  vector("w0", true, [=](double n) { return fresh.Decay(n); });
  low_rank("a", spec_.rate_rank, true);
  vector("a0", true, [=](double n) { return -0.19 + 0.3 * fresh.Zigzag(n) + 0.4 * fresh.Linear(n); });
  if (spec_.layer > 0) {
    low_rank("v", spec_.value_rank, false);
    vector("v0", false, [=](double n) { return 0.73 - 0.4 * fresh.Linear(n); });
  }
  low_rank("g", spec_.gate_rank, false);
  vector("k_k", true, [=](double n) { return 0.71 - 0.1 * fresh.Linear(n); });
  vector("k_a", false, [](double) { return 1.02; });
  planner.Add(Name("r_k"), {spec_.heads, spec_.head_size}, DrawConstant(-0.04));
  planner.Add(Name("receptance.weight"), {size, width}, WithinRoot(0.5, width));
  planner.Add(Name("key.weight"), {size, width}, WithinRoot(0.05, width));
  planner.Add(Name("value.weight"), {size, width}, WithinRoot(0.5, width));
  planner.Add(Name("output.weight"), {width, size}, OntoResidual(size, spec_.layers));
  if (spec_.output_bias) planner.Add(Name("output.bias"), {width}, DrawConstant(0));
  const double gain = std::pow((fresh.layer + 1) / fresh.layers, 0.7);
  planner.Add(Name("ln_x.weight"), {size}, DrawConstant(gain));
  planner.Add(Name("ln_x.bias"), {size}, DrawConstant(0));
}

absl::StatusOr<at::Tensor> Rwkv7TimeMix::Run(const LayerCall& call, const at::Tensor& x) const {
  const auto type = at::promote_types(x.scalar_type(), at::kFloat);
  const at::Tensor change = TokenShift(x, State(call, "shift")) - x;
  const auto mixed = [&](int i) {
    return at::addcmul(x, change,
                       spec_.fused_shifts ? Weight(call, "x_x")[i]
                                          : Weight(call, absl::StrCat("x_", std::string(1, kShifts[i]))));
  };
  // In the weights' own type, or a wider one.
  const auto low_rank = [&](const std::string& letter, const at::Tensor& input,
                            at::Tensor (*between)(const at::Tensor&),
                            std::optional<at::ScalarType> wider = std::nullopt) {
    const at::Tensor &down = Weight(call, letter + "1"), &up = Weight(call, letter + "2");
    const at::ScalarType in = wider.value_or(down.scalar_type());
    const at::Tensor inner = at::matmul(input.to(in), down.to(in));
    return at::matmul(between ? between(inner) : inner, up.to(in));
  };
  const auto heads = [&](const at::Tensor& projected) {
    return projected.to(type).unflatten(-1, {spec_.heads, spec_.head_size});
  };
  const auto row = [&](absl::string_view rest) { return Weight(call, rest).reshape({-1}); };

  const at::Tensor xk = mixed(2), xv = mixed(3);
  const at::Tensor key = Linear(call, "key", xk).to(type);
  at::Tensor value = Linear(call, "value", xv);
  if (spec_.layer == 0) {
    call.beside = value;
  } else {
    const at::Tensor share = at::sigmoid(row("v0") + low_rank("v", xv, nullptr));
    value = at::addcmul(value, call.beside.to(value.scalar_type()) - value, share);
  }
  const at::Tensor rate = at::sigmoid(row("a0") + low_rank("a", mixed(4), nullptr));
  const at::Tensor gate = low_rank("g", mixed(5), at::sigmoid);

  DeltaRuleInput input;
  // log w = -e^{-1/2}·σ(...): what exp(-exp(-softplus(-y) - 1/2)) comes to.
  // In float64, as the state multiplies what every step's decay is off by.
  input.log_decay =
      heads(at::sigmoid(row("w0") + low_rank("w", mixed(1), at::tanh, at::kDouble)) * -std::exp(-0.5));
  input.w = heads(key * row("k_k"));
  if (spec_.key_eps > 0) {
    input.w = input.w * at::rsqrt(input.w.square().sum(-1, /*keepdim=*/true) + spec_.key_eps);
  } else {
    input.w =
        input.w / at::linalg_vector_norm(input.w, 2, at::IntArrayRef{-1}, /*keepdim=*/true).clamp_min(1e-12);
  }
  input.u = input.w * heads(rate);
  input.q = heads(Linear(call, "receptance", mixed(0)));
  input.k = heads(key * (1 + (rate - 1) * row("k_a")));
  input.v = heads(value);
  EIGSVC_ASSIGN_OR_RETURN(const at::Tensor read,
                          RunDeltaRule(call, kRwkv7Mixer, State(call, "state"), input, x.scalar_type()));

  const at::Tensor normed =
      GroupNorm(read, Weight(call, "ln_x.weight"), Weight(call, "ln_x.bias"), spec_.norm_eps);
  const at::Tensor bonus = (input.q * input.k * Weight(call, "r_k")).sum(-1, /*keepdim=*/true) * input.v;
  return Linear(call, "output", (normed + bonus.flatten(-2).to(normed.scalar_type())) * gate);
}

std::vector<MixerDescription> Rwkv7TimeMix::Mixers() const {
  return {DescribeDeltaRule(std::string(kRwkv7Mixer), spec_.heads, spec_.head_size, spec_.head_size,
                            /*one_decay=*/false)};
}

double Rwkv7TimeMix::ExtraOperations() const {
  return DeltaRuleOperations(spec_.heads, spec_.head_size, spec_.head_size);
}

void Rwkv7ChannelMix::Plan(const WeightPlanner& planner) const {
  const int64_t width = spec_.width, hidden = spec_.hidden;
  const Fresh fresh{static_cast<double>(width), 1, static_cast<double>(spec_.layer),
                    static_cast<double>(spec_.layers)};
  PlanVector(planner, Name("x_k"), width, spec_.linear_layout, /*keep_float32=*/false,
             [=](double n) { return fresh.Shift(n, std::pow(fresh.ToAlmostZero(), 3)); });
  planner.Add(Name("key.weight"), {hidden, width}, WithinRoot(0.5, width));
  planner.Add(Name("value.weight"), {width, hidden}, OntoResidual(hidden, spec_.layers));
}

absl::StatusOr<at::Tensor> Rwkv7ChannelMix::Run(const LayerCall& call, const at::Tensor& x) const {
  const at::Tensor change = TokenShift(x, State(call, "shift")) - x;
  const at::Tensor mixed = at::addcmul(x, change, Weight(call, "x_k"));
  return Linear(call, "value", at::relu(Linear(call, "key", mixed)).square());
}

}  // namespace eigsvc
