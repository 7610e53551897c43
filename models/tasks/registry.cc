// The one table of tasks.
#include <algorithm>
#include <array>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "models/base/status_macros.h"
#include "models/base/status_util.h"
#include "models/tasks/cifar.h"
#include "models/tasks/delay.h"
#include "models/tasks/imdb.h"
#include "models/tasks/listops.h"
#include "models/tasks/mqar.h"
#include "models/tasks/next_token.h"
#include "models/tasks/readers/data_files.h"
#include "models/tasks/selective_copying.h"
#include "models/tasks/task.h"
#include "models/tasks/wikitext.h"

namespace eigsvc {
namespace {

absl::Status CheckParameterNames(const TaskEntry& entry, const Settings& parameters) {
  std::vector<std::string> known;
  for (const TaskParameter& parameter : entry.parameters) known.emplace_back(parameter.name);
  for (const std::string& key : parameters.Keys()) {
    if (std::find(known.begin(), known.end(), key) != known.end()) continue;
    return absl::InvalidArgumentError(
        UnknownName(absl::StrCat("parameter of task ", entry.name), key, known).message());
  }
  return absl::OkStatus();
}

absl::Status CheckDataNeed(const TaskEntry& entry, const std::string& data_path) {
  if (entry.data.need == TaskData::Need::kRequired && data_path.empty()) {
    std::string files;
    for (const TaskData::File& file : entry.data.files) {
      absl::StrAppend(&files, files.empty() ? "" : ", ", file.name);
    }
    return absl::InvalidArgumentError(absl::StrCat("task ", entry.name, " needs data (", files,
                                                   "): pass --data DIR or FILE; `eigsvc tasks describe ",
                                                   entry.name, "` says what it must hold"));
  }
  if (entry.data.need == TaskData::Need::kNone && !data_path.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("task ", entry.name, " makes its own data: leave out --data ", data_path));
  }
  return absl::OkStatus();
}

// A file under its published name is the published one. The data of a subset goes by another name.
absl::Status CheckChecksum(const TaskEntry& entry, const TaskRequest& request) {
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(request.data_path, ignored)) return absl::OkStatus();
  for (const TaskData::File& file : entry.data.files) {
    if (file.checksum.empty() || file.name != BaseNameOf(request.data_path)) continue;
    return CheckPublished(request.data_path, file.checksum, request.stop);
  }
  return absl::OkStatus();
}

}  // namespace

absl::Span<const TaskEntry> Tasks() {
  static const auto* const tasks = new std::array{
      CifarEntry(),
      DelayEntry(),
      ImdbEntry(),
      ListOpsEntry(),
      MqarEntry(),
      NextTokenEntry(),
      SelectiveCopyingEntry(),
      WikiText103Entry(),
      WikiText2Entry(),
  };
  return *tasks;
}

absl::StatusOr<const TaskEntry*> FindTask(absl::string_view name) {
  std::vector<std::string> known;
  for (const TaskEntry& entry : Tasks()) {
    if (entry.name == name) return &entry;
    known.emplace_back(entry.name);
  }
  return UnknownName("task", name, known);
}

absl::StatusOr<Settings> ExpandPreset(const TaskEntry& entry, const Settings& parameters) {
  if (!parameters.Has("preset")) return parameters;
  EIGSVC_ASSIGN_OR_RETURN(const std::string name, parameters.Text("preset"));
  std::vector<std::string> known;
  for (const TaskPreset& preset : entry.presets) {
    known.emplace_back(preset.name);
    if (preset.name != name) continue;
    EIGSVC_ASSIGN_OR_RETURN(const Settings base,
                            Settings::Parse(preset.parameters_json, absl::StrCat("preset ", name)));
    nlohmann::json given = parameters.object();
    given.erase("preset");
    return base.MergedWith(Settings(std::move(given), parameters.origin()));
  }
  return UnknownName(absl::StrCat("preset of task ", entry.name), name, known);
}

absl::StatusOr<std::shared_ptr<const Task>> MakeTask(absl::string_view name, const TaskRequest& request) {
  EIGSVC_ASSIGN_OR_RETURN(const TaskEntry* entry, FindTask(name));
  TaskRequest expanded = request;
  EIGSVC_ASSIGN_OR_RETURN(expanded.parameters, ExpandPreset(*entry, request.parameters));
  EIGSVC_RETURN_IF_ERROR(CheckParameterNames(*entry, expanded.parameters));
  EIGSVC_RETURN_IF_ERROR(CheckDataNeed(*entry, expanded.data_path));
  EIGSVC_ASSIGN_OR_RETURN(std::shared_ptr<const Task> task, entry->make(expanded));
  // Last, as whatever else is wrong is told with the place where it is.
  EIGSVC_RETURN_IF_ERROR(CheckChecksum(*entry, expanded));
  return task;
}

}  // namespace eigsvc
