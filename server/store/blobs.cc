#include "server/store/blobs.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "models/base/sha256.h"
#include "models/base/status_macros.h"
#include "server/store/names.h"
#include "server/store/root.h"
#include "server/store/upload.h"

namespace eigsvc {
namespace {

constexpr StoreKind kKinds[] = {StoreKind::kCheckpoint, StoreKind::kData};
constexpr absl::string_view kFileSuffix = "-file", kDirectorySuffix = "-dir";

bool PathExists(const std::string& path) {
  struct stat info {};
  return lstat(path.c_str(), &info) == 0;
}

// The very file that was hashed, by a link where the file systems allow, else by a copy.
absl::Status PutFile(int source, const std::string& target) {
  if (linkat(AT_FDCWD, absl::StrCat("/proc/self/fd/", source).c_str(), AT_FDCWD, target.c_str(),
             AT_SYMLINK_FOLLOW) != 0) {
    const Fd copy(open(target.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    if (!copy.valid()) return FileError(absl::StrCat("cannot create ", target), errno);
    EIGSVC_RETURN_IF_ERROR(CopyFile(source, copy.get(), target));
  }
  return SealFile(target);
}

}  // namespace

std::string DirectoryDigest(const UploadPlan& plan) {
  std::vector<std::pair<std::string, std::string>> files;
  for (const UploadPlan::File& file : plan.files) files.emplace_back(file.name, file.sha256);
  std::sort(files.begin(), files.end());
  std::string listing;
  for (const auto& [name, sha256] : files) absl::StrAppend(&listing, sha256, "  ", name, "\n");
  return Sha256::Of(absl::MakeConstSpan(reinterpret_cast<const std::byte*>(listing.data()), listing.size()));
}

absl::StatusOr<std::unique_ptr<Blobs>> Blobs::Open(const std::string& state_dir, int64_t budget_bytes) {
  std::unique_ptr<Blobs> blobs(new Blobs(state_dir, budget_bytes));
  RemoveTree(absl::StrCat(state_dir, "/incoming"));
  EIGSVC_RETURN_IF_ERROR(EnsureDirectory(absl::StrCat(state_dir, "/incoming")));
  for (StoreKind kind : kKinds) {
    EIGSVC_RETURN_IF_ERROR(EnsureDirectory(blobs->Home(kind)));
    blobs->used_bytes_ += TreeBytes(blobs->Home(kind));
  }
  return blobs;
}

std::string Blobs::Home(StoreKind kind) const {
  return absl::StrCat(state_dir_, "/uploads/", KindName(kind));
}

std::string Blobs::Address(StoreKind kind, const std::string& sha256, bool is_directory) const {
  return absl::StrCat(Home(kind), "/", sha256, is_directory ? kDirectorySuffix : kFileSuffix);
}

bool Blobs::Exists(StoreKind kind, const std::string& sha256, bool is_directory) const {
  return PathExists(Address(kind, sha256, is_directory));
}

absl::StatusOr<std::string> Blobs::Resolve(StoreKind kind, const std::string& sha256) const {
  EIGSVC_RETURN_IF_ERROR(CheckDigest(sha256));
  if (Exists(kind, sha256, true)) return Address(kind, sha256, true);
  const std::string home = Address(kind, sha256, false);
  const std::vector<std::string> names = EntryNames(home);
  if (names.size() == 1) return absl::StrCat(home, "/", names.front());
  return absl::NotFoundError(absl::StrCat("no ", KindName(kind), " with SHA-256 ", sha256,
                                          " is stored here; upload it first, or list what there is"));
}

std::vector<StoredEntry> Blobs::List(StoreKind kind) const {
  std::vector<StoredEntry> entries;
  for (const std::string& name : EntryNames(Home(kind))) {
    absl::string_view sha256 = name;
    const bool is_directory = absl::ConsumeSuffix(&sha256, kDirectorySuffix);
    if (!is_directory && !absl::ConsumeSuffix(&sha256, kFileSuffix)) continue;
    if (!CheckDigest(sha256).ok()) continue;
    entries.push_back({.name = "",
                       .sha256 = std::string(sha256),
                       .size_bytes = TreeBytes(absl::StrCat(Home(kind), "/", name)),
                       .directory = is_directory});
  }
  return entries;
}

absl::StatusOr<std::unique_ptr<Blobs::Staging>> Blobs::NewStaging(int64_t bytes) {
  std::string directory;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (bytes > budget_bytes_ - used_bytes_) {
      return absl::ResourceExhaustedError(
          absl::StrCat("the upload takes ", bytes, " bytes and ",
                       std::max(int64_t{0}, budget_bytes_ - used_bytes_), " of ", budget_bytes_,
                       " are free; start the server with a larger --upload-bytes, or stop it and remove "
                       "old uploads from its state directory"));
    }
    used_bytes_ += bytes;
    directory = absl::StrCat(state_dir_, "/incoming/", next_staging_++);
  }
  std::unique_ptr<Staging> staging(new Staging(this, directory, bytes));
  EIGSVC_RETURN_IF_ERROR(EnsureDirectory(directory));
  return staging;
}

Blobs::Staging::~Staging() {
  if (directory_.empty()) return;
  RemoveTree(directory_);
  std::lock_guard<std::mutex> lock(blobs_->mutex_);
  blobs_->used_bytes_ -= bytes_;
}

absl::Status Blobs::Staging::Publish(StoreKind kind, const std::string& sha256, bool is_directory) {
  EIGSVC_RETURN_IF_ERROR(SyncDirectory(directory_));
  const std::string address = blobs_->Address(kind, sha256, is_directory);
  if (rename(directory_.c_str(), address.c_str()) == 0) {
    directory_.clear();
    return SyncDirectory(blobs_->Home(kind));
  }
  // Someone else's upload of the same content was faster.
  if (errno == EEXIST || errno == ENOTEMPTY) return absl::OkStatus();
  return FileError(absl::StrCat("cannot store ", address), errno);
}

absl::StatusOr<std::unique_ptr<Store::Upload>> Blobs::BeginUpload(StoreKind kind, const UploadPlan& plan) {
  EIGSVC_ASSIGN_OR_RETURN(const int64_t bytes, CheckPlan(plan));
  const std::string sha256 = plan.directory ? DirectoryDigest(plan) : plan.files.front().sha256;
  if (Exists(kind, sha256, plan.directory)) return NewKnownUpload(sha256);
  EIGSVC_ASSIGN_OR_RETURN(std::unique_ptr<Staging> staging, NewStaging(bytes));
  return NewUpload(kind, plan, sha256, std::move(staging));
}

absl::StatusOr<std::string> Blobs::Adopt(StoreKind kind, const std::string& path) {
  const std::string name = path.substr(path.rfind('/') + 1);
  EIGSVC_RETURN_IF_ERROR(CheckBareName(name));
  // O_NONBLOCK: opening a fifo would wait for its writer.
  const Fd source(open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  struct stat info {};
  if (!source.valid() || fstat(source.get(), &info) != 0) {
    const int error = errno;
    const absl::Status status = FileError(absl::StrCat("cannot open ", path), error);
    return error == ENOENT ? absl::NotFoundError(status.message()) : status;
  }
  if (!S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat(path, " is not a regular file, so it cannot be stored"));
  }
  EIGSVC_ASSIGN_OR_RETURN(std::string sha256, HashFile(source.get(), path));
  if (!Exists(kind, sha256, false)) {
    EIGSVC_ASSIGN_OR_RETURN(std::unique_ptr<Staging> staging, NewStaging(info.st_size));
    EIGSVC_RETURN_IF_ERROR(PutFile(source.get(), absl::StrCat(staging->directory(), "/", name)));
    EIGSVC_RETURN_IF_ERROR(staging->Publish(kind, sha256, false));
  }
  unlink(path.c_str());
  return sha256;
}

}  // namespace eigsvc
