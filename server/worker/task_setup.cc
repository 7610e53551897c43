#include "server/worker/task_setup.h"

#include <algorithm>
#include <utility>

#include "models/analysis/labelled.h"
#include "models/base/status_macros.h"

namespace eigsvc {
namespace {

absl::StatusOr<Settings> Parameters(const v1::TaskSpec& spec, const Settings& checkpoint_settings) {
  EIGSVC_ASSIGN_OR_RETURN(const TaskEntry* entry, FindTask(spec.name()));
  Settings recorded;
  const absl::StatusOr<std::string> name = checkpoint_settings.Text("task.name");
  if (name.ok() && *name == spec.name()) {
    EIGSVC_ASSIGN_OR_RETURN(recorded, checkpoint_settings.Child("task.parameters"));
  }
  if (spec.parameters_json().empty()) return recorded;
  EIGSVC_ASSIGN_OR_RETURN(const Settings given,
                          Settings::Parse(spec.parameters_json(), "the task's parameters (--param)"));
  // A preset stands for what it holds before it meets what was recorded.
  EIGSVC_ASSIGN_OR_RETURN(const Settings expanded, ExpandPreset(*entry, given));
  return recorded.MergedWith(expanded);
}

}  // namespace

absl::StatusOr<std::shared_ptr<const Task>> SizeFreshModel(const v1::TaskSpec& spec, TaskRequest request,
                                                           worker::v1::ResolvedCheckpoint* checkpoint) {
  v1::CheckpointRef& ref = *checkpoint->mutable_ref();
  if (!ref.has_initializer()) return nullptr;
  Settings settings;
  if (!ref.settings_json().empty()) {
    EIGSVC_ASSIGN_OR_RETURN(settings, Settings::Parse(ref.settings_json(), "settings_json"));
  }
  if (settings.Has("vocab_size")) return nullptr;
  EIGSVC_ASSIGN_OR_RETURN(request.parameters, Parameters(spec, Settings()));
  request.seed = spec.seed();
  EIGSVC_ASSIGN_OR_RETURN(std::shared_ptr<const Task> task, MakeTask(spec.name(), request));
  if (task->signature().vocab_size == 0) return task;
  settings.Set("vocab_size", std::max(task->signature().vocab_size, task->signature().classes));
  ref.set_settings_json(settings.ToJson());
  return task;
}

absl::StatusOr<std::shared_ptr<const Task>> SetUpTask(const v1::TaskSpec& spec, TaskRequest request,
                                                      const Settings& checkpoint_settings,
                                                      const ModelDescription& model,
                                                      std::shared_ptr<const Task> made) {
  std::shared_ptr<const Task> task = std::move(made);
  if (task == nullptr) {
    EIGSVC_ASSIGN_OR_RETURN(request.parameters, Parameters(spec, checkpoint_settings));
    request.seed = spec.seed();
    EIGSVC_ASSIGN_OR_RETURN(task, MakeTask(spec.name(), request));
  }
  EIGSVC_RETURN_IF_ERROR(CheckFits(*task, model));
  return task;
}

}  // namespace eigsvc
