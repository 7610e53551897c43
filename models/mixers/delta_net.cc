#include "models/mixers/delta_net.h"

#include <cmath>

#include "ATen/TensorOperators.h"
#include "ATen/ops/exp.h"
#include "ATen/ops/ones.h"
#include "ATen/ops/promote_types.h"
#include "ATen/ops/rsqrt.h"
#include "ATen/ops/sigmoid.h"
#include "ATen/ops/silu.h"
#include "ATen/ops/softplus.h"
#include "ATen/ops/zeros.h"
#include "models/base/status_macros.h"
#include "models/mixers/delta_rule.h"

namespace eigsvc {

at::Tensor NormalizedKeys(const at::Tensor& x) {
  return x * at::rsqrt(x.square().sum(-1, /*keepdim=*/true) + 1e-6);
}

DeltaNet::DeltaNet(std::string name, DeltaNetSpec spec)
    : Module(std::move(name)),
      spec_(std::move(spec)),
      output_{spec_.value_heads, spec_.value_size, Name("o_norm"), /*affine=*/true, spec_.norm_eps} {}

// A SiLU is a part of the convolution; other activations follow the cut into heads, which is the same.
ConvolvedProjectionSpec DeltaNet::Keys(int64_t size) const {
  return {spec_.width, size, spec_.taps, spec_.convolution_bias, spec_.key_activation};
}
ConvolvedProjectionSpec DeltaNet::Values() const {
  return {spec_.width, spec_.writes * spec_.value_heads * spec_.value_size, spec_.taps,
          spec_.convolution_bias, Activation::kSilu};
}

void DeltaNet::Plan(const WeightPlanner& planner) const {
  const int64_t keys = spec_.heads * spec_.key_size, values = spec_.value_heads * spec_.value_size;
  PlanConvolvedProjection(planner, Name("q"), Keys(keys));
  PlanConvolvedProjection(planner, Name("k"), Keys(spec_.writes * keys));
  PlanConvolvedProjection(planner, Name("v"), Values());
  if (spec_.has_beta) planner.Linear(Name("b_proj"), spec_.writes * spec_.value_heads, spec_.width, false);
  if (spec_.decay != DeltaNetSpec::Decay::kNone) {
    int64_t gates = spec_.value_heads;
    if (spec_.decay == DeltaNetSpec::Decay::kPerHead) {
      planner.Linear(Name("a_proj"), gates, spec_.width, /*bias=*/false);
    } else {
      gates *= spec_.key_size;
      planner.Linear(Name("f_proj.0"), spec_.value_size, spec_.width, /*bias=*/false);
      planner.Linear(Name("f_proj.1"), gates, spec_.value_size, /*bias=*/false);
    }
    const auto shape = [](const std::vector<int64_t>& stored, int64_t size) {
      return stored.empty() ? std::vector<int64_t>{size} : stored;
    };
    const Draw a_log = [](Random& random) { return std::log(1 + 15 * random.Unit()); };
    planner.Add(Name("A_log"), shape(spec_.a_log_shape, spec_.value_heads), a_log).keep_float32 = true;
    planner.Add(Name("dt_bias"), shape(spec_.dt_bias_shape, gates), DrawStepBias(0.001, 0.1)).keep_float32 =
        true;
  }
  if (spec_.gate == DeltaNetSpec::Gate::kSilu)
    planner.Linear(Name("g_proj"), values, spec_.width, /*bias=*/false);
  if (spec_.gate == DeltaNetSpec::Gate::kLowRankSigmoid) {
    planner.Linear(Name("g_proj.0"), spec_.value_size, spec_.width, /*bias=*/false);
    planner.Linear(Name("g_proj.1"), values, spec_.value_size, /*bias=*/true);
  }
  PlanHeadNorm(planner, output_);
  planner.Linear(Name("o_proj"), spec_.width, values, /*bias=*/false);
}

// [B,T,writes,value_heads,key_size].
at::Tensor DeltaNet::QueriesOrKeys(const LayerCall& call, const char* name, int64_t writes,
                                   const at::Tensor& x, at::ScalarType type) const {
  const at::Tensor projected =
      ConvolvedProjection(call, Name(name), Keys(writes * spec_.heads * spec_.key_size), x)
          .to(type)
          .unflatten(-1, {writes, spec_.heads, spec_.key_size});
  const at::Tensor normed =
      spec_.sum_norm ? projected / projected.sum(-1, /*keepdim=*/true) : NormalizedKeys(projected);
  return SharedHeads(normed.flatten(0, 1), spec_.value_heads).unflatten(0, {x.size(0), x.size(1)});
}

// log λ in at least float32: [B,T,H,1] or [B,T,H,K].
at::Tensor DeltaNet::LogDecay(const LayerCall& call, const at::Tensor& x, at::ScalarType type) const {
  if (spec_.decay == DeltaNetSpec::Decay::kNone) {
    return at::zeros({x.size(0), x.size(1), spec_.value_heads, 1}, x.options().dtype(type));
  }
  const at::Tensor logits = spec_.decay == DeltaNetSpec::Decay::kPerHead
                                ? Linear(call, "a_proj", x)
                                : Linear(call, "f_proj.1", Linear(call, "f_proj.0", x));
  const at::Tensor shifted =
      (logits.to(type) + Weight(call, "dt_bias").reshape({-1})).unflatten(-1, {spec_.value_heads, -1});
  const at::Tensor rate = at::exp(Weight(call, "A_log").reshape({-1, 1}));
  if (spec_.lower_bound) return at::sigmoid(rate * shifted) * *spec_.lower_bound;
  return -rate * at::softplus(shifted);
}

absl::StatusOr<at::Tensor> DeltaNet::Run(const LayerCall& call, const at::Tensor& x) const {
  const auto type = at::promote_types(x.scalar_type(), at::kFloat);
  const at::Tensor q = QueriesOrKeys(call, "q", 1, x, type),
                   k = QueriesOrKeys(call, "k", spec_.writes, x, type);
  const at::Tensor v = ConvolvedProjection(call, Name("v"), Values(), x)
                           .to(type)
                           .unflatten(-1, {spec_.writes, spec_.value_heads, spec_.value_size});
  at::Tensor beta = spec_.has_beta ? at::sigmoid(Linear(call, "b_proj", x).to(type))
                                         .unflatten(-1, {spec_.writes, spec_.value_heads, 1})
                                   : at::ones({1}, v.options());
  if (spec_.double_beta) beta = beta * 2;
  DeltaWrites input;
  input.q = q.squeeze(2) / std::sqrt(static_cast<double>(spec_.key_size));
  input.k = k;
  input.v = v;
  input.beta = beta.expand({x.size(0), x.size(1), spec_.writes, spec_.value_heads, 1});
  input.log_decay = LogDecay(call, x, type);
  EIGSVC_ASSIGN_OR_RETURN(const at::Tensor o,
                          RunDeltaWrites(call, spec_.mixer, State(call, "state"), input, x.scalar_type()));
  at::Tensor normed = HeadNorm(call, output_, o, x.scalar_type());
  if (spec_.gate == DeltaNetSpec::Gate::kSilu) normed = normed * at::silu(Linear(call, "g_proj", x));
  if (spec_.gate == DeltaNetSpec::Gate::kLowRankSigmoid) {
    normed = normed * at::sigmoid(Linear(call, "g_proj.1", Linear(call, "g_proj.0", x)));
  }
  return Linear(call, "o_proj", normed);
}

std::vector<MixerDescription> DeltaNet::Mixers() const {
  return {DescribeDeltaRule(spec_.mixer, spec_.value_heads, spec_.key_size, spec_.value_size, spec_.writes,
                            spec_.decay != DeltaNetSpec::Decay::kPerDimension)};
}

double DeltaNet::ExtraOperations() const {
  return static_cast<double>(spec_.writes) *
         DeltaRuleOperations(spec_.value_heads, spec_.key_size, spec_.value_size);
}

}  // namespace eigsvc
