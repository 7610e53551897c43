// What a forward pass gave: logits, and the eigenvalues of every site that was reported.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "ATen/core/Tensor.h"
#include "absl/status/statusor.h"
#include "models/transition/eigenvalues.h"
#include "models/zoo/sequence_model.h"

namespace eigsvc::testing {

// All that a forward pass gave, on the CPU.
struct Outcome {
  at::Tensor logits;  // [B,T,V], or [B,V] of models that pool
  struct Reported {
    at::Tensor log_magnitude, phase;  // [B,T',U,K] float64, or [1,1,U,K] of a constant transition
    EigenvalueLayout layout;
  };
  std::map<std::string, Reported> sites;  // "layers.0.attention"
  std::vector<at::Tensor> activations;    // x [B,T,D] as embedded and after every layer
};

// Tokens [B,T] or real inputs [B,T,C], run in chunks that end at `cuts` and at T, reporting by `convention`,
// which is as asked. What a layer and the head are given is what is below them or, where there are
// `layer_inputs` [B,T,D], their own of those. INTERNAL for steps that are left out between chunks and for a
// constant transition that changes.
absl::StatusOr<Outcome> Run(const SequenceModel& model, const at::Tensor& inputs,
                            const std::set<int64_t>& cuts, const Convention& convention = {},
                            const std::vector<at::Tensor>& layer_inputs = {});

}  // namespace eigsvc::testing
