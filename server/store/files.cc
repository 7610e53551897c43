#include "server/store/files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "models/base/sha256.h"

namespace eigsvc {
namespace {

namespace fs = std::filesystem;
constexpr size_t kBlock = size_t{1} << 20;

// Calls `use` with each block of the file.
template <typename Use>
absl::Status ForEachBlock(int fd, const std::string& path, Use use) {
  std::vector<std::byte> block(kBlock);
  for (off_t offset = 0;;) {
    const ssize_t n = pread(fd, block.data(), block.size(), offset);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return FileError(absl::StrCat("cannot read ", path), errno);
    if (n == 0) return absl::OkStatus();
    if (absl::Status status = use(absl::MakeConstSpan(block.data(), static_cast<size_t>(n))); !status.ok())
      return status;
    offset += n;
  }
}

}  // namespace

void Fd::Close() {
  if (fd_ >= 0) close(fd_);
  fd_ = -1;
}

absl::Status FileError(absl::string_view what, int error) {
  const std::string message = absl::StrCat(what, ": ", std::generic_category().message(error));
  if (error == ENOSPC || error == EDQUOT || error == EFBIG) {
    return absl::ResourceExhaustedError(absl::StrCat(message, "; free some disk space and try again"));
  }
  return absl::UnavailableError(message);
}

absl::Status EnsureDirectory(const std::string& path) {
  for (size_t slash = path.find('/', 1); slash != std::string::npos; slash = path.find('/', slash + 1)) {
    if (mkdir(path.substr(0, slash).c_str(), 0700) != 0 && errno != EEXIST) {
      return FileError(absl::StrCat("cannot make directory ", path.substr(0, slash)), errno);
    }
  }
  if (mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) {
    return FileError(absl::StrCat("cannot make directory ", path), errno);
  }
  struct stat info {};
  if (stat(path.c_str(), &info) != 0) return FileError(absl::StrCat("cannot use directory ", path), errno);
  if (!S_ISDIR(info.st_mode)) return FileError(absl::StrCat("cannot use directory ", path), ENOTDIR);
  return absl::OkStatus();
}

absl::Status SyncDirectory(const std::string& path) {
  const Fd directory(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!directory.valid() || fsync(directory.get()) != 0)
    return FileError(absl::StrCat("cannot sync ", path), errno);
  return absl::OkStatus();
}

absl::Status WriteAll(int fd, absl::Span<const std::byte> bytes, const std::string& path) {
  while (!bytes.empty()) {
    const ssize_t n = write(fd, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return FileError(absl::StrCat("cannot write ", path), errno);
    bytes.remove_prefix(static_cast<size_t>(n));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> HashFile(int fd, const std::string& path) {
  Sha256 hash;
  absl::Status read = ForEachBlock(fd, path, [&hash](absl::Span<const std::byte> block) {
    hash.Update(block);
    return absl::OkStatus();
  });
  if (!read.ok()) return read;
  return hash.Finish();
}

absl::Status CopyFile(int from, int to, const std::string& path) {
  return ForEachBlock(from, path,
                      [&](absl::Span<const std::byte> block) { return WriteAll(to, block, path); });
}

void RemoveTree(const std::string& path) {
  std::error_code ignored;
  fs::remove_all(path, ignored);
}

std::vector<std::string> EntryNames(const std::string& path) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator it(path, error), end; !error && it != end; it.increment(error)) {
    names.push_back(it->path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

int64_t TreeBytes(const std::string& path) {
  int64_t bytes = 0;
  std::error_code error;
  for (fs::recursive_directory_iterator it(path, error), end; !error && it != end; it.increment(error)) {
    std::error_code gone;  // files come and go while a job writes
    if (it->is_regular_file(gone)) {
      const auto size = it->file_size(gone);
      if (!gone) bytes += static_cast<int64_t>(size);
    }
  }
  return bytes;
}

}  // namespace eigsvc
