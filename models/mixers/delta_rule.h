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

// What it reports. `one_decay`: the dimensions that the write does not reach share an eigenvalue.
MixerDescription DescribeDeltaRule(std::string mixer, int64_t heads, int64_t key_size, int64_t value_size,
                                   bool one_decay);

// Operations of DeltaRule for one step: for Module::ExtraOperations.
double DeltaRuleOperations(int64_t heads, int64_t key_size, int64_t value_size);

}  // namespace eigsvc
