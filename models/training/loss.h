// The training loss.
#pragma once

#include "ATen/core/Tensor.h"
#include "absl/status/statusor.h"
#include "models/base/stop_token.h"
#include "models/tasks/task.h"
#include "models/zoo/sequence_model.h"

namespace eigsvc {

// Mean cross-entropy over the batch's labelled positions, nats; a scalar with a graph behind it where
// `weights` need gradients. Only labelled positions go through the head. Inputs and targets are what the
// model takes (CheckBatch). FAILED_PRECONDITION: no position of the batch is labelled.
// `training`: what only training does; null: the model runs as it is used.
absl::StatusOr<at::Tensor> TrainingLoss(const SequenceModel& model, const ModelWeights& weights,
                                        const Batch& batch, const StopToken& stop,
                                        TrainingMode* training = nullptr);

}  // namespace eigsvc
