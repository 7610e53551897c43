#include "models/mixers/delta_rule.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "ATen/TensorOperators.h"
#include "ATen/core/IListRef.h"
#include "ATen/ops/cat.h"
#include "ATen/ops/exp.h"
#include "ATen/ops/stack.h"
#include "ATen/ops/zeros_like.h"
#include "models/base/status_macros.h"
#include "models/transition/noise_floor.h"

namespace eigsvc {
namespace {

// Λ = diag(exp(log_decay)) - u wᵀ for u, w [B,T,H,K,R].
absl::Status ReportTransition(const LayerCall& call, absl::string_view mixer, const at::Tensor& log_decay,
                              const at::Tensor& u, const at::Tensor& w, int64_t multiplicity,
                              at::ScalarType dtype) {
  // A matrix a head and step: reported in chunks of time that keep u, w and d small.
  constexpr int64_t kElements = 1 << 22;
  const int64_t steps = u.size(1), piece = std::max<int64_t>(kElements * steps / u.numel(), 1);
  for (int64_t begin = 0; begin < steps; begin += piece) {
    const auto wide = [&](const at::Tensor& x) {
      return x.detach().narrow(1, begin, std::min(piece, steps - begin)).to(at::kDouble);
    };
    DiagonalPlusLowRank kind;
    kind.u = wide(u);
    kind.v = wide(w);
    kind.d = at::exp(wide(log_decay));
    kind.multiplicity = multiplicity;
    Transition transition;
    transition.kind = std::move(kind);
    transition.first_step = call.state.position + begin;
    transition.noise_floor = RoundingNoise(dtype);
    EIGSVC_RETURN_IF_ERROR(call.Report(mixer, UnitKind::kHead, std::move(transition)));
  }
  return absl::OkStatus();
}

// Π_j (I - β_j k_j k_jᵀ) = I - U Wᵀ, factors from right to left: u_j = β_j k_j and
// w_j = k_j - Σ_{i<j} (u_i·k_j) w_i.
struct Factors {
  at::Tensor u, w;  // [B,T,H,K,J]
};
Factors ProductOfReflections(const at::Tensor& k, const at::Tensor& beta) {
  std::vector<at::Tensor> u, w;
  for (int64_t j = 0; j < k.size(2); ++j) {
    const at::Tensor key = k.select(2, j);
    at::Tensor seen = key;
    for (int64_t i = 0; i < j; ++i) seen = seen - (u[i] * key).sum(-1, /*keepdim=*/true) * w[i];
    u.push_back(beta.select(2, j) * key);
    w.push_back(seen);
  }
  return {at::stack(u, -1), at::stack(w, -1)};
}

}  // namespace

absl::StatusOr<at::Tensor> RunDeltaRule(const LayerCall& call, absl::string_view mixer, at::Tensor& kept,
                                        DeltaRuleInput input, at::ScalarType dtype) {
  input.initial_state = kept;
  LinearAttentionOutput output = DeltaRule(input);
  kept = output.final_state;
  if (call.Wants(mixer)) {
    EIGSVC_RETURN_IF_ERROR(ReportTransition(call, mixer, input.log_decay, input.u.unsqueeze(-1),
                                            input.w.unsqueeze(-1), input.v.size(3), dtype));
  }
  return output.o;
}

absl::StatusOr<at::Tensor> RunDeltaWrites(const LayerCall& call, absl::string_view mixer, at::Tensor& kept,
                                          const DeltaWrites& writes, at::ScalarType dtype) {
  const int64_t count = writes.k.size(2);
  if (count == 1) {
    const at::Tensor k = writes.k.squeeze(2), beta = writes.beta.squeeze(2);
    return RunDeltaRule(call, mixer, kept,
                        {writes.q,
                         k,
                         beta * k,
                         at::exp(writes.log_decay) * k,
                         beta * writes.v.squeeze(2),
                         writes.log_decay,
                         {}},
                        dtype);
  }
  // Every write is a step of its own, of which the first decays and the last is read.
  const auto on_its_own = [](const at::Tensor& x) { return x.flatten(1, 2); };
  const at::Tensor none = at::zeros_like(writes.log_decay).unsqueeze(2).expand({-1, -1, count - 1, -1, -1});
  const at::Tensor log_decay = on_its_own(at::cat({writes.log_decay.unsqueeze(2), none}, 2));
  const at::Tensor k = on_its_own(writes.k), beta = on_its_own(writes.beta);
  const at::Tensor q = on_its_own(writes.q.unsqueeze(2).expand({-1, -1, count, -1, -1}));
  LinearAttentionOutput output =
      DeltaRule({q, k, beta * k, at::exp(log_decay) * k, beta * on_its_own(writes.v), log_decay, kept});
  kept = output.final_state;
  if (call.Wants(mixer)) {
    const Factors factors = ProductOfReflections(writes.k.detach(), writes.beta.detach());
    EIGSVC_RETURN_IF_ERROR(ReportTransition(call, mixer, writes.log_decay,
                                            factors.u * at::exp(writes.log_decay.detach()).unsqueeze(-1),
                                            factors.w, writes.v.size(4), dtype));
  }
  return output.o.unflatten(1, {-1, count}).select(2, count - 1);
}

MixerDescription DescribeDeltaRule(std::string mixer, int64_t heads, int64_t key_size, int64_t value_size,
                                   int64_t writes, bool one_decay) {
  MixerDescription description;
  description.mixer = std::move(mixer);
  description.units = heads;
  // With one decay, the dimensions that no write reaches share it.
  const bool shared = one_decay && writes < key_size;
  description.eigenvalues_per_unit = shared ? writes + 1 : key_size;
  description.multiplicity = shared ? (key_size - writes) * value_size : value_size;
  description.form = TransitionForm::kDiagonalPlusLowRank;
  return description;
}

double DeltaRuleOperations(int64_t heads, int64_t key_size, int64_t value_size) {
  const auto k = static_cast<double>(key_size), v = static_cast<double>(value_size),
             block = static_cast<double>(DeltaRuleBlock(key_size));
  // Products inside a block, the block's map, and the state's way through it.
  return 2 * static_cast<double>(heads) * (block * (4 * k + 4 * v) + 2 * k * k + 4 * k * v);
}

}  // namespace eigsvc
