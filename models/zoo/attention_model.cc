#include "models/zoo/attention_model.h"

#include <algorithm>
#include <string>
#include <vector>

#include "ATen/core/IListRef.h"
#include "ATen/ops/cat.h"
#include "absl/functional/function_ref.h"
#include "models/base/status_macros.h"
#include "models/mixers/attention.h"
#include "models/tensor/attention_lse.h"
#include "models/transition/normaliser.h"
#include "models/transition/softmax.h"

namespace eigsvc {
namespace {

at::Tensor JoinPieces(const std::vector<at::Tensor>& pieces) {
  return pieces.size() == 1 ? pieces[0] : at::cat(pieces, 1);
}

// Positions whose projections, or rest of a layer, are computed between two looks at the stop token: well
// under 100 ms on two cores or on a device 100 times faster, but enough that a matrix product is not bound by
// reading its weights.
int64_t PositionsPerPiece(const Weights& weights, const at::Tensor& x) {
  double per_position = 0;
  for (const auto& [name, tensor] : weights.all()) per_position += 2.0 * static_cast<double>(tensor.numel());
  const double budget = x.is_cpu() ? 2e9 : 2e11;
  return std::max<int64_t>(
      64, static_cast<int64_t>(budget / (per_position * static_cast<double>(x.size(0)) + 1)));
}

absl::Status ForEachPiece(int64_t steps, int64_t most, const StopToken* stop,
                          absl::FunctionRef<void(int64_t begin, int64_t length)> body) {
  for (int64_t begin = 0; begin < steps; begin += most) {
    if (stop != nullptr) EIGSVC_RETURN_IF_ERROR(stop->Check());
    body(begin, std::min(most, steps - begin));
  }
  return absl::OkStatus();
}

// [B,T,H,d] behind what the state holds under `name`, as [B,H,T,d]; kept there.
at::Tensor Append(const at::Tensor& heads, const char* name, LayerState& state) {
  at::Tensor all = heads.transpose(1, 2);
  at::Tensor& kept = state.tensors[name];
  if (kept.defined()) all = at::cat({kept, all}, 2);
  kept = all;
  return all;
}

}  // namespace

absl::StatusOr<at::Tensor> AttentionModel::DoLayer(int index, const Weights& weights, const at::Tensor& x,
                                                   LayerState& state, const LayerContext& context) const {
  const int64_t steps = x.size(1), first = state.position;
  const int64_t most = context.stop != nullptr ? PositionsPerPiece(weights, x) : steps;
  std::vector<at::Tensor> q, k, v;
  EIGSVC_RETURN_IF_ERROR(ForEachPiece(steps, most, context.stop, [&](int64_t begin, int64_t length) {
    AttentionHeads heads = Project(weights, x.narrow(1, begin, length), first + begin, state);
    q.push_back(std::move(heads.q));
    k.push_back(std::move(heads.k));
    v.push_back(std::move(heads.v));
  }));

  const at::Tensor queries = JoinPieces(q).transpose(1, 2);
  const at::Tensor keys = Append(JoinPieces(k), "keys", state),
                   values = Append(JoinPieces(v), "values", state);
  AttentionOptions options;
  options.scale = Scale(index);
  options.stop = context.stop;
  EIGSVC_ASSIGN_OR_RETURN(const AttentionOutput attention, CausalAttention(queries, keys, values, options));

  const at::Tensor previous_lse = state.tensors["lse"];
  state.tensors["lse"] = attention.lse.narrow(-1, steps - 1, 1);
  const bool has_eigenvalues = previous_lse.defined() || steps > 1;
  if (has_eigenvalues && context.tap != nullptr && context.tap->Wants(index, kAttentionMixer)) {
    const bool raw = context.convention.gauge == Gauge::kRaw;
    EIGSVC_RETURN_IF_ERROR(
        context.tap->OnTransition(index, kAttentionMixer, UnitKind::kHead,
                                  raw ? SummingTransition(queries.size(1), /*multiplicity=*/0)
                                      : SoftmaxTransition(attention.lse, previous_lse, first,
                                                          LargestScore(queries, keys, options.scale))));
  }

  const at::Tensor attended = attention.output.transpose(1, 2).flatten(-2);
  std::vector<at::Tensor> outputs;
  EIGSVC_RETURN_IF_ERROR(ForEachPiece(steps, most, context.stop, [&](int64_t begin, int64_t length) {
    outputs.push_back(Finish(weights, x.narrow(1, begin, length), attended.narrow(1, begin, length)));
  }));
  return JoinPieces(outputs);
}

void DescribeAttention(const AttentionShape& shape, int64_t layers, ModelDescription& description) {
  description.layers = layers;
  description.mixers.assign(layers, {{std::string(kAttentionMixer), UnitKind::kHead, shape.heads,
                                      /*eigenvalues_per_unit=*/1, /*multiplicity=*/0}});
  description.conventions.gauges = {Gauge::kDsf, Gauge::kRaw};
}

}  // namespace eigsvc
