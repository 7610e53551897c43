// A store in memory: three known checkpoints, and a record of what the jobs did to the spool.
#pragma once

#include <algorithm>
#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/store/store.h"

namespace eigsvc::testing {

class FakeStore : public Store {
 public:
  absl::StatusOr<ResolvedPath> ResolveName(StoreKind, const std::string& name) override {
    if (name == "known.safetensors" || name == "sub/ids.npy") return ResolvedPath{"/root/" + name, false};
    return absl::NotFoundError(absl::StrCat("no checkpoint \"", name, "\"; known: known.safetensors"));
  }
  absl::StatusOr<ResolvedPath> ResolveDigest(StoreKind, const std::string& sha256) override {
    const std::lock_guard lock(mutex_);
    if (adopted_.count(sha256) > 0) return ResolvedPath{"/store/" + sha256, true};
    return absl::NotFoundError(absl::StrCat("no upload ", sha256));
  }
  absl::StatusOr<ResolvedPath> ResolveLocal(StoreKind, const std::string& path) override {
    if (allow_local) return ResolvedPath{path, false};
    return absl::PermissionDeniedError("local paths are for a private server; upload the file");
  }
  absl::StatusOr<std::vector<StoredEntry>> List(StoreKind) override { return std::vector<StoredEntry>(); }
  absl::StatusOr<std::unique_ptr<Upload>> BeginUpload(StoreKind, const UploadPlan&) override {
    return absl::UnimplementedError("not in this fake");
  }
  absl::StatusOr<std::string> Adopt(StoreKind, const std::string& path) override {
    const std::lock_guard lock(mutex_);
    if (files_.count(path) == 0) return absl::NotFoundError(absl::StrCat("cannot open ", path));
    if (full) return absl::ResourceExhaustedError("no room in this fake");
    files_.erase(path);
    const std::string sha256(64, path.find("best") != std::string::npos ? 'b' : 'a');
    adopted_.insert(sha256);
    return sha256;
  }
  absl::StatusOr<std::string> NewSpoolPath(absl::string_view job_id, absl::string_view suffix) override {
    const std::lock_guard lock(mutex_);
    spooled_.insert(std::string(job_id));
    return absl::StrCat("/spool/", job_id, "/", suffix);
  }
  void RemoveSpool(absl::string_view job_id) override {
    const std::lock_guard lock(mutex_);
    std::erase_if(files_, [&](const std::string& file) {
      return file.rfind(absl::StrCat("/spool/", job_id, "/"), 0) == 0;
    });
    spooled_.erase(std::string(job_id));
  }
  absl::StatusOr<int64_t> ReserveSpool(absl::string_view, int64_t most,
                                       const std::function<bool()>&) override {
    ++reserved;
    return std::min<int64_t>(most, 1000);
  }
  void ReleaseSpool(absl::string_view) override { ++released; }

  std::set<std::string> spooled() {
    const std::lock_guard lock(mutex_);
    return spooled_;
  }
  // As a worker writes one.
  void Write(const std::string& path) {
    const std::lock_guard lock(mutex_);
    files_.insert(path);
  }
  bool allow_local = false;
  std::atomic<bool> full = false;  // takes no more files
  std::atomic<int> reserved = 0, released = 0;

 private:
  std::mutex mutex_;
  std::set<std::string> spooled_, adopted_, files_;
};

}  // namespace eigsvc::testing
