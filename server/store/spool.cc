#include "server/store/spool.h"

#include <algorithm>
#include <chrono>

#include "absl/strings/str_cat.h"
#include "models/base/status_macros.h"
#include "server/store/files.h"
#include "server/store/names.h"

namespace eigsvc {
namespace {

constexpr std::chrono::milliseconds kPoll(20);

}  // namespace

absl::StatusOr<std::unique_ptr<Spool>> Spool::Open(const std::string& directory, int64_t budget_bytes) {
  RemoveTree(directory);
  EIGSVC_RETURN_IF_ERROR(EnsureDirectory(directory));
  return std::unique_ptr<Spool>(new Spool(directory, budget_bytes));
}

std::string Spool::DirectoryOf(absl::string_view job_id) const {
  return absl::StrCat(directory_, "/", job_id);
}

absl::StatusOr<std::string> Spool::NewPath(absl::string_view job_id, absl::string_view suffix) const {
  EIGSVC_RETURN_IF_ERROR(CheckBareName(job_id));
  const std::string file = absl::StrCat(job_id, suffix);
  EIGSVC_RETURN_IF_ERROR(CheckBareName(file));
  EIGSVC_RETURN_IF_ERROR(SomeBytesFree().status());
  EIGSVC_RETURN_IF_ERROR(EnsureDirectory(DirectoryOf(job_id)));
  return absl::StrCat(DirectoryOf(job_id), "/", file);
}

// What a job needs is known once it has made its file, at once in its full size. Until then it holds all that
// is free, so one job at a time can be at that point; the others wait for the moment, not for its end.
absl::StatusOr<int64_t> Spool::Reserve(absl::string_view job_id, int64_t most,
                                       const std::function<bool()>& stopped) {
  std::unique_lock<std::mutex> lock(mutex_);
  while (!reserving_.empty() && TreeBytes(DirectoryOf(reserving_)) == 0) {
    if (stopped()) return absl::CancelledError("stopped while it waited for room in the spool");
    changed_.wait_for(lock, kPoll);
  }
  EIGSVC_ASSIGN_OR_RETURN(const int64_t free, SomeBytesFree());
  reserving_ = std::string(job_id);
  return std::min(most, free);
}

void Spool::Release(absl::string_view job_id) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (reserving_ != job_id) return;
    reserving_.clear();
  }
  changed_.notify_all();
}

void Spool::Remove(absl::string_view job_id) {
  if (!CheckBareName(job_id).ok()) return;
  RemoveTree(DirectoryOf(job_id));
  Release(job_id);
}

absl::StatusOr<int64_t> Spool::SomeBytesFree() const {
  if (const int64_t free = BytesFree(); free > 0) return free;
  return absl::ResourceExhaustedError(
      absl::StrCat("the spool of ", budget_bytes_,
                   " bytes for kept eigenvalues is full; drop old results, or start "
                   "the server with a larger --spool-bytes"));
}

// Read from the disk each time: workers write the files, so the truth is there.
int64_t Spool::BytesFree() const { return std::max(int64_t{0}, budget_bytes_ - TreeBytes(directory_)); }

}  // namespace eigsvc
