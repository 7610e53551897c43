// The scored positions of a batch. Only they go through the head: logits of every position would be [B,T,V],
// most of which nobody asks for.
#pragma once

#include <cstdint>
#include <vector>

#include "ATen/core/Tensor.h"
#include "absl/status/statusor.h"
#include "c10/core/Device.h"
#include "models/base/stop_token.h"
#include "models/tasks/task.h"
#include "models/zoo/sequence_model.h"

namespace eigsvc {

struct Labelled {
  std::vector<int64_t> positions;  // row * target_steps + step, in batch order
  std::vector<int64_t> targets;    // as many
};
Labelled FindLabelled(const Batch& batch);

// FAILED_PRECONDITION unless the model can run the task: it takes what the task feeds (tokens of a vocabulary
// that is large enough, or as many real numbers a step), tells as many classes apart as the task has, and
// answers as often as it is asked. Names both sides and the remedy.
absl::Status CheckFits(const Task& task, const ModelDescription& model);

// INVALID_ARGUMENT unless every token of the batch lies below the model's vocabulary, every target below its
// classes, and every value is finite; names task, example, position and both numbers. What a device would do
// with such an id is undefined, so this runs first.
absl::Status CheckBatch(const Task& task, const Batch& batch, Split split, int64_t first_example,
                        const ModelDescription& model);

// Throws like LibTorch, on `device`: tokens [B,T] int64, or real numbers [B,T,channels] float32; a list of
// numbers.
at::Tensor InputTensor(const Batch& batch, c10::Device device);
at::Tensor IndexTensor(const std::vector<int64_t>& values, c10::Device device);
// What the targets of the batch are asked of, of the last hidden states x [B,T,D]: x itself, or where the
// task asks once a sequence [B,1,D], what the model makes of each row's real steps.
absl::StatusOr<at::Tensor> AskedStates(const SequenceModel& model, const ModelWeights& weights,
                                       const at::Tensor& x, const Batch& batch);
// x [B,S,D] -> [1,M,D], the rows at `positions` [M].
at::Tensor GatherPositions(const at::Tensor& x, const at::Tensor& positions);

// Head and scores of the labelled positions, given the last hidden states x [B,T,D], a bounded number of
// logits at a time. Ties go to the lowest class. Needs no gradients.
absl::StatusOr<std::vector<Prediction>> Predict(const SequenceModel& model, const ModelWeights& weights,
                                                const Batch& batch, int64_t first_example,
                                                const at::Tensor& x, const StopToken& stop);

}  // namespace eigsvc
