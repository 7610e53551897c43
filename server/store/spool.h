// Spool: scratch files of jobs, one directory a job. Thread-safe.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace eigsvc {

class Spool {
 public:
  // Empties what an earlier run left.
  static absl::StatusOr<Spool> Open(const std::string& directory, int64_t budget_bytes);

  absl::StatusOr<std::string> NewPath(absl::string_view job_id, absl::string_view suffix) const;
  void Remove(absl::string_view job_id) const;
  int64_t BytesFree() const;

 private:
  Spool(std::string directory, int64_t budget) : directory_(std::move(directory)), budget_bytes_(budget) {}
  std::string directory_;
  int64_t budget_bytes_;
};

}  // namespace eigsvc
