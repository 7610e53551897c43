// Store: the daemon's files. Uploads and trained checkpoints, addressed by SHA-256 and immutable; checkpoints
// and data under the roots, by name; a spool of kept eigenvalues. Every place where a name becomes a path is
// in this room. Thread-safe. Blocking: call from the I/O threads, never from a gRPC reaction.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace eigsvc {

enum class StoreKind { kCheckpoint, kData };

struct StoreOptions {
  std::string state_dir;                   // created 0700 when absent
  std::string checkpoint_root, data_root;  // empty: none
  bool allow_local_paths = false;
  int64_t upload_bytes = int64_t{64} << 30;
  int64_t spool_bytes = int64_t{16} << 30;
};

struct StoredEntry {
  std::string name, sha256;  // name for entries of a root, sha256 for uploads
  int64_t size_bytes = 0;
  bool directory = false;
};

struct ResolvedPath {
  std::string path;
  bool immutable = false;  // an addressed copy: may be memory-mapped
};

struct UploadPlan {
  struct File {
    std::string name, sha256;
    int64_t size_bytes = 0;
  };
  std::vector<File> files;
  bool directory = false;
};

class Store {
 public:
  // Cleans half-written uploads and the spool of an earlier run. UNAVAILABLE naming the path and errno's
  // text.
  static absl::StatusOr<std::unique_ptr<Store>> Open(const StoreOptions& options);
  virtual ~Store() = default;

  // Names: relative, no "..", no symbolic link that leaves the root (openat2 RESOLVE_BENEATH, else a checked
  // walk). NOT_FOUND (lists some known names), INVALID_ARGUMENT, PERMISSION_DENIED for local paths on a
  // shared server.
  // Files that a reader opens along with it (a directory's entries, the config.json beside a file) are
  // checked alike.
  virtual absl::StatusOr<ResolvedPath> ResolveName(StoreKind kind, const std::string& name) = 0;
  virtual absl::StatusOr<ResolvedPath> ResolveDigest(StoreKind kind, const std::string& sha256) = 0;
  virtual absl::StatusOr<ResolvedPath> ResolveLocal(StoreKind kind, const std::string& path) = 0;
  virtual absl::StatusOr<std::vector<StoredEntry>> List(StoreKind kind) = 0;

  // An upload in progress. Bytes come in the plan's order; digests are checked as they come; a destroyed
  // upload leaves nothing behind.
  class Upload {
   public:
    virtual ~Upload() = default;
    virtual bool existed() const = 0;               // the content is there already: Finish at once
    virtual const std::string& sha256() const = 0;  // address of the whole
    virtual absl::Status Append(absl::Span<const std::byte> bytes) = 0;
    virtual absl::Status Finish() = 0;  // durable and visible on OK
  };
  // The address is the file's SHA-256, or for a directory that of its lines "SHA256  NAME\n" in name order.
  // INVALID_ARGUMENT for the plan; RESOURCE_EXHAUSTED beyond upload_bytes or with a full disk.
  virtual absl::StatusOr<std::unique_ptr<Upload>> BeginUpload(StoreKind kind, const UploadPlan& plan) = 0;

  // Takes a finished local file (a trained checkpoint) into the store, away from where it was. Returns its
  // SHA-256. On an error the file stays. NOT_FOUND: there is none.
  virtual absl::StatusOr<std::string> Adopt(StoreKind kind, const std::string& path) = 0;

  // A path for a job's output, JOB_ID and the suffix (".safetensors") in a directory of the job's own; the
  // directory goes with RemoveSpool. RESOURCE_EXHAUSTED when the spool is full.
  virtual absl::StatusOr<std::string> NewSpoolPath(absl::string_view job_id, absl::string_view suffix) = 0;
  virtual void RemoveSpool(absl::string_view job_id) = 0;
  // Sets aside what the spool has left, at most `most` bytes, for a file that the job will make in its full
  // size at once (SafetensorsWriter does). Returns the bytes. Until the file is there, or ReleaseSpool or
  // RemoveSpool, others wait: two jobs cannot be promised the same bytes. CANCELLED once stopped() is true,
  // which is asked while it waits.
  virtual absl::StatusOr<int64_t> ReserveSpool(absl::string_view job_id, int64_t most,
                                               const std::function<bool()>& stopped) = 0;
  virtual void ReleaseSpool(absl::string_view job_id) = 0;
};

// Reads a stored file in pieces. For streams. Thread-safe.
class StoredFile {
 public:
  // NOT_FOUND; FAILED_PRECONDITION for a directory.
  static absl::StatusOr<std::unique_ptr<StoredFile>> Open(const std::string& path);
  ~StoredFile();
  StoredFile(const StoredFile&) = delete;
  StoredFile& operator=(const StoredFile&) = delete;
  int64_t size() const { return size_; }
  // At most `length` bytes and 256 KiB; empty at the end. OUT_OF_RANGE beyond it.
  absl::StatusOr<std::string> Read(int64_t offset, int64_t length) const;

 private:
  StoredFile(int fd, int64_t size) : fd_(fd), size_(size) {}
  int fd_;
  int64_t size_;
};

}  // namespace eigsvc
