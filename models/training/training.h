// Training: AdamW with linear warm-up and cosine decay on a task's train split; the spectrum is watched as it
// moves. The same layer functions as the analysis, on cloned weights with gradients.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "models/analysis/analysis.h"
#include "models/archive/archive.h"
#include "models/base/job_limits.h"
#include "models/base/stop_token.h"
#include "models/tasks/task.h"
#include "models/zoo/sequence_model.h"

namespace eigsvc {

struct TrainingOptions {
  int64_t steps = kDefaultTrainingSteps;
  int64_t batch_size = 64;
  double learning_rate = kDefaultLearningRate;  // peak
  double final_learning_rate = 0;               // at the last step of the cosine
  int64_t warmup_steps = 0;
  double weight_decay = 0.1;  // of matrices; not of decay rates and the like
  // Of what the eigenvalues are made of (Parameter::recurrence): the peak, and whether they decay too.
  double recurrence_learning_rate = 0;  // 0: learning_rate
  bool decay_recurrence = false;
  double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8;
  double gradient_clip = 1.0;   // global L2 norm; 0: off
  uint64_t seed = 1;            // of the order of batches; the model's own seed made its initial weights
  int64_t eval_every = 200;     // steps; also at the end
  int64_t eval_examples = 512;  // of the test split
  double stop_at_score = 0;     // end early once the evaluation's accuracy reaches it; 0: never
  std::string output_path;      // of the best checkpoint, by evaluation score; empty: not written
  std::string last_path;        // of the last one, with the optimiser's state; empty: not written
  std::string resume_path;      // an earlier run's last one: optimiser state and step are restored from it
  const ContentsReader* reader = nullptr;  // who takes that file apart, as in ArchiveOptions
};

struct TrainingProgress {
  int64_t step = 0, steps = 0;
  double loss = 0, learning_rate = 0, gradient_norm = 0;  // loss: mean since the last report, nats
  double tokens_per_second = 0;
  bool evaluated = false;
  Score score;  // when evaluated
  double best_score = 0;
  const std::vector<SiteSpectrum>* sites = nullptr;  // when evaluated: spectra on the evaluation examples
};

struct TrainingResult {
  int64_t steps = 0, best_step = 0;
  Score best, last;
  double final_loss = 0;
  // best_path is empty when no evaluation of a resumed run beat the earlier best: that file holds the best
  // still.
  std::string best_path, last_path;
  std::vector<SiteSpectrum> sites;  // of the last evaluation
  absl::Duration total_time;
};

// FAILED_PRECONDITION: the task does not fit the model (CheckFits); a resume file of another architecture.
// ABORTED: the loss is not finite (names the step). CANCELLED, DEADLINE_EXCEEDED: the last checkpoint is
// written first. After any other error it is that of the last evaluation.
absl::StatusOr<TrainingResult> RunTraining(const SequenceModel& model, const Task& task,
                                           const TrainingOptions& options,
                                           const std::function<void(const TrainingProgress&)>& progress,
                                           const StopToken& stop);

}  // namespace eigsvc
