#include "client/cli/flags.h"

#include <CLI/App.hpp>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <system_error>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "client/cli/analysis_json.h"
#include "client/cli/exit_code.h"
#include "client/cli/upload.h"
#include "models/base/settings.h"
#include "models/base/status_macros.h"

namespace eigsvc::cli {
namespace {

constexpr int kDigestDigits = 64;

bool IsDigest(const std::string& text) {
  return text.size() == kDigestDigits && text.find_first_not_of("0123456789abcdef") == std::string::npos;
}

bool ExistsLocally(const std::string& path) {
  std::error_code ignored;
  return std::filesystem::exists(path, ignored);
}

absl::Status NoSuchFile(absl::string_view kind, const std::string& path) {
  return absl::NotFoundError(
      absl::StrCat("no such ", kind, ": ", path,
                   "; name an existing file or directory (names a server knows need --server)"));
}

}  // namespace

void AddModelFlags(CLI::App& command, ModelFlags& flags) {
  command.add_option("--checkpoint", flags.checkpoint,
                     "Weights: a file or directory here, else a name or SHA-256 at the server");
  command.add_option("--model", flags.model, "Without a checkpoint: this family, freshly initialised")
      ->type_name("FAMILY");
  command.add_option("--init-seed", flags.init_seed, "Seed of --model's initial weights (0)")
      ->type_name("SEED")
      ->check(CheckSeed);
  command.add_option("--config", flags.config, "Settings the checkpoint lacks: JSON, or a file of it")
      ->type_name("JSON|FILE");
}

absl::StatusOr<v1::CheckpointRef> ResolveCheckpoint(Session& session, const ModelFlags& flags,
                                                    Progress& progress) {
  if (flags.checkpoint.empty() == flags.model.empty()) {
    return UsageError(flags.model.empty()
                          ? "say which weights: --checkpoint FILE, or --model FAMILY for fresh ones"
                          : "--checkpoint and --model exclude each other: give one");
  }
  if (flags.init_seed.has_value() && flags.model.empty()) {
    return UsageError("--init-seed goes with --model; the twin of a checkpoint is --twin SEED");
  }
  EIGSVC_ASSIGN_OR_RETURN(const std::string settings, ConfigJson(flags.config));
  v1::CheckpointRef checkpoint;
  if (flags.model.empty()) {
    EIGSVC_ASSIGN_OR_RETURN(checkpoint, ResolveCheckpointArgument(session, flags.checkpoint, progress));
  } else {
    checkpoint.mutable_initializer()->set_family(flags.model);
    checkpoint.mutable_initializer()->set_seed(flags.init_seed.value_or(0));
  }
  checkpoint.set_settings_json(settings);
  return checkpoint;
}

absl::StatusOr<v1::CheckpointRef> ResolveCheckpointArgument(Session& session, const std::string& argument,
                                                            Progress& progress) {
  v1::CheckpointRef checkpoint;
  const bool local = ExistsLocally(argument);
  if (!local && !session.named_server()) return NoSuchFile("checkpoint", argument);
  if (!local) {
    if (IsDigest(argument)) {
      checkpoint.set_sha256(argument);
    } else {
      checkpoint.set_name(argument);
    }
    return checkpoint;
  }
  if (!session.named_server()) {
    checkpoint.set_local_path(std::filesystem::absolute(argument).string());
    return checkpoint;
  }
  EIGSVC_ASSIGN_OR_RETURN(UploadSource source, CheckpointFiles(argument));
  EIGSVC_ASSIGN_OR_RETURN(Connection * connection, session.Connect());
  EIGSVC_ASSIGN_OR_RETURN(const Uploaded uploaded,
                          UploadCheckpoint(*connection, std::move(source), progress));
  checkpoint.set_sha256(uploaded.sha256);
  return checkpoint;
}

void AddTaskFlags(CLI::App& command, TaskFlags& flags, bool with_split) {
  command.add_option("--task", flags.task, "Task to run; `eigsvc tasks` lists them");
  command.add_option("--param", flags.params, "A parameter of the task; may be repeated")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false);
  command
      .add_option("--seed", flags.seed,
                  with_split ? "Seed of the examples (0)" : "Seed of the examples and their order (0)")
      ->check(CheckSeed);
  if (with_split) command.add_option("--split", flags.split, "train or test (test)");
  command.add_option("--data", flags.data,
                     "The task's data: a file or directory here, else a name at the server");
}

