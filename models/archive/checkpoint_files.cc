#include "models/archive/checkpoint_files.h"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <system_error>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "models/archive/file_bytes.h"
#include "models/base/settings.h"
#include "models/base/status_macros.h"
#include "models/base/status_util.h"

namespace eigsvc {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMaxSmallBytes = int64_t{16} << 20;
constexpr size_t kMaxShards = 4096;

// Whether there is a regular file, or a link to one. What is there and is none is refused by name: passed
// over, it would be missed in silence, and opened, it could block or never end.
absl::StatusOr<bool> HasFile(const fs::path& path) {
  std::error_code error;
  const fs::file_status link = fs::symlink_status(path, error);
  if (!fs::exists(link)) return false;
  const fs::file_status target = fs::status(path, error);
  if (fs::is_regular_file(target)) return true;
  return absl::InvalidArgumentError(absl::StrCat(
      Quoted(path.filename().string()), fs::exists(target) ? " is no regular file" : " is a link to nothing",
      "; remove it, or put the file in its place"));
}

// An index may name nothing but files beside it.
bool IsBareName(absl::string_view name) {
  return !name.empty() && name != "." && name != ".." && name.size() <= 255 &&
         std::none_of(name.begin(), name.end(), [](char letter) {
           return letter == '/' || letter == '\\' || static_cast<unsigned char>(letter) < 0x20;
         });
}

absl::Status ReadIndex(const fs::path& path, CheckpointFiles& files) {
  const std::string name = path.filename().string();
  EIGSVC_ASSIGN_OR_RETURN(const std::string text, ReadSmallFile(path.string()));
  EIGSVC_ASSIGN_OR_RETURN(const Settings index, Settings::Parse(text, name));
  const auto map = index.object().find("weight_map");
  if (map == index.object().end() || !map->is_object() || map->empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, " has no weight_map from tensor names to file names"));
  }
  std::set<std::string> shards;
  for (const auto& [tensor, file] : map->items()) {
    if (!file.is_string() || !IsBareName(file.get_ref<const std::string&>())) {
      const std::string found = file.is_string()
                                    ? file.get<std::string>()
                                    : file.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
      return absl::InvalidArgumentError(absl::StrCat(name, " maps tensor ", Quoted(tensor), " to ",
                                                     Quoted(found),
                                                     ", which is not the bare name of a file beside it"));
    }
    shards.insert(file.get<std::string>());
    files.weight_map.emplace(tensor, file.get<std::string>());
  }
  if (shards.size() > kMaxShards)
    return absl::InvalidArgumentError(absl::StrCat(name, " names more than ", kMaxShards, " files"));
  for (const std::string& shard : shards) files.weights.push_back((path.parent_path() / shard).string());
  return absl::OkStatus();
}

absl::Status FindInDirectory(const fs::path& directory, CheckpointFiles& files) {
  const std::string shown = Quoted(BaseName(directory.string()));
  for (const char* const name : {"model.safetensors", "pytorch_model.bin"}) {
    EIGSVC_ASSIGN_OR_RETURN(const bool whole, HasFile(directory / name));
    if (whole) {
      files.weights.push_back((directory / name).string());
      return absl::OkStatus();
    }
    const fs::path index = directory / absl::StrCat(name, ".index.json");
    EIGSVC_ASSIGN_OR_RETURN(const bool sharded, HasFile(index));
    if (sharded) return ReadIndex(index, files);
  }
  std::vector<std::string> candidates;
  std::error_code error;
  for (fs::directory_iterator at(directory, error), end; !error && at != end; at.increment(error)) {
    const std::string extension = at->path().extension().string();
    for (const char* const known : {".safetensors", ".pt", ".pth", ".bin", ".ckpt"}) {
      std::error_code ignored;
      if (extension == known && fs::is_regular_file(at->path(), ignored))
        candidates.push_back(at->path().string());
    }
  }
  if (error)
    return absl::UnavailableError(absl::StrCat("cannot list directory ", shown, ": ", error.message()));
  std::sort(candidates.begin(), candidates.end());
  if (candidates.size() == 1) {
    files.weights = std::move(candidates);
    return absl::OkStatus();
  }
  if (candidates.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("directory ", shown,
                     " holds no checkpoint: no model.safetensors, pytorch_model.bin, "
                     "index of either, nor any .safetensors, .pt, .pth, .bin or .ckpt file"));
  }
  for (std::string& candidate : candidates) candidate = BaseName(candidate);
  if (candidates.size() > 8) {
    candidates.resize(8);
    candidates.emplace_back("...");
  }
  return absl::InvalidArgumentError(absl::StrCat("directory ", shown, " holds several checkpoints (",
                                                 absl::StrJoin(candidates, ", "), "); name one of them"));
}

}  // namespace

absl::StatusOr<std::string> ReadSmallFile(const std::string& path) {
  EIGSVC_ASSIGN_OR_RETURN(const OpenedFile file, OpenedFile::Open(path));
  if (file.size() > kMaxSmallBytes) {
    return absl::ResourceExhaustedError(
        absl::StrCat(file.name(), " has ", file.size(), " bytes; at most 16 MiB are read"));
  }
  EIGSVC_ASSIGN_OR_RETURN(const FileBytes bytes, file.Read(Hold::kMemory));
  return std::string(reinterpret_cast<const char*>(bytes.bytes.data()), bytes.bytes.size());
}

absl::StatusOr<CheckpointFiles> FindCheckpointFiles(const std::string& path) {
  if (path.empty() || absl::StrContains(path, '\0'))
    return absl::InvalidArgumentError("no checkpoint path was given");
  CheckpointFiles files;
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (!fs::exists(status)) {
    const bool missing = status.type() == fs::file_type::not_found;
    if (!missing) return ErrnoStatus(error.value(), absl::StrCat("cannot open ", Quoted(BaseName(path))));
    return absl::NotFoundError(absl::StrCat("there is no file or directory ", Quoted(BaseName(path)),
                                            "; check the checkpoint's path"));
  }
  files.directory = fs::is_directory(status);
  const fs::path directory = files.directory ? fs::path(path) : fs::path(path).parent_path();
  if (files.directory) {
    EIGSVC_RETURN_IF_ERROR(FindInDirectory(directory, files));
  } else {
    files.weights.push_back(path);
  }
  const fs::path config = directory / "config.json";
  EIGSVC_ASSIGN_OR_RETURN(const bool configured, HasFile(config));
  if (configured) files.config = config.string();
  return files;
}

}  // namespace eigsvc
