#include "server/store/store.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "models/base/status_macros.h"
#include "server/store/beneath.h"
#include "server/store/blobs.h"
#include "server/store/files.h"
#include "server/store/names.h"
#include "server/store/root.h"
#include "server/store/spool.h"

namespace eigsvc {
namespace {

constexpr int64_t kMaxRead = int64_t{256} << 10;

// Two daemons over one directory would clean up each other's files.
absl::StatusOr<Fd> LockStateDir(const std::string& state_dir) {
  const std::string path = absl::StrCat(state_dir, "/lock");
  Fd lock(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!lock.valid()) return FileError(absl::StrCat("cannot open ", path), errno);
  if (flock(lock.get(), LOCK_EX | LOCK_NB) == 0) return lock;
  if (errno != EWOULDBLOCK) return FileError(absl::StrCat("cannot lock ", path), errno);
  return absl::UnavailableError(absl::StrCat("the state directory ", state_dir,
                                             " is in use by another eigsvcd; give each its own --state-dir"));
}

class DiskStore : public Store {
 public:
  DiskStore(const StoreOptions& options, Fd lock, Root checkpoints, Root data, std::unique_ptr<Blobs> blobs,
            std::unique_ptr<Spool> spool)
      : options_(options),
        lock_(std::move(lock)),
        checkpoints_(std::move(checkpoints)),
        data_(std::move(data)),
        blobs_(std::move(blobs)),
        spool_(std::move(spool)) {}

  absl::StatusOr<ResolvedPath> ResolveName(StoreKind kind, const std::string& name) override {
    EIGSVC_ASSIGN_OR_RETURN(std::string path, RootOf(kind).Resolve(name));
    return ResolvedPath{std::move(path), false};
  }

  absl::StatusOr<ResolvedPath> ResolveDigest(StoreKind kind, const std::string& sha256) override {
    EIGSVC_ASSIGN_OR_RETURN(std::string path, blobs_->Resolve(kind, sha256));
    return ResolvedPath{std::move(path), true};
  }

  absl::StatusOr<ResolvedPath> ResolveLocal(StoreKind kind, const std::string& path) override {
    if (!options_.allow_local_paths) {
      return absl::PermissionDeniedError(
          absl::StrCat("this server is shared and reads no local paths; upload the ", KindName(kind),
                       ", or name one under its ", KindName(kind), " root"));
    }
    if (!absl::StartsWith(path, "/") || absl::StrContains(path, '\0')) {
      return absl::InvalidArgumentError(absl::StrCat("local path ", Quoted(path), " is not absolute"));
    }
    const Fd fd(open(path.c_str(), O_PATH | O_CLOEXEC));
    struct stat info {};
    if (!fd.valid() || fstat(fd.get(), &info) != 0) {
      const int error = errno;
      const absl::Status status = FileError(absl::StrCat("cannot open ", Quoted(path)), error);
      if (error == EACCES) return absl::PermissionDeniedError(status.message());
      return error == ENOENT || error == ENOTDIR || error == ENAMETOOLONG
                 ? absl::NotFoundError(status.message())
                 : status;
    }
    if (!S_ISREG(info.st_mode) && !S_ISDIR(info.st_mode)) {
      return absl::InvalidArgumentError(
          absl::StrCat(Quoted(path), " is neither a regular file nor a directory; only these are read"));
    }
    return ResolvedPath{path, false};
  }

  absl::StatusOr<std::vector<StoredEntry>> List(StoreKind kind) override {
    std::vector<StoredEntry> entries = RootOf(kind).List();
    for (StoredEntry& entry : blobs_->List(kind)) entries.push_back(std::move(entry));
    return entries;
  }

  absl::StatusOr<std::unique_ptr<Upload>> BeginUpload(StoreKind kind, const UploadPlan& plan) override {
    return blobs_->BeginUpload(kind, plan);
  }
  absl::StatusOr<std::string> Adopt(StoreKind kind, const std::string& path) override {
    return blobs_->Adopt(kind, path);
  }

