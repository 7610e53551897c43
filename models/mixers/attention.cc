#include "models/mixers/attention.h"

#include <cmath>

#include "ATen/core/IListRef.h"
#include "ATen/ops/cat.h"
#include "absl/strings/str_cat.h"
#include "models/base/status_macros.h"
#include "models/tensor/attention_lse.h"
#include "models/transition/normaliser.h"
#include "models/transition/softmax.h"

namespace eigsvc {
namespace {

// [B,T,H,d] behind what was kept, as [B,H,S,d]; kept for the next chunk.
at::Tensor Append(const at::Tensor& heads, at::Tensor& kept) {
  const at::Tensor fresh = heads.transpose(1, 2);
  kept = kept.defined() ? at::cat({kept, fresh}, 2) : fresh;
  return kept;
}

at::Tensor Turned(const Rotary& rotary, int64_t size, const at::Tensor& x, int64_t first) {
  if (size == x.size(-1)) return rotary.Turn(x, first);
  return at::cat({rotary.Turn(x.narrow(-1, 0, size), first), x.narrow(-1, size, x.size(-1) - size)}, -1);
}

}  // namespace

Attention::Attention(std::string name, AttentionSpec spec, at::ScalarType dtype)
    : Module(std::move(name)), spec_(std::move(spec)) {
  if (spec_.rotary) {
    const RotarySpec& rotary = *spec_.rotary;
    rotary_ = std::make_unique<Rotary>(RotaryFrequencies(rotary.size, rotary.base, rotary.scaling, dtype),
                                       rotary.pairs);
  }
}

void Attention::Plan(const WeightPlanner& planner) const {
  const int64_t query_rows = spec_.heads * spec_.key_size, key_rows = spec_.groups * spec_.key_size;
  planner.Linear(Name("q_proj"), query_rows, spec_.width, spec_.qkv_bias);
  planner.Linear(Name("k_proj"), key_rows, spec_.width, spec_.qkv_bias);
  planner.Linear(Name("v_proj"), spec_.groups * spec_.value_size, spec_.width, spec_.qkv_bias);
  planner.Linear(Name("o_proj"), spec_.width, spec_.heads * spec_.value_size, spec_.output_bias);
  if (spec_.qk_norm != AttentionSpec::QkNorm::kNone) {
    const bool whole = spec_.qk_norm == AttentionSpec::QkNorm::kWhole;
    PlanNorm(planner, Name("q_norm"), spec_.norm, whole ? query_rows : spec_.key_size);
    PlanNorm(planner, Name("k_norm"), spec_.norm, whole ? key_rows : spec_.key_size);
  }
}

// q or k of a chunk: projected, normed, turned. [B,T,count,Dqk].
at::Tensor Attention::Heads(const LayerCall& call, absl::string_view rest, int64_t count,
                            const at::Tensor& x) const {
  at::Tensor heads = Linear(call, absl::StrCat(rest, "_proj"), x);
  const std::string norm = Name(absl::StrCat(rest, "_norm"));
  if (spec_.qk_norm == AttentionSpec::QkNorm::kWhole)
    heads = ApplyNorm(spec_.norm, call.weights, norm, heads);
  heads = heads.unflatten(-1, {count, spec_.key_size});
  if (spec_.qk_norm == AttentionSpec::QkNorm::kPerHead)
    heads = ApplyNorm(spec_.norm, call.weights, norm, heads);
  return rotary_ ? Turned(*rotary_, spec_.rotary->size, heads, call.state.position) : heads;
}

absl::StatusOr<at::Tensor> Attention::Run(const LayerCall& call, const at::Tensor& x) const {
  const at::Tensor q = Heads(call, "q", spec_.heads, x), k = Heads(call, "k", spec_.groups, x);
  const at::Tensor v = Linear(call, "v_proj", x).unflatten(-1, {spec_.groups, spec_.value_size});
  const double scale = spec_.scale != 0 ? spec_.scale : 1 / std::sqrt(static_cast<double>(spec_.key_size));
  EIGSVC_ASSIGN_OR_RETURN(const at::Tensor attended, AttendAndReport(call, name(), q, k, v, scale));
  return Linear(call, "o_proj", attended);
}

std::vector<MixerDescription> Attention::Mixers() const {
  return {{std::string(kAttentionMixer), UnitKind::kHead, spec_.heads, 1, /*multiplicity=*/0}};
}

absl::StatusOr<at::Tensor> AttendAndReport(const LayerCall& call, const std::string& name,
                                           const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                           double scale) {
  const at::Tensor queries = q.transpose(1, 2);
  const at::Tensor keys = Append(k, call.state.tensors[name + "keys"]),
                   values = Append(v, call.state.tensors[name + "values"]);
  AttentionOptions options;
  options.scale = scale;
  options.stop = call.context.stop;
  EIGSVC_ASSIGN_OR_RETURN(const AttentionOutput attention, CausalAttention(queries, keys, values, options));

  const int64_t steps = q.size(1);
  at::Tensor& last = call.state.tensors[name + "lse"];
  const at::Tensor previous = last;
  last = attention.lse.narrow(-1, steps - 1, 1);
  if ((previous.defined() || steps > 1) && call.Wants(kAttentionMixer)) {
    EIGSVC_RETURN_IF_ERROR(call.Report(kAttentionMixer, UnitKind::kHead,
                                       call.context.convention.gauge == Gauge::kRaw
                                           ? SummingTransition(queries.size(1), /*multiplicity=*/0)
                                           : SoftmaxTransition(attention.lse, previous, call.state.position,
                                                               LargestScore(queries, keys, scale))));
  }
  return attention.output.transpose(1, 2).flatten(-2);
}

}  // namespace eigsvc
