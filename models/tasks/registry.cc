// The one table of tasks.
#include <algorithm>
#include <array>

#include "absl/strings/str_cat.h"
#include "models/base/status_macros.h"
#include "models/base/status_util.h"
#include "models/tasks/mqar.h"
#include "models/tasks/next_token.h"
#include "models/tasks/task.h"

namespace eigsvc {

absl::Span<const TaskEntry> Tasks() {
  static const auto* const tasks = new std::array{
      MqarEntry(),
      NextTokenEntry(),
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

absl::StatusOr<std::shared_ptr<const Task>> MakeTask(absl::string_view name, const Settings& parameters,
                                                     uint64_t seed, const std::string& data_path) {
  EIGSVC_ASSIGN_OR_RETURN(const TaskEntry* entry, FindTask(name));
  std::vector<std::string> known;
  for (const TaskParameter& parameter : entry->parameters) known.emplace_back(parameter.name);
  for (const std::string& key : parameters.Keys()) {
    if (std::find(known.begin(), known.end(), key) == known.end()) {
      return absl::InvalidArgumentError(
          UnknownName(absl::StrCat("parameter of task ", name), key, known).message());
    }
  }
  if (entry->needs_data && data_path.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("task ", name, " needs a data file: pass --data FILE"));
  }
  if (!entry->needs_data && !data_path.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("task ", name, " makes its own data: leave out --data ", data_path));
  }
  return entry->make(parameters, seed, data_path);
}

}  // namespace eigsvc
