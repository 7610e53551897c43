// AdamW with decoupled weight decay (arXiv 1711.05101) through LibTorch's fused operator, and the schedule of
// its learning rate.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "ATen/core/Tensor.h"
#include "models/training/training.h"
#include "models/zoo/sequence_model.h"

namespace eigsvc {

// One tensor being trained. Tied tensors are one parameter.
struct Parameter {
  std::string key;  // in the checkpoint
  at::Tensor value, first_moment, second_moment;
  bool decays = false;
  // What the eigenvalues are made of, and what goes with it: Λ, ν, θ, Δ, B, D and the like.
  bool recurrence = false;
};

// The parameters of `weights`, in the plan's order, with zero moments. Weight decay shrinks matrices; gains,
// biases, decay rates and step sizes have no scale it could mean (TrainingOptions::decay_recurrence: the
// latter two shrink as well).
std::vector<Parameter> ListParameters(const SequenceModel& model, const ModelWeights& weights);

// Linear from 0 over the warm-up, then half a cosine from the peak to the final rate, reached at the last
// step. `step` counts from 0. Of a recurrence's parameters the same from their own peak.
double LearningRate(const TrainingOptions& options, int64_t step, bool recurrence = false);

// Throws like LibTorch; `step` counts from 0. Takes the gradients, clips them to the global norm and updates
// value and moments, without a wait for the device. Returns the norm before clipping, a scalar, where the
// parameters are if one has a gradient; when that is not finite, nothing is changed.
at::Tensor AdamWStep(std::vector<Parameter>& parameters, const TrainingOptions& options, int64_t step);

}  // namespace eigsvc
