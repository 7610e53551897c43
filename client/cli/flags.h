// Flags that several commands share, and what they stand for in a request.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/cli/progress.h"
#include "client/cli/session.h"
#include "eigsvc/v1/checkpoint.pb.h"
#include "eigsvc/v1/model.pb.h"

namespace CLI {
class App;
}

namespace eigsvc::cli {

// Which weights.
struct ModelFlags {
  std::string checkpoint, model, config;
  std::optional<uint64_t> init_seed;
};
void AddModelFlags(CLI::App& command, ModelFlags& flags);
// Uploads where that is needed. UsageError when neither or both of --checkpoint and --model were given.
absl::StatusOr<v1::CheckpointRef> ResolveCheckpoint(Session& session, const ModelFlags& flags,
                                                    Progress& progress);
// A bare --checkpoint argument. A path that exists is the client's file; anything else a name at the server.
absl::StatusOr<v1::CheckpointRef> ResolveCheckpointArgument(Session& session, const std::string& argument,
                                                            Progress& progress);

// Which task.
struct TaskFlags {
  std::string task, split, data;
  uint64_t seed = 0;
  std::vector<std::string> params;
};
void AddTaskFlags(CLI::App& command, TaskFlags& flags, bool with_split);
absl::StatusOr<v1::TaskSpec> ResolveTask(Session& session, const TaskFlags& flags, Progress& progress);

// {"vocab":64} from {"vocab=64"}: values are JSON where they parse as such, else strings. UsageError.
absl::StatusOr<std::string> ParametersJson(const std::vector<std::string>& params);
// CLI11 takes what strtoull takes, which turns "-1" and what overflows into the largest number. For
// Option::check.
std::string CheckSeed(const std::string& text);
// The text of a regular file of at most 16 MiB. UsageError naming the flag: anything else could block or
// never end.
absl::StatusOr<std::string> ReadTextFile(absl::string_view flag, const std::string& path);
// The canonical object of --config: inline JSON when it starts with '{', else a file. Empty for empty.
// UsageError.
absl::StatusOr<std::string> ConfigJson(const std::string& argument);

}  // namespace eigsvc::cli
