#include "server/worker/training_job.h"

#include <utility>

#include "models/base/status_macros.h"
#include "models/tensor/torch_call.h"
#include "models/training/training.h"
#include "server/worker/convert.h"
#include "server/worker/device_info.h"
#include "server/worker/task_setup.h"

namespace eigsvc {
namespace {

// Unset numbers keep the defaults of TrainingOptions, which the contract repeats.
TrainingOptions Options(const worker::v1::RunTrainingRequest& request, const ContentsReader* reader) {
  const v1::TrainingSpec& spec = request.spec();
  TrainingOptions options;
  options.seed = spec.task().seed();
  if (spec.has_steps()) options.steps = spec.steps();
  if (spec.has_batch_size()) options.batch_size = spec.batch_size();
  if (spec.has_learning_rate()) options.learning_rate = spec.learning_rate();
  if (spec.has_final_learning_rate()) options.final_learning_rate = spec.final_learning_rate();
  if (spec.has_warmup_steps()) options.warmup_steps = spec.warmup_steps();
  if (spec.has_weight_decay()) options.weight_decay = spec.weight_decay();
  if (spec.has_recurrence_learning_rate()) options.recurrence_learning_rate = spec.recurrence_learning_rate();
  options.decay_recurrence = spec.decay_recurrence();
  if (spec.has_beta2()) options.beta2 = spec.beta2();
  if (spec.has_gradient_clip()) options.gradient_clip = spec.gradient_clip();
  if (spec.has_eval_every()) options.eval_every = spec.eval_every();
  if (spec.has_eval_examples()) options.eval_examples = spec.eval_examples();
  if (spec.has_stop_at_score()) options.stop_at_score = spec.stop_at_score();
  options.output_path = request.output_path();
  options.last_path = request.last_path();
  if (spec.resume()) options.resume_path = request.start().path();
  options.reader = reader;
  return options;
}

absl::Status Run(const worker::v1::RunTrainingRequest& request, ModelPool& pool,
                 const std::function<void(worker::v1::RunTrainingResponse)>& on_event,
                 const StopToken& stop) {
  const auto new_event = [&] {
    worker::v1::RunTrainingResponse response;
    response.mutable_event()->set_training_id(request.training_id());
    return response;
  };
  const v1::TrainingSpec& spec = request.spec();
  EIGSVC_RETURN_IF_ERROR(FindTask(spec.task().name()).status());
  worker::v1::ResolvedCheckpoint start = request.start();
  const TaskRequest sources{.data_path = request.data_path(), .stop = &stop};
  EIGSVC_ASSIGN_OR_RETURN(std::shared_ptr<const Task> task, SizeFreshModel(spec.task(), sources, &start));
  EIGSVC_ASSIGN_OR_RETURN(const ModelPool::Handle model, pool.Acquire(start, "float32", stop, "all"));
  worker::v1::RunTrainingResponse loaded = new_event();
  *loaded.mutable_event()->mutable_model() = model->description;
  on_event(std::move(loaded));
  EIGSVC_ASSIGN_OR_RETURN(
      task, SetUpTask(spec.task(), sources, model->settings, model->model->description(), std::move(task)));

  // A stream may skip any progress but the newest, so each carries the newest evaluation.
  v1::TrainingProgress evaluated;
  const auto on_progress = [&](const TrainingProgress& progress) {
    worker::v1::RunTrainingResponse response = new_event();
    v1::TrainingProgress* out = response.mutable_event()->mutable_progress();
    *out = ProgressProto(progress);
    if (progress.evaluated) {
      evaluated = *out;
    } else if (evaluated.has_score()) {
      *out->mutable_score() = evaluated.score();
      out->set_score_step(evaluated.score_step());
      *out->mutable_sites() = evaluated.sites();
    }
    on_event(std::move(response));
  };
  EIGSVC_ASSIGN_OR_RETURN(
      const TrainingResult result,
      RunTraining(*model->model, *task, Options(request, pool.reader()), on_progress, stop));

  worker::v1::RunTrainingResponse ended = new_event();
  *ended.mutable_event()->mutable_result() = ResultProto(result);
  ended.mutable_event()->mutable_result()->mutable_versions()->insert(Versions().begin(), Versions().end());
  ended.set_best_path(result.best_path);
  ended.set_last_path(result.last_path);
  on_event(std::move(ended));
  return absl::OkStatus();
}

}  // namespace

absl::Status RunTrainingJob(const worker::v1::RunTrainingRequest& request, ModelPool& pool,
                            const std::function<void(worker::v1::RunTrainingResponse)>& on_event,
                            const StopToken& stop) {
  return CallTorch("training", [&] { return Run(request, pool, on_event, stop); });
}

}  // namespace eigsvc
