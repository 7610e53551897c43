#include "models/mixers/delta_net.h"

#include <cmath>

#include "ATen/TensorOperators.h"
#include "ATen/core/IListRef.h"
#include "ATen/ops/cat.h"
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
#include "models/mixers/short_convolution.h"

namespace eigsvc {

at::Tensor NormalizedKeys(const at::Tensor& x) {
  return x * at::rsqrt(x.square().sum(-1, /*keepdim=*/true) + 1e-6);
}

DeltaNet::DeltaNet(std::string name, DeltaNetSpec spec)
    : Module(std::move(name)),
      spec_(std::move(spec)),
      output_{spec_.value_heads, spec_.value_size, Name("o_norm"), /*affine=*/true, spec_.norm_eps} {}

// A SiLU is a part of the convolution; other activations follow the cut into heads, which is the same.
ConvolvedProjectionSpec DeltaNet::Keys() const {
  return {spec_.width, spec_.heads * spec_.key_size, spec_.taps, spec_.convolution_bias,
          spec_.key_activation};
}
ConvolvedProjectionSpec DeltaNet::Values() const {
  return {spec_.width, spec_.value_heads * spec_.value_size, spec_.taps, spec_.convolution_bias,
          Activation::kSilu};
}

void DeltaNet::PlanProjections(const WeightPlanner& planner) const {
  const int64_t keys = spec_.heads * spec_.key_size, values = spec_.value_heads * spec_.value_size;
  if (spec_.projection != DeltaNetSpec::Projection::kSeparate)
    PlanShortConvolution(planner, Name("qkv_conv1d"), 2 * keys + values, spec_.taps, spec_.convolution_bias);
  if (spec_.projection == DeltaNetSpec::Projection::kFused) {
    planner.Linear(Name("qkvz_proj"), 2 * keys + 2 * values, spec_.width, /*bias=*/false);
    planner.Linear(Name("ba_proj"), 2 * spec_.value_heads, spec_.width, /*bias=*/false);
    return;
  }
  if (spec_.projection == DeltaNetSpec::Projection::kJoint) {
    planner.Linear(Name("qkv_proj"), 2 * keys + values, spec_.width, /*bias=*/false);
  } else if (spec_.projection == DeltaNetSpec::Projection::kOneConvolution) {
    planner.Linear(Name("q_proj"), keys, spec_.width, /*bias=*/false);
    planner.Linear(Name("k_proj"), keys, spec_.width, /*bias=*/false);
    planner.Linear(Name("v_proj"), values, spec_.width, /*bias=*/false);
  } else {
    PlanConvolvedProjection(planner, Name("q"), Keys());
    PlanConvolvedProjection(planner, Name("k"), Keys());
    PlanConvolvedProjection(planner, Name("v"), Values());
  }
  if (spec_.has_beta) planner.Linear(Name("b_proj"), spec_.value_heads, spec_.width, false);
  if (spec_.decay == DeltaNetSpec::Decay::kPerHead) {
    planner.Linear(Name("a_proj"), spec_.value_heads, spec_.width, /*bias=*/false);
  } else if (spec_.decay == DeltaNetSpec::Decay::kPerDimension) {
    planner.Linear(Name("f_proj.0"), spec_.value_size, spec_.width, /*bias=*/false);
    planner.Linear(Name("f_proj.1"), spec_.value_heads * spec_.key_size, spec_.value_size, /*bias=*/false);
  }
  if (spec_.gate == DeltaNetSpec::Gate::kSilu)
    planner.Linear(Name("g_proj"), values, spec_.width, /*bias=*/false);
  if (spec_.gate == DeltaNetSpec::Gate::kLowRankSigmoid) {
    planner.Linear(Name("g_proj.0"), spec_.value_size, spec_.width, /*bias=*/false);
    planner.Linear(Name("g_proj.1"), values, spec_.value_size, spec_.gate_bias);
  }
}

void DeltaNet::Plan(const WeightPlanner& planner) const {
  PlanProjections(planner);
  if (spec_.decay != DeltaNetSpec::Decay::kNone) {
    const bool by_dimension = spec_.decay == DeltaNetSpec::Decay::kPerDimension;
    const int64_t gates = spec_.value_heads * (by_dimension ? spec_.key_size : 1);
    const auto shape = [](const std::vector<int64_t>& stored, int64_t size) {
      return stored.empty() ? std::vector<int64_t>{size} : stored;
    };
    const Draw a_log = [](Random& random) { return std::log(1 + 15 * random.Unit()); };
    const auto add = [&](const char* name, std::vector<int64_t> stored, Draw draw) {
      WeightSpec& spec = planner.Add(Name(name), std::move(stored), std::move(draw));
      spec.keep_float32 = true;
      spec.decays = false;
    };
    add("A_log", shape(spec_.a_log_shape, spec_.value_heads), a_log);
    add("dt_bias", shape(spec_.dt_bias_shape, gates), DrawStepBias(0.001, 0.1));
  }
  PlanHeadNorm(planner, output_);
  planner.Linear(Name("o_proj"), spec_.width, spec_.value_heads * spec_.value_size, /*bias=*/false);
}

DeltaNet::Projections DeltaNet::Project(const LayerCall& call, const at::Tensor& x) const {
  if (spec_.projection == DeltaNetSpec::Projection::kFused) return ProjectAtOnce(call, x);
  const auto heads = [&](const char* name, const ConvolvedProjectionSpec& spec, int64_t size) {
    return ConvolvedProjection(call, Name(name), spec, x).unflatten(-1, {-1, size});
  };
  Projections projected;
  if (spec_.projection == DeltaNetSpec::Projection::kJoint) {
    projected = ConvolvedAtOnce(call, Linear(call, "qkv_proj", x));
  } else if (spec_.projection == DeltaNetSpec::Projection::kOneConvolution) {
    projected = ConvolvedAtOnce(
        call, at::cat({Linear(call, "q_proj", x), Linear(call, "k_proj", x), Linear(call, "v_proj", x)}, -1));
  } else {
    projected = {heads("q", Keys(), spec_.key_size), heads("k", Keys(), spec_.key_size),
                 heads("v", Values(), spec_.value_size)};
  }
  if (spec_.has_beta) projected.beta = Linear(call, "b_proj", x);
  if (spec_.decay == DeltaNetSpec::Decay::kPerHead) projected.decay = Linear(call, "a_proj", x);
  if (spec_.decay == DeltaNetSpec::Decay::kPerDimension)
    projected.decay = Linear(call, "f_proj.1", Linear(call, "f_proj.0", x));
  if (spec_.gate == DeltaNetSpec::Gate::kSilu) projected.gate = Linear(call, "g_proj", x);
  if (spec_.gate == DeltaNetSpec::Gate::kLowRankSigmoid)
    projected.gate = Linear(call, "g_proj.1", Linear(call, "g_proj.0", x));
  return projected;
}

DeltaNet::Projections DeltaNet::ProjectAtOnce(const LayerCall& call, const at::Tensor& x) const {
  const int64_t shared = spec_.value_heads * spec_.value_size / spec_.heads;  // values of a head of q
  const auto by_head = [&](const char* name) {
    return Linear(call, name, x).unflatten(-1, {spec_.heads, -1});
  };
  const std::vector<at::Tensor> parts =
      by_head("qkvz_proj").split_with_sizes({spec_.key_size, spec_.key_size, shared, shared}, -1);
  Projections projected =
      ConvolvedAtOnce(call, at::cat({parts[0].flatten(-2), parts[1].flatten(-2), parts[2].flatten(-2)}, -1));
  const std::vector<at::Tensor> ba = by_head("ba_proj").chunk(2, -1);
  projected.beta = ba[0].flatten(-2);
  projected.decay = ba[1].flatten(-2);
  projected.gate = parts[3].flatten(-2);
  return projected;
}

// q, k and v of their projections [B,T,q | k | v].
DeltaNet::Projections DeltaNet::ConvolvedAtOnce(const LayerCall& call, const at::Tensor& qkv) const {
  const int64_t keys = spec_.heads * spec_.key_size, values = spec_.value_heads * spec_.value_size;
  const std::vector<at::Tensor> parts =
      at::silu(ShortConvolution(call, Name("qkv_conv1d"), qkv)).split_with_sizes({keys, keys, values}, -1);
  Projections projected;
  projected.q = parts[0].unflatten(-1, {-1, spec_.key_size});
  projected.k = parts[1].unflatten(-1, {-1, spec_.key_size});
  projected.v = parts[2].unflatten(-1, {-1, spec_.value_size});
  return projected;
}

// [B,T,value_heads,key_size].
at::Tensor DeltaNet::QueriesOrKeys(const at::Tensor& projected, at::ScalarType type) const {
  const at::Tensor wide = projected.to(type);
  return SharedHeads(spec_.sum_norm ? wide / wide.sum(-1, /*keepdim=*/true) : NormalizedKeys(wide),
                     spec_.value_heads);
}

// log λ in at least float32: [B,T,H,1] or [B,T,H,K].
at::Tensor DeltaNet::LogDecay(const LayerCall& call, const at::Tensor& logits, at::ScalarType type) const {
  const at::Tensor shifted =
      (logits.to(type) + Weight(call, "dt_bias").reshape({-1})).unflatten(-1, {spec_.value_heads, -1});
  const at::Tensor rate = at::exp(Weight(call, "A_log").reshape({-1, 1}));
  if (spec_.lower_bound) return at::sigmoid(rate * shifted) * *spec_.lower_bound;
  return -rate * at::softplus(shifted);
}

absl::StatusOr<at::Tensor> DeltaNet::Run(const LayerCall& call, const at::Tensor& x) const {
  const auto type = at::promote_types(x.scalar_type(), at::kFloat);
  const Projections projected = Project(call, x);
  const at::Tensor q = QueriesOrKeys(projected.q, type), k = QueriesOrKeys(projected.k, type);
  const at::Tensor v = projected.v.to(type);
  at::Tensor beta =
      spec_.has_beta ? at::sigmoid(projected.beta.to(type)).unsqueeze(-1) : at::ones({1}, v.options());
  if (spec_.double_beta) beta = beta * 2;
  const at::Tensor log_decay = projected.decay.defined()
                                   ? LogDecay(call, projected.decay, type)
                                   : at::zeros({x.size(0), x.size(1), spec_.value_heads, 1}, v.options());
  EIGSVC_ASSIGN_OR_RETURN(const at::Tensor o,
                          RunDeltaRule(call, spec_.mixer, State(call, "state"),
                                       {q / std::sqrt(static_cast<double>(spec_.key_size)),
                                        k,
                                        beta * k,
                                        at::exp(log_decay) * k,
                                        beta * v,
                                        log_decay,
                                        {}},
                                       x.scalar_type()));
  at::Tensor normed = HeadNorm(call, output_, o, x.scalar_type());
  if (spec_.gate == DeltaNetSpec::Gate::kSilu) normed = normed * at::silu(projected.gate);
  if (spec_.gate == DeltaNetSpec::Gate::kLowRankSigmoid) normed = normed * at::sigmoid(projected.gate);
  return Linear(call, "o_proj", normed);
}

std::vector<MixerDescription> DeltaNet::Mixers() const {
  return {DescribeDeltaRule(spec_.mixer, spec_.value_heads, spec_.key_size, spec_.value_size,
                            spec_.decay != DeltaNetSpec::Decay::kPerDimension)};
}

double DeltaNet::ExtraOperations() const {
  return DeltaRuleOperations(spec_.value_heads, spec_.key_size, spec_.value_size);
}

}  // namespace eigsvc
