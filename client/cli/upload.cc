#include "client/cli/upload.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <memory>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "client/cli/interrupt.h"
#include "models/base/sha256.h"
#include "models/base/status_macros.h"

namespace eigsvc::cli {
namespace {

namespace fs = std::filesystem;

constexpr size_t kChunkBytes = 1 << 20;
constexpr int kMaxFiles = 1000;

absl::Status FileError(int error, const std::string& path) {
  const std::string message = absl::StrCat("cannot read ", path, ": ", std::strerror(error));
  if (error == ENOENT) return absl::NotFoundError(message);
  if (error == EACCES || error == EPERM) return absl::PermissionDeniedError(message);
  return absl::UnavailableError(message);
}

// A file read from its start; its size is fixed when it is opened.
class InputFile {
 public:
  static absl::StatusOr<std::unique_ptr<InputFile>> Open(const std::string& path) {
    const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) return FileError(errno, path);
    return std::unique_ptr<InputFile>(new InputFile(fd, path));
  }
  ~InputFile() { close(fd_); }
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;

  // Up to kChunkBytes; empty at the end.
  absl::Status Read(std::string* chunk) {
    chunk->resize(kChunkBytes);
    size_t filled = 0;
    while (filled < kChunkBytes) {
      const ssize_t got = read(fd_, chunk->data() + filled, kChunkBytes - filled);
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) return FileError(errno, path_);
      if (got == 0) break;
      filled += static_cast<size_t>(got);
    }
    chunk->resize(filled);
    return absl::OkStatus();
  }

 private:
  InputFile(int fd, std::string path) : fd_(fd), path_(std::move(path)) {}
  const int fd_;
  const std::string path_;
};

// The rule of UploadFile.name.
absl::Status CheckName(const std::string& name) {
  const bool plain = !name.empty() && name.size() <= 255 && name[0] != '.' &&
                     std::all_of(name.begin(), name.end(), [](unsigned char c) {
                       return absl::ascii_isalnum(c) || c == '.' || c == '_' || c == '-';
                     });
  if (plain) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("the file name \"", name.substr(0, 255),
                   "\" cannot be uploaded: only letters, digits, '.', '_' and '-', no "
                   "leading '.'; rename it"));
}

absl::Status AddFile(const fs::path& path, UploadSource* source) {
  struct stat status {};
  if (stat(path.c_str(), &status) != 0) return FileError(errno, path.string());
  if (!S_ISREG(status.st_mode)) {
    return absl::InvalidArgumentError(
        absl::StrCat(path.string(), " is no plain file; only those can be uploaded"));
  }
  const std::string name = path.filename().string();
  EIGSVC_RETURN_IF_ERROR(CheckName(name));
  v1::UploadFile* file = source->manifest.add_files();
  file->set_name(name);
  file->set_size_bytes(status.st_size);
  source->paths.push_back(path.string());
  source->total_bytes += status.st_size;
  return absl::OkStatus();
}

// The names models/archive reads in a directory.
bool IsCheckpointFile(const std::string& name) {
  return name == "config.json" || absl::EndsWith(name, ".safetensors") ||
         absl::EndsWith(name, ".safetensors.index.json") || absl::EndsWith(name, ".bin") ||
         absl::EndsWith(name, ".bin.index.json") || absl::EndsWith(name, ".pt") ||
         absl::EndsWith(name, ".pth") || absl::EndsWith(name, ".ckpt");
}

template <typename Wanted>
absl::Status AddDirectory(const std::string& path, Wanted wanted, UploadSource* source) {
  std::vector<fs::path> files;
  std::error_code error;
  for (fs::directory_iterator it(path, error), end; !error && it != end; it.increment(error)) {
    std::error_code ignored;
    if (!it->is_directory(ignored) && wanted(it->path().filename().string())) files.push_back(it->path());
  }
  if (error) return FileError(error.value(), path);
  if (files.size() > kMaxFiles) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " holds ", files.size(), " files; an upload takes at most ", kMaxFiles));
  }
  std::sort(files.begin(), files.end());
  source->manifest.set_directory(true);
  for (const fs::path& file : files) EIGSVC_RETURN_IF_ERROR(AddFile(file, source));
  return absl::OkStatus();
}

absl::Status FillDigests(UploadSource* source, Progress& progress) {
  int64_t done = 0;
  std::string chunk;
  for (int i = 0; i < source->manifest.files_size(); ++i) {
    v1::UploadFile& file = *source->manifest.mutable_files(i);
    EIGSVC_ASSIGN_OR_RETURN(const std::unique_ptr<InputFile> input, InputFile::Open(source->paths[i]));
    Sha256 hash;
    int64_t size = 0;
    do {
      EIGSVC_RETURN_IF_ERROR(Interrupt::Check());
      EIGSVC_RETURN_IF_ERROR(input->Read(&chunk));
      hash.Update(absl::MakeConstSpan(reinterpret_cast<const std::byte*>(chunk.data()), chunk.size()));
      size += static_cast<int64_t>(chunk.size());
      done += static_cast<int64_t>(chunk.size());
      progress.Update({.phase = "hash", .done = done, .total = source->total_bytes, .unit = "bytes"});
    } while (!chunk.empty());
    file.set_size_bytes(size);
    file.set_sha256(hash.Finish());
  }
  return absl::OkStatus();
}

