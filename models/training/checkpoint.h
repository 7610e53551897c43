// Checkpoints of a training run: the best one is a plain checkpoint; the last one also holds the optimiser.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "models/tasks/task.h"
#include "models/training/optimizer.h"
#include "models/training/training.h"
#include "models/zoo/sequence_model.h"

namespace eigsvc {

// Where a run stands, beside weights and moments.
struct TrainingRecord {
  int64_t step = 0;  // steps done
  bool evaluated = false;
  int64_t best_step = 0;
  double best_score = 0;
};

// Settings of both kinds: `task` {name, parameters}, the task's defaults when the checkpoint is analysed, and
// `training`, the record and the options that made it.
absl::Status SaveBest(const SequenceModel& model, const ModelWeights& weights, const Task& task,
                      const TrainingOptions& options, const TrainingRecord& record, const std::string& path);
absl::Status SaveLast(const SequenceModel& model, const ModelWeights& weights, const Task& task,
                      const TrainingOptions& options, const TrainingRecord& record,
                      const std::vector<Parameter>& parameters, const std::string& path);

struct ResumedTraining {
  ModelWeights weights;  // with gradients
  std::vector<Parameter> parameters;
  TrainingRecord record;
};
// FAILED_PRECONDITION: a checkpoint of another architecture than `model`, or without an optimiser's state.
// CANCELLED, DEADLINE_EXCEEDED. `reader`: as in ArchiveOptions.
absl::StatusOr<ResumedTraining> LoadLast(const SequenceModel& model, const std::string& path,
                                         const ContentsReader* reader, const StopToken& stop);

}  // namespace eigsvc
