#include "server/worker/fingerprint.h"

#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace eigsvc {
namespace {

constexpr absl::Duration kSettled = absl::Milliseconds(50);

// False when `path` is there but cannot be vouched for; a missing file adds nothing.
bool AppendFile(const std::filesystem::path& path, absl::Time now, std::string* fingerprint) {
  struct stat file;
  if (stat(path.c_str(), &file) != 0) return errno == ENOENT;
  const absl::Time changed =
      std::max(absl::TimeFromTimespec(file.st_mtim), absl::TimeFromTimespec(file.st_ctim));
  if (now - changed < kSettled) return false;
  absl::StrAppend(fingerprint, path.native(), "|", file.st_dev, "|", file.st_ino, "|", file.st_size, "|",
                  absl::ToUnixNanos(absl::TimeFromTimespec(file.st_mtim)), "|",
                  absl::ToUnixNanos(absl::TimeFromTimespec(file.st_ctim)), "\n");
  return true;
}

}  // namespace

std::string Fingerprint(const std::string& path) {
  std::error_code error;
  std::vector<std::filesystem::path> files;
  if (std::filesystem::is_directory(path, error)) {
    for (std::filesystem::directory_iterator it(path, error), end; !error && it != end; it.increment(error)) {
      files.push_back(it->path());
    }
    if (error) return "";
    std::sort(files.begin(), files.end());  // a directory lists in no order
  } else {
    files = {path, std::filesystem::path(path).parent_path() / "config.json"};
  }
  const absl::Time now = absl::Now();
  std::string fingerprint;
  for (const std::filesystem::path& file : files) {
    if (!AppendFile(file, now, &fingerprint)) return "";
  }
  return fingerprint;
}

}  // namespace eigsvc
