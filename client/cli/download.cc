#include "client/cli/download.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <memory>

#include "absl/strings/str_cat.h"
#include "client/cli/exit_code.h"
#include "eigsvc/v1/catalog_service.pb.h"
#include "models/base/sha256.h"
#include "models/base/status_macros.h"

namespace eigsvc::cli {
namespace {

constexpr int kAttempts = 4;

absl::Status OutputError(const std::string& path, const std::string& cause) {
  return LocalError(absl::StrCat("cannot write ", path, ": ", cause));
}

// Removed when it goes, unless it was kept.
class OutputFile {
 public:
  static absl::StatusOr<std::unique_ptr<OutputFile>> Create(const std::string& path) {
    std::unique_ptr<OutputFile> file(new OutputFile(path));
    file->fd_ = open(file->temporary_.c_str(), O_CREAT | O_WRONLY | O_TRUNC | O_CLOEXEC, 0644);
    if (file->fd_ < 0) return OutputError(path, std::strerror(errno));
    return file;
  }
  ~OutputFile() {
    if (fd_ >= 0) {
      close(fd_);
      unlink(temporary_.c_str());
    }
  }
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  absl::Status Append(absl::string_view bytes) {
    hash_.Update(absl::MakeConstSpan(reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()));
    size_ += static_cast<int64_t>(bytes.size());
    while (!bytes.empty()) {
      const ssize_t written = write(fd_, bytes.data(), bytes.size());
      if (written < 0 && errno != EINTR) return OutputError(path_, std::strerror(errno));
      if (written > 0) bytes.remove_prefix(static_cast<size_t>(written));
    }
    return absl::OkStatus();
  }
  int64_t size() const { return size_; }
  // Of all bytes appended; once.
  std::string Sha256Hex() { return hash_.Finish(); }
  absl::Status Keep() {
    if (fsync(fd_) != 0 || std::rename(temporary_.c_str(), path_.c_str()) != 0) {
      return OutputError(path_, std::strerror(errno));
    }
    close(fd_);
    fd_ = -1;
    return absl::OkStatus();
  }

 private:
  explicit OutputFile(const std::string& path)
      : path_(path), temporary_(absl::StrCat(path, ".tmp.", getpid())) {}
  const std::string path_, temporary_;
  int fd_ = -1;
  int64_t size_ = 0;
  Sha256 hash_;
};

// `prepare`: (context, queue, offset) -> a reader of Response{chunk, total_bytes}.
template <typename Response, typename Prepare>
absl::Status Fetch(Connection& connection, OutputFile& file, Progress& progress, Prepare prepare) {
  CallOptions options = connection.call_options();
  options.tick = [&] { progress.Tick(); };
  int64_t total = -1;
  absl::Status status;
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    const int64_t offset = file.size();
    status = ReadStream<Response>(
        options, [&](auto* context, auto* queue) { return prepare(context, queue, offset); },
        [&](const Response& response) -> absl::Status {
          total = response.total_bytes();
          EIGSVC_RETURN_IF_ERROR(file.Append(response.chunk()));
          progress.Update({.phase = "download", .done = file.size(), .total = total, .unit = "bytes"});
          return absl::OkStatus();
        });
    if (!absl::IsUnavailable(status)) break;
  }
  if (!status.ok()) return connection.Explain(status);
  if (total != file.size()) {
    return absl::DataLossError(
        absl::StrCat("the server sent ", file.size(), " of ", total, " bytes; try again"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckWritable(const std::string& path) {
  std::filesystem::path directory = std::filesystem::path(path).parent_path();
  if (directory.empty()) directory = ".";
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored))
    return UsageError(absl::StrCat(path, " is a directory; name a file"));
  if (access(directory.c_str(), W_OK | X_OK) != 0) return OutputError(path, std::strerror(errno));
  return absl::OkStatus();
}

absl::Status DownloadCheckpoint(Connection& connection, const std::string& sha256, const std::string& path,
                                Progress& progress) {
  EIGSVC_ASSIGN_OR_RETURN(const std::unique_ptr<OutputFile> file, OutputFile::Create(path));
  v1::DownloadCheckpointRequest request;
  request.set_sha256(sha256);
  EIGSVC_RETURN_IF_ERROR(Fetch<v1::DownloadCheckpointResponse>(
      connection, *file, progress, [&](auto* context, auto* queue, int64_t offset) {
        request.set_offset_bytes(offset);
        return connection.catalog().PrepareAsyncDownloadCheckpoint(context, request, queue);
      }));
  if (const std::string got = file->Sha256Hex(); got != sha256) {
    return absl::DataLossError(
        absl::StrCat("the bytes received have SHA-256 ", got, ", not ", sha256, "; try again"));
  }
  return file->Keep();
}

absl::Status DownloadEigenvalues(Connection& connection, const std::string& analysis_id,
                                 const std::string& path, Progress& progress) {
  EIGSVC_ASSIGN_OR_RETURN(const std::unique_ptr<OutputFile> file, OutputFile::Create(path));
  v1::ReadEigenvaluesRequest request;
  request.set_analysis_id(analysis_id);
  EIGSVC_RETURN_IF_ERROR(Fetch<v1::ReadEigenvaluesResponse>(
      connection, *file, progress, [&](auto* context, auto* queue, int64_t offset) {
        request.set_offset_bytes(offset);
        return connection.analyses().PrepareAsyncReadEigenvalues(context, request, queue);
      }));
  return file->Keep();
}

}  // namespace eigsvc::cli