// The manifest, then the files' bytes. Request is UploadCheckpointRequest or UploadDataRequest.
template <typename Request, typename Response, typename Prepare>
absl::StatusOr<Uploaded> Send(Connection& connection, UploadSource source, Progress& progress,
                              Prepare prepare) {
  EIGSVC_RETURN_IF_ERROR(FillDigests(&source, progress));
  bool manifest_sent = false;
  size_t next_file = 0;
  int64_t sent = 0, left = 0;  // left: bytes of the open file that the manifest still promises
  std::unique_ptr<InputFile> input;
  std::string chunk;
  CallOptions options = connection.call_options();
  options.tick = [&] { progress.Tick(); };
  const auto next = [&](Request* request) -> absl::StatusOr<bool> {
    if (!manifest_sent) {
      manifest_sent = true;
      *request->mutable_manifest() = source.manifest;
      return true;
    }
    while (left == 0) {
      if (next_file == source.paths.size()) return false;
      EIGSVC_ASSIGN_OR_RETURN(input, InputFile::Open(source.paths[next_file]));
      left = source.manifest.files(static_cast<int>(next_file)).size_bytes();
      ++next_file;
    }
    EIGSVC_RETURN_IF_ERROR(input->Read(&chunk));
    if (chunk.empty() || static_cast<int64_t>(chunk.size()) > left) {
      return absl::FailedPreconditionError(
          absl::StrCat(source.paths[next_file - 1], " changed while it was uploaded; upload it again"));
    }
    left -= static_cast<int64_t>(chunk.size());
    sent += static_cast<int64_t>(chunk.size());
    request->set_chunk(chunk);
    progress.Update({.phase = "upload", .done = sent, .total = source.total_bytes, .unit = "bytes"});
    return true;
  };
  absl::StatusOr<Response> response = WriteStream<Response, Request>(options, prepare, next);
  if (!response.ok()) return connection.Explain(response.status());
  return Uploaded{response->sha256(), response->existed()};
}

}  // namespace

absl::StatusOr<UploadSource> CheckpointFiles(const std::string& path) {
  UploadSource source;
  std::error_code ignored;
  if (fs::is_directory(path, ignored)) {
    EIGSVC_RETURN_IF_ERROR(AddDirectory(path, IsCheckpointFile, &source));
    if (source.paths.empty() ||
        (source.paths.size() == 1 && source.manifest.files(0).name() == "config.json")) {
      return absl::InvalidArgumentError(absl::StrCat(
          path, " holds no weight files (.safetensors, .bin, .pt, .pth, .ckpt); name the file itself"));
    }
    return source;
  }
  EIGSVC_RETURN_IF_ERROR(AddFile(path, &source));
  const fs::path config = fs::path(path).parent_path() / "config.json";
  if (fs::exists(fs::symlink_status(config, ignored)) && fs::path(path).filename() != "config.json") {
    source.manifest.set_directory(true);
    EIGSVC_RETURN_IF_ERROR(AddFile(config, &source));
  }
  return source;
}

absl::StatusOr<UploadSource> DataFiles(const std::string& path) {
  UploadSource source;
  std::error_code ignored;
  if (!fs::is_directory(path, ignored)) {
    EIGSVC_RETURN_IF_ERROR(AddFile(path, &source));
    return source;
  }
  for (fs::directory_iterator it(path, ignored), end; !ignored && it != end; it.increment(ignored)) {
    std::error_code unknown;
    if (!it->is_directory(unknown)) continue;
    return absl::InvalidArgumentError(
        absl::StrCat(path, " holds the folder ", it->path().filename().string(),
                     "; an upload takes plain files only. Pack it (tar -czf "
                     "data.tar.gz -C ",
                     path, " .) and give the .tar.gz, or name data under the server's data root"));
  }
  EIGSVC_RETURN_IF_ERROR(AddDirectory(
      path, [](const std::string& name) { return name[0] != '.'; }, &source));
  if (source.paths.empty()) return absl::InvalidArgumentError(absl::StrCat(path, " holds no files"));
  return source;
}

absl::StatusOr<Uploaded> UploadCheckpoint(Connection& connection, UploadSource source, Progress& progress) {
  return Send<v1::UploadCheckpointRequest, v1::UploadCheckpointResponse>(
      connection, std::move(source), progress, [&](auto* context, auto* response, auto* queue) {
        return connection.catalog().PrepareAsyncUploadCheckpoint(context, response, queue);
      });
}

absl::StatusOr<Uploaded> UploadData(Connection& connection, UploadSource source, Progress& progress) {
  return Send<v1::UploadDataRequest, v1::UploadDataResponse>(
      connection, std::move(source), progress, [&](auto* context, auto* response, auto* queue) {
        return connection.catalog().PrepareAsyncUploadData(context, response, queue);
      });
}

}  // namespace eigsvc::cli
