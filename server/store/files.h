// What the store needs of the file system, as absl::Status.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace eigsvc {

// Owns a file descriptor; -1: none.
class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  ~Fd() { Close(); }
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    if (this != &other) {
      Close();
      fd_ = std::exchange(other.fd_, -1);
    }
    return *this;
  }
  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }
  int Release() { return std::exchange(fd_, -1); }
  void Close();

 private:
  int fd_ = -1;
};

// "WHAT: errno's text". A full disk is RESOURCE_EXHAUSTED, anything else UNAVAILABLE.
absl::Status FileError(absl::string_view what, int error);

// Makes the directory and its parents with mode 0700; fine when it is there.
absl::Status EnsureDirectory(const std::string& path);
// Makes a rename or a new entry in it survive a power loss.
absl::Status SyncDirectory(const std::string& path);
absl::Status WriteAll(int fd, absl::Span<const std::byte> bytes, const std::string& path);
// From offset 0 to the end, through Read calls of 1 MiB.
absl::StatusOr<std::string> HashFile(int fd, const std::string& path);
absl::Status CopyFile(int from, int to, const std::string& path);
// Best effort: what cannot be removed stays.
void RemoveTree(const std::string& path);
// Names in a directory, sorted, without "." and "..". Empty when it cannot be read.
std::vector<std::string> EntryNames(const std::string& path);
// Sizes of all regular files in a tree.
int64_t TreeBytes(const std::string& path);

}  // namespace eigsvc
