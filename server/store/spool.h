// Spool: scratch files of jobs, one directory a job. Thread-safe.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace eigsvc {

class Spool {
 public:
  // Empties what an earlier run left.
  static absl::StatusOr<std::unique_ptr<Spool>> Open(const std::string& directory, int64_t budget_bytes);

  absl::StatusOr<std::string> NewPath(absl::string_view job_id, absl::string_view suffix) const;
  // As Store::ReserveSpool and Store::ReleaseSpool.
  absl::StatusOr<int64_t> Reserve(absl::string_view job_id, int64_t most,
                                  const std::function<bool()>& stopped);
  void Release(absl::string_view job_id);
  void Remove(absl::string_view job_id);

 private:
  Spool(std::string directory, int64_t budget) : directory_(std::move(directory)), budget_bytes_(budget) {}
  std::string DirectoryOf(absl::string_view job_id) const;
  absl::StatusOr<int64_t> SomeBytesFree() const;  // RESOURCE_EXHAUSTED when there are none
  int64_t BytesFree() const;

  const std::string directory_;
  const int64_t budget_bytes_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::string reserving_;  // the job that holds what was free; empty: none. Guarded by mutex_
};

}  // namespace eigsvc
