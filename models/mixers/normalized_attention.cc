#include "models/mixers/normalized_attention.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "ATen/TensorOperators.h"
#include "ATen/core/IListRef.h"
#include "ATen/ops/cat.h"
#include "ATen/ops/elu.h"
#include "ATen/ops/exp.h"
#include "ATen/ops/linear.h"
#include "ATen/ops/log.h"
#include "ATen/ops/log_sigmoid.h"
#include "ATen/ops/matmul.h"
#include "ATen/ops/ones.h"
#include "ATen/ops/promote_types.h"
#include "ATen/ops/sigmoid.h"
#include "ATen/ops/silu.h"
#include "ATen/ops/softmax.h"
#include "ATen/ops/softplus.h"
#include "ATen/ops/triu.h"
#include "absl/strings/str_cat.h"
#include "models/base/status_macros.h"
#include "models/layers/conv1d.h"
#include "models/layers/linear_attention.h"
#include "models/layers/ssd.h"
#include "models/mixers/attention.h"
#include "models/mixers/normaliser_report.h"
#include "models/transition/noise_floor.h"
#include "models/transition/paper_compat.h"
#include "models/transition/softmax.h"

namespace eigsvc {
namespace {

using Kind = NormalizedAttentionSpec::Kind;

// Fresh offsets of the reference: evenly in [4, 9], or log(e^Δ - 1) of evenly spaced Δ in [0.02, 0.1],
// stretched over [8, 14]; with one head 4, or 3.
std::vector<double> FreshOffsets(int64_t heads, bool even) {
  if (heads == 1) return {even ? 4.0 : 3.0};
  const auto share = [&](int64_t head) { return static_cast<double>(head) / static_cast<double>(heads - 1); };
  const auto inverse = [&](int64_t head) { return std::log(std::expm1(0.02 + 0.08 * share(head))); };
  std::vector<double> offsets;
  for (int64_t head = 0; head < heads; ++head) {
    offsets.push_back(even ? 4 + 5 * share(head)
                           : 8 + 6 * (inverse(head) - inverse(0)) / (inverse(heads - 1) - inverse(0)));
  }
  return offsets;
}

at::Tensor AtLeastFloat(const at::Tensor& x) { return x.to(at::promote_types(x.scalar_type(), at::kFloat)); }

}  // namespace

void NormalizedAttention::Plan(const WeightPlanner& planner) const {
  const int64_t width = spec_.width, keys = 2 * spec_.key_rows;
  const bool norm = spec_.kind == Kind::kNorm;
  if (spec_.fused) {
    planner.Linear(Name(norm ? "Wvqkn" : "Wqkv"), width + keys + (norm ? spec_.heads : 0), width, true);
  } else {
    planner.Linear(Name("Wqk"), keys, width, true);
    planner.Linear(Name("Wv"), width, width, true);
    if (norm) planner.Linear(Name("Wn"), spec_.heads, width, true);
  }
  if (spec_.taps > 0) {
    const int64_t rows = keys + (spec_.convolve_values ? width : 0);
    planner.Add(Name("conv1d.weight"), {rows, 1, spec_.taps}, DrawLinear(spec_.taps));
    planner.Add(Name("conv1d.bias"), {rows}, DrawLinear(spec_.taps));
  }
  if (norm && spec_.offset) {
    planner.Add(Name("offset"), {spec_.heads}, nullptr).draw_tensor =
        [offsets = FreshOffsets(spec_.heads, spec_.even_offset)](Random&, const Weights&,
                                                                 absl::Span<double> values) {
          std::copy(offsets.begin(), offsets.end(), values.begin());
        };
  }
  planner.Linear(Name("out_proj"), width, width, true);
}

// One product for all: one for n alone, of a row or a few, would be slow, and rounded as its weights happen
// to lie in memory.
at::Tensor NormalizedAttention::ProjectSeparately(const LayerCall& call, const at::Tensor& x) const {
  std::vector<at::Tensor> weights, biases;
  for (const char* part : {"Wqk", "Wv", "Wn"}) {
    if (!HasWeight(call, absl::StrCat(part, ".weight"))) continue;
    weights.push_back(Weight(call, absl::StrCat(part, ".weight")));
    biases.push_back(Weight(call, absl::StrCat(part, ".bias")));
  }
  return at::linear(x, at::cat(weights, 0), at::cat(biases, 0));
}

NormalizedAttention::Heads NormalizedAttention::Project(const LayerCall& call, const at::Tensor& x,
                                                        at::Tensor* tail) const {
  const bool norm = spec_.kind == Kind::kNorm;
  const int64_t keys = spec_.key_rows, width = spec_.width;
  const auto parts_of = [&](const at::Tensor& projected, std::vector<int64_t> sizes) {
    if (norm) sizes.push_back(spec_.heads);
    return projected.split_with_sizes(sizes, -1);
  };
  at::Tensor qk, v, n;
  if (spec_.fused && norm) {
    const std::vector<at::Tensor> parts = parts_of(Linear(call, "Wvqkn", x), {width, 2 * keys});
    v = parts[0], qk = parts[1], n = parts[2];
  } else {
    const std::vector<at::Tensor> parts =
        parts_of(spec_.fused ? Linear(call, "Wqkv", x) : ProjectSeparately(call, x), {2 * keys, width});
    qk = parts[0], v = parts[1];
    if (norm) n = parts[2];
  }
  if (tail != nullptr) {
    // The channels in the projection's order.
    std::vector<at::Tensor> mixed = {qk};
    if (spec_.convolve_values) mixed.insert(norm ? mixed.begin() : mixed.end(), v);
    const CausalConv1dOutput convolved =
        CausalConv1d(mixed.size() == 1 ? qk : at::cat(mixed, -1), Weight(call, "conv1d.weight"),
                     Weight(call, "conv1d.bias"), *tail);
    *tail = convolved.tail;
    const at::Tensor active = at::silu(convolved.output);
    const int64_t first = norm && spec_.convolve_values ? width : 0;
    qk = active.narrow(-1, first, 2 * keys);
    if (spec_.convolve_values) v = active.narrow(-1, norm ? 0 : 2 * keys, width);
  }
  const std::vector<at::Tensor> parts = qk.split_with_sizes({keys, keys}, -1);
  const auto mapped = [&](const at::Tensor& part) {
    const at::Tensor heads = part.unflatten(-1, {spec_.heads, -1});
    const bool maps = spec_.kind == Kind::kLinear || (norm && spec_.feature_map);
    return maps ? at::elu(heads) + 1 : heads;
  };
  at::Tensor k = mapped(parts[1]);
  if (norm && spec_.scale_keys) k = k * scale();
  return {mapped(parts[0]), k, v.unflatten(-1, {spec_.heads, -1}), n};
}

at::Tensor NormalizedAttention::LogNormalizer(const at::Tensor& a) const {
  switch (spec_.function) {
    case NormFunction::kExp:
      return spec_.exponential ? at::exp(a) : a;
    case NormFunction::kSoftplus:
      return spec_.exponential ? at::softplus(a) : at::log(at::softplus(a));
    case NormFunction::kSigmoid:
      return spec_.exponential ? at::sigmoid(a) : at::log_sigmoid(a);
    case NormFunction::kElu:
      break;
  }
  return at::elu(a);
}

absl::Status NormalizedAttention::Report(const LayerCall& call, const at::Tensor& log_normalizer,
                                         const NoiseFloor& noise_floor) const {
  return ReportNormaliser(call, mixer(), State(call, "log_normalizer"), log_normalizer, multiplicity(),
                          noise_floor);
}

at::Tensor NormalizedAttention::PreActivation(const LayerCall& call, const at::Tensor& n,
                                              at::ScalarType type) const {
  const at::Tensor offset = WeightOrNone(call, "offset");
  return offset.defined() ? n.to(type) + offset.to(type) : n.to(type);
}

NoiseFloor NormalizedAttention::NoiseOf(const Heads& heads, const at::Tensor& a) const {
  // a is off by roundings of its size; f passes them on with its slope, which only exp's exceeds 1.
  const bool steep = spec_.function == NormFunction::kExp && spec_.exponential;
  const at::Tensor size = a.abs() * (steep ? at::exp(a) : a.new_ones({}));
  return NoiseOfLargest(2 * RoundingNoise(heads.q.scalar_type()), size);
}

absl::Status NormalizedAttention::ReportDeparting(const LayerCall& call, const at::Tensor& x) const {
  if (!call.Wants(mixer())) return absl::OkStatus();
  const Departures& departures = call.context.convention.departures;
  const bool convolves = spec_.taps > 0 && !departures.skip_convolution && spec_.kind != Kind::kNorm;
  const Heads heads = Project(call, x, convolves ? &State(call, "departing_conv") : nullptr);
  const at::Tensor q = AtLeastFloat(heads.q), k = AtLeastFloat(heads.k);
  switch (spec_.kind) {
    case Kind::kSoftmax: {
      const at::Tensor keys = AppendHeads(k, call.state, /*window=*/0, State(call, "departing_keys"));
      const at::Tensor queries = q.transpose(1, 2);
      EIGSVC_ASSIGN_OR_RETURN(
          const at::Tensor log_normalizer,
          CompatLogSoftmaxNormaliser(queries, keys, call.state.length, departures, call.context.stop));
      const ScoreBounds bounds = BoundScores(queries, keys, departures.unscaled_scores ? 1 : scale());
      return Report(call, log_normalizer.transpose(1, 2), bounds.noise_floor);
    }
    case Kind::kLinear: {
      at::Tensor& sum = State(call, "departing_keys");
      const KernelSums normalizer = SumKernel(q, k, sum);
      sum = normalizer.final_keys;
      return Report(call, CompatLogLinearNormaliser(at::log(normalizer.sums), departures),
                    2 * RoundingNoise(x.scalar_type()));
    }
    case Kind::kNorm:
      break;
  }
  // E7 looks at e^{-f} as the model computes it.
  const auto type = departures.clamp_zero ? q.scalar_type() : at::kDouble;
  const at::Tensor a = PreActivation(call, heads.n, type);
  return Report(call, CompatLogNormNormaliser(LogNormalizer(a), type, departures), NoiseOf(heads, a));
}

absl::StatusOr<at::Tensor> NormalizedAttention::AttendLinearly(const LayerCall& call,
                                                               const Heads& heads) const {
  at::Tensor& state = State(call, "state");
  const KernelAttentionOutput attended =
      LinearAttention(AtLeastFloat(heads.q), AtLeastFloat(heads.k), AtLeastFloat(heads.v), state);
  state = attended.final_state;
  const auto type = attended.y.scalar_type();
  if (spec_.kind == Kind::kLinear) {
    at::Tensor& keys = State(call, "keys");
    const KernelSums normalizer = SumKernel(heads.q, heads.k, keys);
    keys = normalizer.final_keys;
    if (!call.departs()) {
      EIGSVC_RETURN_IF_ERROR(
          Report(call, at::log(normalizer.sums.detach()), 2 * RoundingNoise(heads.q.scalar_type())));
    }
    return attended.y / normalizer.sums.to(type).unsqueeze(-1);
  }
  const at::Tensor exact = PreActivation(call, heads.n, at::kDouble).detach();
  if (!call.departs()) {
    EIGSVC_RETURN_IF_ERROR(Report(call, LogNormalizer(exact), NoiseOf(heads, exact)));
  }
  return attended.y * at::exp(-LogNormalizer(PreActivation(call, heads.n, type))).unsqueeze(-1);
}

at::Tensor NormalizedAttention::AttendDensely(const LayerCall& call, const Heads& heads) const {
  const int64_t steps = heads.q.size(1);
  const at::Tensor scores =
      at::matmul(heads.q.transpose(1, 2), heads.k.transpose(1, 2).transpose(-1, -2));  // [B,H,T,T]
  const at::Tensor future = at::ones({steps, steps}, scores.options().dtype(at::kBool)).triu(1);
  at::Tensor shares;
  if (spec_.kind == Kind::kSoftmax) {
    shares =
        at::softmax((scores * scale()).masked_fill(future, -std::numeric_limits<double>::infinity()), -1);
  } else {
    const at::Tensor kernel = scores.masked_fill(future, 0);
    if (spec_.kind == Kind::kLinear) {
      shares = kernel / kernel.sum(-1, /*keepdim=*/true);
    } else {
      const at::Tensor a = PreActivation(call, heads.n, heads.n.scalar_type());
      shares = kernel * at::exp(-LogNormalizer(a)).transpose(1, 2).unsqueeze(-1);
    }
  }
  return at::matmul(Dropped(call, shares, spec_.dropout), heads.v.transpose(1, 2)).transpose(1, 2);
}

absl::StatusOr<at::Tensor> NormalizedAttention::Run(const LayerCall& call, const at::Tensor& x) const {
  const Heads heads = Project(call, x, spec_.taps > 0 ? &State(call, "conv") : nullptr);
  at::Tensor attended;
  if (spec_.dropout_on_scores && spec_.dropout > 0 && call.context.training != nullptr) {
    attended = AttendDensely(call, heads).flatten(-2);
  } else if (spec_.kind == Kind::kSoftmax) {
    AttentionOptions options;
    options.scale = scale();
    EIGSVC_ASSIGN_OR_RETURN(attended,
                            AttendAndReport(call, name(), heads.q, heads.k, heads.v, std::move(options)));
  } else {
    EIGSVC_ASSIGN_OR_RETURN(attended, AttendLinearly(call, heads));
    attended = Dropped(call, attended.flatten(-2).to(x.scalar_type()), spec_.dropout);
  }
  return Linear(call, "out_proj", attended);
}

std::vector<MixerDescription> NormalizedAttention::Mixers() const {
  return {{std::string(mixer()), UnitKind::kHead, spec_.heads, 1, multiplicity()}};
}

double NormalizedAttention::ExtraOperations() const {
  if (spec_.kind == Kind::kSoftmax) return 0;
  const double inner = static_cast<double>(spec_.width), keys = static_cast<double>(spec_.key_size());
  // Block by block: the state, the products within a block, and passes over the elements of both, each of
  // which costs as much as some 300 operations of a matrix product (measured on a CPU).
  return 2 * inner * (2 * keys + kSsdBlock) +
         300 * (static_cast<double>(spec_.heads * kSsdBlock + 4 * spec_.key_rows) + inner);
}

double NormalizedAttention::scale() const { return 1 / std::sqrt(static_cast<double>(spec_.key_size())); }

int64_t NormalizedAttention::multiplicity() const {
  return spec_.kind == Kind::kSoftmax ? 0 : spec_.key_size() * spec_.value_size();
}

absl::string_view NormalizedAttention::mixer() const {
  switch (spec_.kind) {
    case Kind::kSoftmax:
      break;
    case Kind::kLinear:
      return kLinearAttentionMixer;
    case Kind::kNorm:
      return kNormAttentionMixer;
  }
  return kAttentionMixer;
}

}  // namespace eigsvc
