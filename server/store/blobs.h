// Blobs: uploads and trained checkpoints, addressed by SHA-256 and immutable once visible.
//
//   uploads/KIND/SHA256-file/NAME      one file
//   uploads/KIND/SHA256-dir/NAME...    a directory; SHA256 is that of its lines "SHA256  NAME\n" in name
//   order incoming/N/NAME...                 on its way; a rename makes it visible, a restart removes it
//
// A file keeps its name because readers of data tell the format by it. The same bytes under a second name
// keep the first. Thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/store/files.h"
#include "server/store/store.h"

namespace eigsvc {

// SHA-256 of the plan's listing, as models/archive/archive.h defines it for directories.
std::string DirectoryDigest(const UploadPlan& plan);

class Blobs {
 public:
  static absl::StatusOr<std::unique_ptr<Blobs>> Open(const std::string& state_dir, int64_t budget_bytes);

  absl::StatusOr<std::string> Resolve(StoreKind kind, const std::string& sha256) const;
  std::vector<StoredEntry> List(StoreKind kind) const;
  absl::StatusOr<std::unique_ptr<Store::Upload>> BeginUpload(StoreKind kind, const UploadPlan& plan);
  absl::StatusOr<std::string> Adopt(StoreKind kind, const std::string& path);

  // A staging directory with budget set aside for it. Destroyed before Publish: nothing is left of either.
  class Staging {
   public:
    ~Staging();
    const std::string& directory() const { return directory_; }
    // Makes the synced files in the directory visible under the address. Fine when the content is there
    // already.
    absl::Status Publish(StoreKind kind, const std::string& sha256, bool is_directory);

   private:
    friend class Blobs;
    Staging(Blobs* blobs, std::string directory, int64_t bytes)
        : blobs_(blobs), directory_(std::move(directory)), bytes_(bytes) {}
    Blobs* blobs_;
    std::string directory_;
    int64_t bytes_;
  };

 private:
  Blobs(std::string state_dir, int64_t budget) : state_dir_(std::move(state_dir)), budget_bytes_(budget) {}
  std::string Home(StoreKind kind) const;
  std::string Address(StoreKind kind, const std::string& sha256, bool is_directory) const;
  bool Exists(StoreKind kind, const std::string& sha256, bool is_directory) const;
  absl::StatusOr<std::unique_ptr<Staging>> NewStaging(int64_t bytes);

  const std::string state_dir_;
  const int64_t budget_bytes_;
  std::mutex mutex_;
  int64_t used_bytes_ = 0;    // published and set aside; guarded by mutex_
  int64_t next_staging_ = 0;  // guarded by mutex_
};

}  // namespace eigsvc
