#include "server/worker/task_setup.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "models/base/status_macros.h"

namespace eigsvc {
namespace {

absl::StatusOr<Settings> Parameters(const v1::TaskSpec& spec, const Settings& checkpoint_settings) {
  Settings recorded;
  const absl::StatusOr<std::string> name = checkpoint_settings.Text("task.name");
  if (name.ok() && *name == spec.name()) {
    EIGSVC_ASSIGN_OR_RETURN(recorded, checkpoint_settings.Child("task.parameters"));
  }
  if (spec.parameters_json().empty()) return recorded;
  EIGSVC_ASSIGN_OR_RETURN(const Settings given,
                          Settings::Parse(spec.parameters_json(), "the task's parameters (--param)"));
  return recorded.MergedWith(given);
}

}  // namespace

absl::StatusOr<std::shared_ptr<const Task>> SizeFreshModel(const v1::TaskSpec& spec,
                                                           const std::string& data_path,
                                                           worker::v1::ResolvedCheckpoint* checkpoint) {
  v1::CheckpointRef& ref = *checkpoint->mutable_ref();
  if (!ref.has_initializer()) return nullptr;
  Settings settings;
  if (!ref.settings_json().empty()) {
    EIGSVC_ASSIGN_OR_RETURN(settings, Settings::Parse(ref.settings_json(), "settings_json"));
  }
  if (settings.Has("vocab_size")) return nullptr;
  EIGSVC_ASSIGN_OR_RETURN(const Settings parameters, Parameters(spec, Settings()));
  EIGSVC_ASSIGN_OR_RETURN(std::shared_ptr<const Task> task,
                          MakeTask(spec.name(), parameters, spec.seed(), data_path));
  settings.Set("vocab_size", task->vocab_size());
  ref.set_settings_json(settings.ToJson());
  return task;
}

absl::StatusOr<std::shared_ptr<const Task>> SetUpTask(const v1::TaskSpec& spec, const std::string& data_path,
                                                      const Settings& checkpoint_settings,
                                                      const ModelDescription& model,
                                                      std::shared_ptr<const Task> made) {
  std::shared_ptr<const Task> task = std::move(made);
  if (task == nullptr) {
    EIGSVC_ASSIGN_OR_RETURN(const Settings parameters, Parameters(spec, checkpoint_settings));
    EIGSVC_ASSIGN_OR_RETURN(task, MakeTask(spec.name(), parameters, spec.seed(), data_path));
  }
  if (task->vocab_size() > model.vocab_size) {
    const absl::string_view remedy =
        task->parameters().Has("vocab_size")
            ? "lower the task's parameter vocab_size, or give a model with a larger vocabulary"
            : "give data of smaller token ids (another tokenizer?), or a model with a larger vocabulary";
    return absl::FailedPreconditionError(absl::StrCat(
        "task \"", spec.name(), "\" uses token ids up to ", task->vocab_size() - 1, ", but this ",
        model.family, " model has a vocabulary of ", model.vocab_size, "; ", remedy));
  }
  return task;
}

}  // namespace eigsvc