  absl::StatusOr<std::string> NewSpoolPath(absl::string_view job_id, absl::string_view suffix) override {
    return spool_->NewPath(job_id, suffix);
  }
  void RemoveSpool(absl::string_view job_id) override { spool_->Remove(job_id); }
  absl::StatusOr<int64_t> ReserveSpool(absl::string_view job_id, int64_t most,
                                       const std::function<bool()>& stopped) override {
    return spool_->Reserve(job_id, most, stopped);
  }
  void ReleaseSpool(absl::string_view job_id) override { spool_->Release(job_id); }

 private:
  const Root& RootOf(StoreKind kind) const { return kind == StoreKind::kCheckpoint ? checkpoints_ : data_; }

  const StoreOptions options_;
  const Fd lock_;
  const Root checkpoints_, data_;
  const std::unique_ptr<Blobs> blobs_;
  const std::unique_ptr<Spool> spool_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Store>> Store::Open(const StoreOptions& given) {
  StoreOptions options = given;
  EIGSVC_RETURN_IF_ERROR(EnsureDirectory(options.state_dir));
  const Fd state_dir(open(options.state_dir.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!state_dir.valid()) return FileError(absl::StrCat("cannot open ", options.state_dir), errno);
  // Absolute from here on: a worker need not share the working directory.
  EIGSVC_ASSIGN_OR_RETURN(options.state_dir, PathOf(state_dir.get()));
  EIGSVC_ASSIGN_OR_RETURN(Fd lock, LockStateDir(options.state_dir));
  EIGSVC_ASSIGN_OR_RETURN(Root checkpoints, Root::Open(StoreKind::kCheckpoint, options.checkpoint_root));
  EIGSVC_ASSIGN_OR_RETURN(Root data, Root::Open(StoreKind::kData, options.data_root));
  EIGSVC_ASSIGN_OR_RETURN(std::unique_ptr<Blobs> blobs, Blobs::Open(options.state_dir, options.upload_bytes));
  EIGSVC_ASSIGN_OR_RETURN(std::unique_ptr<Spool> spool,
                          Spool::Open(absl::StrCat(options.state_dir, "/spool"), options.spool_bytes));
  return std::unique_ptr<Store>(new DiskStore(options, std::move(lock), std::move(checkpoints),
                                              std::move(data), std::move(blobs), std::move(spool)));
}

absl::StatusOr<std::unique_ptr<StoredFile>> StoredFile::Open(const std::string& path) {
  const std::string name = Quoted(path.substr(path.rfind('/') + 1));  // clients read what it says
  Fd fd(open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  struct stat info {};
  if (!fd.valid() || fstat(fd.get(), &info) != 0) {
    const int error = errno;
    const absl::Status status = FileError(absl::StrCat("cannot open ", name), error);
    return error == ENOENT ? absl::NotFoundError(status.message()) : status;
  }
  if (!S_ISREG(info.st_mode)) {
    return absl::FailedPreconditionError(absl::StrCat(
        name, S_ISDIR(info.st_mode) ? " is a directory, which is not sent as one stream; name a file"
                                    : " is not a regular file"));
  }
  return std::unique_ptr<StoredFile>(new StoredFile(fd.Release(), info.st_size));
}

StoredFile::~StoredFile() { close(fd_); }

absl::StatusOr<std::string> StoredFile::Read(int64_t offset, int64_t length) const {
  if (offset < 0 || offset > size_ || length < 0) {
    return absl::OutOfRangeError(
        absl::StrCat("offset ", offset, " is outside the file of ", size_, " bytes"));
  }
  std::string bytes(static_cast<size_t>(std::min({length, kMaxRead, size_ - offset})), '\0');
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t n =
        pread(fd_, bytes.data() + done, bytes.size() - done, offset + static_cast<int64_t>(done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return FileError("cannot read a stored file", errno);
    if (n == 0) return absl::DataLossError(absl::StrCat("a stored file ended before byte ", size_));
    done += static_cast<size_t>(n);
  }
  return bytes;
}

}  // namespace eigsvc
