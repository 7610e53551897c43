#include "server/store/spool.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "models/base/status_macros.h"
#include "server/store/files.h"
#include "server/store/names.h"

namespace eigsvc {

absl::StatusOr<Spool> Spool::Open(const std::string& directory, int64_t budget_bytes) {
  RemoveTree(directory);
  EIGSVC_RETURN_IF_ERROR(EnsureDirectory(directory));
  return Spool(directory, budget_bytes);
}

absl::StatusOr<std::string> Spool::NewPath(absl::string_view job_id, absl::string_view suffix) const {
  EIGSVC_RETURN_IF_ERROR(CheckBareName(job_id));
  const std::string file = absl::StrCat(job_id, suffix);
  EIGSVC_RETURN_IF_ERROR(CheckBareName(file));
  if (BytesFree() <= 0) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the spool of ", budget_bytes_,
                     " bytes for kept eigenvalues is full; drop old results, or start "
                     "the server with a larger --spool-bytes"));
  }
  const std::string directory = absl::StrCat(directory_, "/", job_id);
  EIGSVC_RETURN_IF_ERROR(EnsureDirectory(directory));
  return absl::StrCat(directory, "/", file);
}

void Spool::Remove(absl::string_view job_id) const {
  if (CheckBareName(job_id).ok()) RemoveTree(absl::StrCat(directory_, "/", job_id));
}

// Read from the disk each time: workers write the files, so the truth is there.
int64_t Spool::BytesFree() const { return std::max(int64_t{0}, budget_bytes_ - TreeBytes(directory_)); }

}  // namespace eigsvc
