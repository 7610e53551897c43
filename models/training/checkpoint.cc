#include "models/training/checkpoint.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "models/archive/archive.h"
#include "models/base/status_macros.h"
#include "models/base/status_util.h"
#include "models/tensor/from_archive.h"
#include "models/tensor/torch_call.h"
#include "models/zoo/registry.h"

namespace eigsvc {
namespace {

std::string FirstMomentName(const Parameter& parameter) {
  return absl::StrCat(kOptimizerPrefix, "first_moment.", parameter.key);
}
std::string SecondMomentName(const Parameter& parameter) {
  return absl::StrCat(kOptimizerPrefix, "second_moment.", parameter.key);
}

Settings Extra(const Task& task, const TrainingOptions& options, const TrainingRecord& record) {
  Settings described_task;
  described_task.Set("name", task.name());
  described_task.Set("parameters", task.parameters());
  Settings training;
  training.Set("step", record.step);
  training.Set("steps", options.steps);
  training.Set("batch_size", options.batch_size);
  training.Set("learning_rate", options.learning_rate);
  training.Set("final_learning_rate", options.final_learning_rate);
  training.Set("warmup_steps", options.warmup_steps);
  training.Set("weight_decay", options.weight_decay);
  if (options.recurrence_learning_rate > 0)
    training.Set("recurrence_learning_rate", options.recurrence_learning_rate);
  if (options.decay_recurrence) training.Set("decay_recurrence", true);
  training.Set("beta2", options.beta2);
  training.Set("gradient_clip", options.gradient_clip);
  training.Set("seed", static_cast<int64_t>(options.seed));
  if (record.evaluated) {
    training.Set("best_step", record.best_step);
    training.Set("best_score", record.best_score);
  }
  Settings extra;
  extra.Set("task", described_task);
  extra.Set("training", training);
  return extra;
}

absl::Status RestoreMoment(const Archive& archive, const std::string& name, at::Tensor& moment) {
  const auto found = archive.tensors().find(name);
  if (found == archive.tensors().end()) {
    return absl::FailedPreconditionError(
        absl::StrCat(archive.name(), " has no ", name,
                     "; resume from the last checkpoint of a training run (NAME.last.safetensors)"));
  }
  EIGSVC_ASSIGN_OR_RETURN(const at::Tensor stored, TensorFromArchive(found->second));
  return CallTorchStatus(name, [&]() -> absl::Status {
    if (stored.sizes() != moment.sizes() || stored.scalar_type() != moment.scalar_type()) {
      return absl::FailedPreconditionError(
          absl::StrCat(archive.name(), ": the shape or type is not that of the parameter"));
    }
    moment = stored.to(moment.device(), stored.scalar_type(), /*non_blocking=*/false, /*copy=*/true);
    return absl::OkStatus();
  });
}

}  // namespace

absl::Status SaveBest(const SequenceModel& model, const ModelWeights& weights, const Task& task,
                      const TrainingOptions& options, const TrainingRecord& record, const std::string& path) {
  return SaveModel(model, weights, Extra(task, options, record), path);
}

absl::Status SaveLast(const SequenceModel& model, const ModelWeights& weights, const Task& task,
                      const TrainingOptions& options, const TrainingRecord& record,
                      const std::vector<Parameter>& parameters, const std::string& path) {
  absl::btree_map<std::string, at::Tensor> moments;
  for (const Parameter& parameter : parameters) {
    moments[FirstMomentName(parameter)] = parameter.first_moment;
    moments[SecondMomentName(parameter)] = parameter.second_moment;
  }
  return SaveModel(model, weights, Extra(task, options, record), path, moments);
}

absl::StatusOr<ResumedTraining> LoadLast(const SequenceModel& model, const std::string& path,
                                         const ContentsReader* reader, const StopToken& stop) {
  EIGSVC_ASSIGN_OR_RETURN(const Archive archive, Archive::Open(path, {.stop = &stop, .reader = reader}));
  const LoadOptions load{
      .device = model.weights().Distinct().front().device(), .dtype = model.dtype(), .stop = &stop};
  EIGSVC_ASSIGN_OR_RETURN(const std::shared_ptr<const SequenceModel> stored,
                          LoadModel(archive, Settings(), load));
  const ModelDescription& described = stored->description();
  if (described.family != model.description().family ||
      described.settings.ToJson() != model.description().settings.ToJson()) {
    return absl::FailedPreconditionError(absl::StrCat(
        archive.name(), " is of another architecture than the model to train: ", described.family, " ",
        described.settings.ToJson(), " against ", model.description().family, " ",
        model.description().settings.ToJson()));
  }
  ResumedTraining resumed;
  EIGSVC_ASSIGN_OR_RETURN(const Settings training, archive.settings().Child("training"));
  EIGSVC_ASSIGN_OR_RETURN(resumed.record.step, training.Int("step"));
  resumed.record.evaluated = training.Has("best_score");
  if (resumed.record.evaluated) {
    EIGSVC_ASSIGN_OR_RETURN(resumed.record.best_step, training.Int("best_step"));
    EIGSVC_ASSIGN_OR_RETURN(resumed.record.best_score, training.Real("best_score"));
  }
  EIGSVC_ASSIGN_OR_RETURN(
      resumed.weights, CallTorch("resume", [&] { return stored->weights().Clone(/*requires_grad=*/true); }));
  EIGSVC_ASSIGN_OR_RETURN(resumed.parameters,
                          CallTorch("resume", [&] { return ListParameters(model, resumed.weights); }));
  for (Parameter& parameter : resumed.parameters) {
    EIGSVC_RETURN_IF_ERROR(stop.Check());
    EIGSVC_RETURN_IF_ERROR(RestoreMoment(archive, FirstMomentName(parameter), parameter.first_moment));
    EIGSVC_RETURN_IF_ERROR(RestoreMoment(archive, SecondMomentName(parameter), parameter.second_moment));
  }
  return resumed;
}

}  // namespace eigsvc
