// What the mixers with a delta rule share: running it over the kept state, and reporting its transition from
// the very tensors it ran on.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "models/layers/delta_rule.h"
#include "models/mixers/module.h"

namespace eigsvc {

// o [B,T,H,V] of `input`, whose initial state is what the state keeps under `kept`. To the tap, as `mixer`:
// Λ = diag(exp(log_decay)) - u wᵀ of each head, acting on the keys' side of S, so that each eigenvalue is
// shared by V dimensions. `dtype`: what the model's activations are rounded to, for the noise floor.
absl::StatusOr<at::Tensor> RunDeltaRule(const LayerCall& call, absl::string_view mixer, at::Tensor& kept,
                                        DeltaRuleInput input, at::ScalarType dtype);

// A step decays once and then writes J times: Λ = Π_j (I - β_j k_j k_jᵀ) diag(exp(log_decay)), j from right
// to left.
struct DeltaWrites {
  at::Tensor q;          // [B,T,H,K], scaled
  at::Tensor k;          // [B,T,J,H,K]
  at::Tensor v;          // [B,T,J,H,V]
  at::Tensor beta;       // [B,T,J,H,1]
  at::Tensor log_decay;  // [B,T,H,K] or [B,T,H,1]
};
// The same for these. REQUIRES J = 1 or one decay for all dimensions: then Λ has rank J beside it.
absl::StatusOr<at::Tensor> RunDeltaWrites(const LayerCall& call, absl::string_view mixer, at::Tensor& kept,
                                          const DeltaWrites& writes, at::ScalarType dtype);

// What either reports, of `writes` a step.
MixerDescription DescribeDeltaRule(std::string mixer, int64_t heads, int64_t key_size, int64_t value_size,
                                   int64_t writes, bool one_decay);

// Operations of DeltaRule for one step: for Module::ExtraOperations.
double DeltaRuleOperations(int64_t heads, int64_t key_size, int64_t value_size);

}  // namespace eigsvc
