#include "models/mixers/delta_rule.h"

#include <algorithm>
#include <utility>

#include "ATen/TensorOperators.h"
#include "ATen/ops/exp.h"
#include "models/base/status_macros.h"
#include "models/transition/noise_floor.h"

namespace eigsvc {
namespace {

// Λ = diag(exp(log_decay)) - u wᵀ for u, w [B,T,H,K,1].
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
    kind.similar_to_symmetric = true;
    Transition transition;
    transition.kind = std::move(kind);
    transition.first_step = call.state.position + begin;
    transition.noise_floor = RoundingNoise(dtype);
    EIGSVC_RETURN_IF_ERROR(call.Report(mixer, UnitKind::kHead, std::move(transition)));
  }
  return absl::OkStatus();
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

MixerDescription DescribeDeltaRule(std::string mixer, int64_t heads, int64_t key_size, int64_t value_size,
                                   bool one_decay) {
  MixerDescription description;
  description.mixer = std::move(mixer);
  description.units = heads;
  // With one decay, the dimensions that the write does not reach share it.
  const bool shared = one_decay && key_size > 1;
  description.eigenvalues_per_unit = shared ? 2 : key_size;
  description.multiplicity = shared ? (key_size - 1) * value_size : value_size;
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
