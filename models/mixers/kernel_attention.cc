#include "models/mixers/kernel_attention.h"

#include <cmath>

#include "ATen/TensorOperators.h"
#include "ATen/core/IListRef.h"
#include "ATen/ops/cat.h"
#include "ATen/ops/elu.h"
#include "ATen/ops/linear.h"
#include "ATen/ops/log.h"
#include "ATen/ops/ones_like.h"
#include "ATen/ops/promote_types.h"
#include "ATen/ops/relu.h"
#include "ATen/ops/roll.h"
#include "ATen/ops/softmax.h"
#include "ATen/ops/triu_indices.h"
#include "models/base/status_macros.h"
#include "models/layers/linear_attention.h"
#include "models/layers/ssd.h"
#include "models/mixers/normaliser_report.h"
#include "models/transition/noise_floor.h"
#include "models/transition/normaliser.h"

namespace eigsvc {
namespace {

constexpr int64_t kDpfpShifts = 4;

// [1 | x | products of two dimensions]. Those of two different ones occur twice in the kernel and once here,
// √2 times as large.
at::Tensor TaylorFeatures(const at::Tensor& x) {
  const at::Tensor pairs =
      at::triu_indices(x.size(-1), x.size(-1), /*offset=*/1, x.options().dtype(at::kLong));
  return at::cat({at::ones_like(x.narrow(-1, 0, 1)), x, x.square() / std::sqrt(2.0),
                  x.index_select(-1, pairs.select(0, 0)) * x.index_select(-1, pairs.select(0, 1))},
                 -1);
}

at::Tensor DpfpFeatures(const at::Tensor& x) {
  const at::Tensor positive = at::relu(x), both = at::cat({positive, -positive}, -1);
  std::vector<at::Tensor> products;
  for (int64_t shift = 1; shift <= kDpfpShifts; ++shift) products.push_back(both * at::roll(both, shift, -1));
  return at::cat(products, -1);
}

}  // namespace

int64_t KernelAttentionSpec::features() const {
  switch (map) {
    case FeatureMap::kTaylor:
      return 1 + key_size + key_size * key_size;
    case FeatureMap::kHedgehog:
      return 2 * key_size;
    case FeatureMap::kDpfp:
      return 2 * kDpfpShifts * key_size;
    default:
      return key_size;
  }
}

KernelAttention::KernelAttention(std::string name, KernelAttentionSpec spec)
    : Module(std::move(name)),
      spec_(std::move(spec)),
      output_{spec_.heads, spec_.value_size, spec_.norm.empty() ? "" : Name(spec_.norm), spec_.affine,
              spec_.norm_eps} {}

void KernelAttention::Plan(const WeightPlanner& planner) const {
  planner.Linear(Name("q_proj"), spec_.heads * spec_.key_size, spec_.width, /*bias=*/false);
  planner.Linear(Name("k_proj"), spec_.groups * spec_.key_size, spec_.width, /*bias=*/false);
  planner.Linear(Name("v_proj"), spec_.groups * spec_.value_size, spec_.width, /*bias=*/false);
  planner.ResidualLinear(Name("o_proj"), spec_.width, spec_.heads * spec_.value_size, /*bias=*/false);
  for (const char* const layers : {"feature_map_q.", "feature_map_k."}) {
    const auto add = [&](const char* layer, bool bias) {
      planner.Linear(Name(layers) + layer, spec_.key_size, spec_.key_size, bias);
    };
    if (spec_.map == FeatureMap::kProduct) {
      add("layer1", /*bias=*/true);
      add("layer2", /*bias=*/true);
    } else if (spec_.map == FeatureMap::kT2r || spec_.map == FeatureMap::kHedgehog) {
      add("layer", /*bias=*/spec_.map == FeatureMap::kHedgehog);
    }
  }
  PlanHeadNorm(planner, output_);
}

// In the dtype of `heads`, which may be wider than the weights'.
at::Tensor KernelAttention::Mapped(const LayerCall& call, const std::string& layers,
                                   const at::Tensor& heads) const {
  const auto layer = [&](const char* name) {
    const at::Tensor bias = WeightOrNone(call, layers + name + ".bias");
    return at::linear(heads, Weight(call, layers + name + ".weight").to(heads.scalar_type()),
                      bias.defined() ? bias.to(heads.scalar_type()) : at::Tensor());
  };
  switch (spec_.map) {
    case FeatureMap::kTaylor:
      return TaylorFeatures(heads * std::sqrt(spec_.scale));
    case FeatureMap::kElu:
      return at::elu(heads) + 1;
    case FeatureMap::kRelu:
      return at::relu(heads);
    case FeatureMap::kIdentity:
      break;
    case FeatureMap::kProduct:
      return layer("layer1") * layer("layer2");
    case FeatureMap::kT2r:
      return at::relu(layer("layer"));
    case FeatureMap::kHedgehog: {
      const at::Tensor y = layer("layer") * 2;
      return at::softmax(at::cat({y, -y}, -1), -1);
    }
    case FeatureMap::kDpfp:
      return DpfpFeatures(heads);
  }
  return heads;
}

at::Tensor KernelAttention::Features(const LayerCall& call, Side side, const at::Tensor& heads) const {
  const bool query = side == Side::kQuery;
  at::Tensor mapped = Mapped(call, query ? "feature_map_q." : "feature_map_k.", heads);
  if (query ? spec_.share_q : spec_.share_k) mapped = mapped / (mapped.sum(-1, /*keepdim=*/true) + 1e-4);
  if (query && spec_.map != FeatureMap::kTaylor) mapped = mapped * spec_.scale;
  return SharedHeads(mapped, spec_.heads);
}

// η [B,T,H] in float64, reported. `dtype`: what q and k were rounded to.
absl::StatusOr<at::Tensor> KernelAttention::Normaliser(const LayerCall& call, const at::Tensor& q,
                                                       const at::Tensor& k, at::ScalarType dtype) const {
  at::Tensor& keys = State(call, "keys");
  const KernelSums kernel = SumKernel(Features(call, Side::kQuery, q.to(at::kDouble)),
                                      Features(call, Side::kKey, k.to(at::kDouble)), keys);
  keys = kernel.final_keys;
  const at::Tensor normaliser = kernel.sums + spec_.eps;
  EIGSVC_RETURN_IF_ERROR(ReportNormaliser(call, spec_.mixer, State(call, "log_normaliser"),
                                          at::log(normaliser.detach()), spec_.features() * spec_.value_size,
                                          4 * RoundingNoise(dtype)));
  return normaliser;
}

absl::StatusOr<at::Tensor> KernelAttention::Run(const LayerCall& call, const at::Tensor& x) const {
  const auto type = at::promote_types(x.scalar_type(), at::kFloat);
  const auto heads = [&](const char* name, int64_t count) {
    return Linear(call, name, x).to(type).unflatten(-1, {count, -1});
  };
  const at::Tensor q = heads("q_proj", spec_.heads), k = heads("k_proj", spec_.groups);
  at::Tensor& state = State(call, "state");
  const KernelAttentionOutput attended =
      LinearAttention(Features(call, Side::kQuery, q), Features(call, Side::kKey, k),
                      SharedHeads(heads("v_proj", spec_.groups), spec_.heads), state);
  state = attended.final_state;
  at::Tensor y = attended.y;
  if (spec_.normalised) {
    EIGSVC_ASSIGN_OR_RETURN(const at::Tensor normaliser, Normaliser(call, q, k, x.scalar_type()));
    y = y / normaliser.to(type).unsqueeze(-1);
  } else if (call.WantsConstant(spec_.mixer)) {
    EIGSVC_RETURN_IF_ERROR(call.Report(spec_.mixer, UnitKind::kHead,
                                       SummingTransition(spec_.heads, spec_.features() * spec_.value_size)));
  }
  return Linear(call, "o_proj", HeadNorm(call, output_, y, x.scalar_type()));
}

std::vector<MixerDescription> KernelAttention::Mixers() const {
  return {{spec_.mixer, UnitKind::kHead, spec_.heads, 1, spec_.features() * spec_.value_size,
           /*constant=*/!spec_.normalised}};
}

double KernelAttention::ExtraOperations() const {
  // As of any linear attention, block by block, and passes over the features in both precisions.
  const auto features = static_cast<double>(spec_.features()), values = static_cast<double>(spec_.value_size);
  return 2 * static_cast<double>(spec_.heads) * (values * (2 * features + kSsdBlock) + 300 * features);
}

}  // namespace eigsvc
