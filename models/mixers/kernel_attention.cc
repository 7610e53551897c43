#include "models/mixers/kernel_attention.h"

#include <cmath>

#include "ATen/TensorOperators.h"
#include "ATen/core/IListRef.h"
#include "ATen/ops/cat.h"
#include "ATen/ops/log.h"
#include "ATen/ops/ones_like.h"
#include "ATen/ops/promote_types.h"
#include "ATen/ops/triu_indices.h"
#include "models/base/status_macros.h"
#include "models/layers/linear_attention.h"
#include "models/layers/ssd.h"
#include "models/mixers/normaliser_report.h"
#include "models/transition/noise_floor.h"

namespace eigsvc {

void KernelAttention::Plan(const WeightPlanner& planner) const {
  const int64_t keys = spec_.heads * spec_.key_size, values = spec_.heads * spec_.value_size;
  planner.Linear(Name("q_proj"), keys, spec_.width, /*bias=*/false);
  planner.Linear(Name("k_proj"), keys, spec_.width, /*bias=*/false);
  planner.Linear(Name("v_proj"), values, spec_.width, /*bias=*/false);
  planner.ResidualLinear(Name("o_proj"), spec_.width, values, /*bias=*/false);
}

// φ [B,T,H,·] of q or k [B,T,H,K]. The products of two different dimensions occur twice in the kernel and
// once here, √2 times as large.
at::Tensor KernelAttention::Features(const at::Tensor& heads) const {
  const at::Tensor x = heads * std::sqrt(spec_.scale);
  const at::Tensor pairs =
      at::triu_indices(spec_.key_size, spec_.key_size, /*offset=*/1, x.options().dtype(at::kLong));
  return at::cat({at::ones_like(x.narrow(-1, 0, 1)), x, x.square() / std::sqrt(2.0),
                  x.index_select(-1, pairs.select(0, 0)) * x.index_select(-1, pairs.select(0, 1))},
                 -1);
}

absl::StatusOr<at::Tensor> KernelAttention::Run(const LayerCall& call, const at::Tensor& x) const {
  const auto type = at::promote_types(x.scalar_type(), at::kFloat);
  const auto heads = [&](const char* name) {
    return Linear(call, name, x).to(type).unflatten(-1, {spec_.heads, -1});
  };
  const at::Tensor q = heads("q_proj"), k = heads("k_proj");
  at::Tensor& state = State(call, "state");
  const KernelAttentionOutput attended = LinearAttention(Features(q), Features(k), heads("v_proj"), state);
  state = attended.final_state;
  at::Tensor& keys = State(call, "keys");
  const KernelSums kernel = SumKernel(Features(q.to(at::kDouble)), Features(k.to(at::kDouble)), keys);
  keys = kernel.final_keys;
  const at::Tensor normaliser = kernel.sums + spec_.eps;  // [B,T,H]
  EIGSVC_RETURN_IF_ERROR(ReportNormaliser(call, spec_.mixer, State(call, "log_normaliser"),
                                          at::log(normaliser.detach()), spec_.features() * spec_.value_size,
                                          4 * RoundingNoise(x.scalar_type())));
  const at::Tensor y = attended.y / normaliser.to(type).unsqueeze(-1);
  return Linear(call, "o_proj", y.flatten(-2).to(x.scalar_type()));
}

std::vector<MixerDescription> KernelAttention::Mixers() const {
  return {{spec_.mixer, UnitKind::kHead, spec_.heads, 1, spec_.features() * spec_.value_size}};
}

double KernelAttention::ExtraOperations() const {
  // As of any linear attention, block by block, and passes over the features in both precisions.
  const auto features = static_cast<double>(spec_.features()), values = static_cast<double>(spec_.value_size);
  return 2 * static_cast<double>(spec_.heads) * (values * (2 * features + kSsdBlock) + 300 * features);
}

}  // namespace eigsvc