absl::StatusOr<v1::TaskSpec> ResolveTask(Session& session, const TaskFlags& flags, Progress& progress) {
  if (flags.task.empty()) return UsageError("say which task: --task mqar; `eigsvc tasks` lists them");
  v1::TaskSpec task;
  task.set_name(flags.task);
  task.set_seed(flags.seed);
  task.set_split(flags.split);
  EIGSVC_ASSIGN_OR_RETURN(*task.mutable_parameters_json(), ParametersJson(flags.params));
  if (flags.data.empty()) return task;
  const bool local = ExistsLocally(flags.data);
  if (!session.named_server()) {
    if (!local) return NoSuchFile("data", flags.data);
    task.mutable_data()->set_local_path(std::filesystem::absolute(flags.data).string());
  } else if (local) {
    EIGSVC_ASSIGN_OR_RETURN(UploadSource source, DataFiles(flags.data));
    EIGSVC_ASSIGN_OR_RETURN(Connection * connection, session.Connect());
    EIGSVC_ASSIGN_OR_RETURN(const Uploaded uploaded, UploadData(*connection, std::move(source), progress));
    task.mutable_data()->set_sha256(uploaded.sha256);
  } else if (IsDigest(flags.data)) {
    task.mutable_data()->set_sha256(flags.data);
  } else {
    task.mutable_data()->set_name(flags.data);
  }
  return task;
}

absl::StatusOr<std::string> ParametersJson(const std::vector<std::string>& params) {
  if (params.empty()) return std::string();
  Json object = Json::object();
  for (const std::string& param : params) {
    const size_t equals = param.find('=');
    if (equals == std::string::npos || equals == 0) {
      return UsageError(absl::StrCat("--param takes KEY=VALUE, not \"", param, "\""));
    }
    const std::string key = param.substr(0, equals);
    const std::string text = param.substr(equals + 1);
    if (object.contains(key)) return UsageError(absl::StrCat("--param ", key, " was given twice"));
    Json value = Json::parse(text, nullptr, /*allow_exceptions=*/false);
    object[key] = value.is_discarded() ? Json(text) : value;
  }
  return Line(object);
}

std::string CheckSeed(const std::string& text) {
  uint64_t seed;
  if (absl::SimpleAtoi(text, &seed) && !absl::StartsWith(text, "-")) return "";
  return absl::StrCat(text, " is no seed; give an integer from 0 to 18446744073709551615");
}

absl::StatusOr<std::string> ReadTextFile(absl::string_view flag, const std::string& path) {
  constexpr uintmax_t kMaxBytes = uintmax_t{16} << 20;
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error)) {
    return UsageError(absl::StrCat(flag, ": cannot read ", path, "; give a regular file of JSON",
                                   flag == "--config" ? ", or JSON that starts with {" : ""));
  }
  if (std::filesystem::file_size(path, error) > kMaxBytes || error) {
    return UsageError(absl::StrCat(flag, ": ", path, " is larger than 16 MiB"));
  }
  std::ifstream file(path, std::ios::binary);
  std::stringstream content;
  content << file.rdbuf();
  if (!file) return UsageError(absl::StrCat(flag, ": cannot read ", path));
  return content.str();
}

absl::StatusOr<std::string> ConfigJson(const std::string& argument) {
  if (argument.empty()) return std::string();
  std::string text = argument;
  if (!absl::StartsWith(absl::StripLeadingAsciiWhitespace(argument), "{")) {
    EIGSVC_ASSIGN_OR_RETURN(text, ReadTextFile("--config", argument));
  }
  const absl::StatusOr<Settings> settings = Settings::Parse(text, "--config");
  if (!settings.ok()) return UsageError(settings.status().message());
  return settings->ToJson();
}

}  // namespace eigsvc::cli
