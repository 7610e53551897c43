#include "models/mixers/attention.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "ATen/TensorOperators.h"
#include "ATen/core/IListRef.h"
#include "ATen/core/grad_mode.h"
#include "ATen/ops/cat.h"
#include "ATen/ops/empty.h"
#include "ATen/ops/scalar_tensor.h"
#include "ATen/ops/sigmoid.h"
#include "ATen/ops/silu.h"
#include "absl/strings/str_cat.h"
#include "models/base/status_macros.h"
#include "models/mixers/short_convolution.h"
#include "models/transition/normaliser.h"
#include "models/transition/softmax.h"

namespace eigsvc {
namespace {

// The angles of the steps behind the state must be those of the steps before.
absl::Status CheckAngles(const LayerCall& call, const std::string& name, const RotarySpec& rotary) {
  if (!rotary.DependsOnLength()) return absl::OkStatus();
  at::Tensor& kept = call.state.tensors[name + "stretch"];
  const int64_t stretch = rotary.Stretch(call.state.length);
  if (kept.defined() && kept.item<int64_t>() != stretch) {
    return absl::FailedPreconditionError(
        "the rotary frequencies of this model depend on the length of the sequence, which has grown past its "
        "original context from one chunk to the next; run the whole sequence at once");
  }
  kept = at::scalar_tensor(stretch, at::kLong);
  return absl::OkStatus();
}

}  // namespace

void Attention::PlanLatents(const WeightPlanner& planner) const {
  const int64_t query_rows = spec_.heads * spec_.key_size;
  if (spec_.query_latent_size > 0) {
    planner.Linear(Name("q_a_proj"), spec_.query_latent_size, spec_.width, spec_.qkv_bias);
    PlanNorm(planner, Name("q_a_layernorm"), spec_.norm, spec_.query_latent_size);
    planner.Linear(Name("q_b_proj"), query_rows, spec_.query_latent_size, /*bias=*/false);
  } else {
    planner.Linear(Name("q_proj"), query_rows, spec_.width, /*bias=*/false);
  }
  planner.Linear(Name("kv_a_proj_with_mqa"), spec_.latent_size + spec_.shared_key_size, spec_.width,
                 spec_.qkv_bias);
  PlanNorm(planner, Name("kv_a_layernorm"), spec_.norm, spec_.latent_size);
  planner.Linear(Name("kv_b_proj"), spec_.heads * (spec_.key_size - spec_.shared_key_size + spec_.value_size),
                 spec_.latent_size,
                 /*bias=*/false);
}

void Attention::Plan(const WeightPlanner& planner) const {
  const int64_t query_rows = spec_.heads * spec_.key_size, key_rows = spec_.groups * spec_.key_size;
  const int64_t value_rows = spec_.groups * spec_.value_size;
  if (spec_.projection == AttentionSpec::Projection::kSeparate) {
    planner.Linear(Name("q_proj"), (spec_.output_gate ? 2 : 1) * query_rows, spec_.width, spec_.qkv_bias);
    planner.Linear(Name("k_proj"), key_rows, spec_.width, spec_.qkv_bias);
    planner.Linear(Name("v_proj"), value_rows, spec_.width, spec_.qkv_bias);
    for (const char* rest : {"q", "k", "v"}) {
      if (spec_.adapter_rank == 0) break;
      const int64_t rows = *rest == 'q' ? query_rows : *rest == 'k' ? key_rows : value_rows;
      planner.Linear(Name(absl::StrCat(rest, "_adapter.0")), spec_.adapter_rank, spec_.width, false);
      planner.Linear(Name(absl::StrCat(rest, "_adapter.1")), rows, spec_.adapter_rank, false);
    }
  } else if (spec_.projection == AttentionSpec::Projection::kLatent) {
    PlanLatents(planner);
  } else {
    const int64_t rows = query_rows + key_rows + value_rows;
    planner.Linear(Name("qkv_proj"), rows + 2 * spec_.gated_mlp, spec_.width, spec_.qkv_bias);
    if (spec_.taps > 0) PlanShortConvolution(planner, Name("qkv_conv1d"), rows, spec_.taps, /*bias=*/true);
  }
  planner.ResidualLinear(Name("o_proj"), spec_.output_width > 0 ? spec_.output_width : spec_.width,
                         spec_.heads * spec_.value_size + spec_.gated_mlp, spec_.output_bias);
  if (spec_.qk_norm != AttentionSpec::QkNorm::kNone) {
    const bool whole = spec_.qk_norm == AttentionSpec::QkNorm::kWhole;
    PlanNorm(planner, Name("q_norm"), spec_.norm, whole ? query_rows : spec_.key_size);
    PlanNorm(planner, Name("k_norm"), spec_.norm, whole ? key_rows : spec_.key_size);
  }
  if (spec_.sinks) planner.Add(Name("sinks"), {spec_.heads}, DrawNormal(0.02)).keep_float32 = true;
}

at::Tensor Attention::Projected(const LayerCall& call, absl::string_view rest, const at::Tensor& x) const {
  const at::Tensor projected = Linear(call, absl::StrCat(rest, "_proj"), x);
  if (spec_.adapter_rank == 0) return projected;
  return projected +
         Linear(call, absl::StrCat(rest, "_adapter.1"), Linear(call, absl::StrCat(rest, "_adapter.0"), x));
}

// q (with an output gate, [q | gate]), k and v of a chunk as they are projected, [B,T,heads,·] each; with a
// gated MLP, what it gives [B,T,gated_mlp].
std::vector<at::Tensor> Attention::Project(const LayerCall& call, const at::Tensor& x) const {
  const int64_t heads = spec_.heads, groups = spec_.groups, d = spec_.key_size, dv = spec_.value_size;
  switch (spec_.projection) {
    case AttentionSpec::Projection::kSeparate:
      break;
    case AttentionSpec::Projection::kFused: {
      const int64_t rows = heads * d + groups * (d + dv);
      const std::vector<at::Tensor> projected =
          Linear(call, "qkv_proj", x).split_with_sizes({rows, spec_.gated_mlp, spec_.gated_mlp}, -1);
      const std::vector<at::Tensor> parts =
          (spec_.taps > 0 ? ShortConvolution(call, Name("qkv_conv1d"), projected[0]) : projected[0])
              .split_with_sizes({heads * d, groups * d, groups * dv}, -1);
      std::vector<at::Tensor> qkv = {parts[0].unflatten(-1, {heads, d}), parts[1].unflatten(-1, {groups, d}),
                                     parts[2].unflatten(-1, {groups, dv})};
      if (spec_.gated_mlp > 0) qkv.push_back(projected[1] * at::silu(projected[2]));
      return qkv;
    }
    case AttentionSpec::Projection::kFusedPerHead:
      return Linear(call, "qkv_proj", x).unflatten(-1, {heads, 2 * d + dv}).split_with_sizes({d, d, dv}, -1);
    case AttentionSpec::Projection::kLatent:
      return ProjectLatents(call, x);
  }
  return {Projected(call, "q", x).unflatten(-1, {heads, -1}),
          Projected(call, "k", x).unflatten(-1, {groups, d}),
          Projected(call, "v", x).unflatten(-1, {groups, dv})};
}

// The same of kLatent.
std::vector<at::Tensor> Attention::ProjectLatents(const LayerCall& call, const at::Tensor& x) const {
  const int64_t own = spec_.key_size - spec_.shared_key_size;  // of a head's k
  const auto normed = [&](const char* norm, const at::Tensor& latent) {
    return ApplyNorm(spec_.norm, call.weights, Name(norm), latent);
  };
  const at::Tensor q = spec_.query_latent_size > 0
                           ? Linear(call, "q_b_proj", normed("q_a_layernorm", Linear(call, "q_a_proj", x)))
                           : Linear(call, "q_proj", x);
  const std::vector<at::Tensor> parts =
      Linear(call, "kv_a_proj_with_mqa", x).split_with_sizes({spec_.latent_size, spec_.shared_key_size}, -1);
  const std::vector<at::Tensor> kv = Linear(call, "kv_b_proj", normed("kv_a_layernorm", parts[0]))
                                         .unflatten(-1, {spec_.heads, -1})
                                         .split_with_sizes({own, spec_.value_size}, -1);
  const at::Tensor shared = parts[1].unsqueeze(-2).expand({-1, -1, spec_.heads, -1});
  return {q.unflatten(-1, {spec_.heads, -1}), at::cat({kv[0], shared}, -1), kv[1]};
}

// q or k [B,T,heads,d], normed and turned.
at::Tensor Attention::Prepared(const LayerCall& call, const char* norm, const at::Tensor& heads) const {
  at::Tensor normed = heads;
  if (spec_.qk_norm == AttentionSpec::QkNorm::kPerHead) {
    normed = ApplyNorm(spec_.norm, call.weights, Name(norm), heads);
  } else if (spec_.qk_norm == AttentionSpec::QkNorm::kWhole) {
    normed = ApplyNorm(spec_.norm, call.weights, Name(norm), heads.flatten(-2)).view(heads.sizes());
  }
  return spec_.rotary ? spec_.rotary->Turn(normed, call.state.position, call.state.length) : normed;
}

absl::StatusOr<at::Tensor> Attention::Run(const LayerCall& call, const at::Tensor& x) const {
  if (spec_.rotary) EIGSVC_RETURN_IF_ERROR(CheckAngles(call, name(), spec_.rotary->spec()));
  std::vector<at::Tensor> heads = Project(call, x);
  at::Tensor gate;
  if (spec_.output_gate) {
    const std::vector<at::Tensor> halves = heads[0].chunk(2, -1);
    heads[0] = halves[0];
    gate = at::sigmoid(halves[1].flatten(-2));
  }
  const at::Tensor q = Prepared(call, "q_norm", heads[0]), k = Prepared(call, "k_norm", heads[1]);
  AttentionOptions options;
  options.scale = spec_.scale != 0 ? spec_.scale : 1 / std::sqrt(static_cast<double>(spec_.key_size));
  options.window = spec_.window;
  options.cap = spec_.cap;
  if (spec_.sinks) options.sinks = Weight(call, "sinks");
  EIGSVC_ASSIGN_OR_RETURN(at::Tensor attended,
                          AttendAndReport(call, name(), q, k, heads[2], std::move(options)));
  if (spec_.gated_mlp > 0) attended = at::cat({attended, heads[3]}, -1);
  return Linear(call, "o_proj", gate.defined() ? attended * gate : attended);
}

std::vector<MixerDescription> Attention::Mixers() const {
  MixerDescription description{std::string(kAttentionMixer), UnitKind::kHead, spec_.heads, 1,
                               /*multiplicity=*/0};
  description.window = spec_.window;
  return {std::move(description)};
}

at::Tensor AppendHeads(const at::Tensor& heads, const LayerState& state, int64_t window, at::Tensor& kept) {
  const at::Tensor fresh = heads.transpose(1, 2);
  if (!kept.defined()) {
    kept = fresh;
  } else if (window > 0) {
    kept = at::cat({kept, fresh}, 2);
  } else if (at::GradMode::is_enabled() && fresh.requires_grad()) {
    kept = at::cat({kept.narrow(2, 0, state.position), fresh}, 2);
  } else {
    const int64_t steps = state.position + fresh.size(2);
    if (kept.size(2) < steps) {
      std::vector<int64_t> room = fresh.sizes().vec();
      room[2] = std::max({steps, state.length, 2 * state.position});
      const at::Tensor larger = at::empty(room, fresh.options());
      larger.narrow(2, 0, state.position).copy_(kept.narrow(2, 0, state.position));
      kept = larger;
    }
    kept.narrow(2, state.position, fresh.size(2)).copy_(fresh);
    return kept.narrow(2, 0, steps);
  }
  const at::Tensor seen = kept;
  if (window > 0 && kept.size(2) >= window) kept = kept.narrow(2, kept.size(2) - window + 1, window - 1);
  return seen;
}

absl::StatusOr<at::Tensor> AttendAndReport(const LayerCall& call, const std::string& name,
                                           const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                           AttentionOptions options) {
  const at::Tensor queries = q.transpose(1, 2);
  const auto append = [&](const at::Tensor& heads, const char* kept) {
    return AppendHeads(heads, call.state, options.window, call.state.tensors[name + kept]);
  };
  const at::Tensor keys = append(k, "keys"), values = append(v, "values");
  options.stop = call.context.stop;
  const int64_t steps = q.size(1);
  at::Tensor& last = call.state.tensors[name + "lse"];
  const at::Tensor previous = last;
  const bool wanted = !call.departs() && call.Wants(kAttentionMixer);
  const bool summing = call.context.convention.gauge == Gauge::kRaw;
  ScoreBounds bounds;
  if (wanted && !summing) {  // now, while a device's cache holds what it is about to attend with
    bounds = BoundScores(queries, keys, options.scale, options.cap, options.sinks);
  }
  EIGSVC_ASSIGN_OR_RETURN(const AttentionOutput attention, CausalAttention(queries, keys, values, options));
  if (wanted && !summing) RefineLse(attention.lse, queries, keys, options, bounds);
  last = attention.lse.narrow(-1, steps - 1, 1);
  if (wanted && (previous.defined() || steps > 1)) {
    EIGSVC_RETURN_IF_ERROR(call.Report(
        kAttentionMixer, UnitKind::kHead,
        summing ? SummingTransition(queries.size(1), /*multiplicity=*/0)
                : SoftmaxTransition(attention.lse, previous, call.state.position, bounds.noise_floor)));
  }
  return attention.output.transpose(1, 2).flatten(-2);
}

}  // namespace eigsvc
