// ChildProcess: fork and exec done carefully, and the wait for the end.
#pragma once

#include <sys/types.h>

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/workers/worker.h"

namespace eigsvc {

class ChildProcess : public WorkerProcess {
 public:
  // Runs argv[0] (a path) in a process group of its own, with stdin from /dev/null, the two given descriptors
  // as stdout and stderr and no other one, default signal handling, and SIGKILL when the calling thread ends.
  // UNAVAILABLE naming the program and errno's text when it cannot be run.
  static absl::StatusOr<std::unique_ptr<ChildProcess>> Start(const std::vector<std::string>& argv,
                                                             int stdout_fd, int stderr_fd);
  ~ChildProcess() override;  // kills and reaps

  int64_t pid() const override { return pid_; }
  // Both go to the whole group.
  void Kill() override;
  void Terminate() override;
  bool WaitForExit(absl::Duration timeout, std::string* cause) override;

 private:
  ChildProcess(pid_t pid, int pidfd) : pid_(pid), pidfd_(pidfd) {}
  void Signal(int signal);

  const pid_t pid_;
  const int pidfd_;
  std::mutex mutex_;
  bool reaped_ = false;  // guarded by mutex_: once reaped, the pid may be someone else's
  std::string cause_;    // guarded by mutex_
};

}  // namespace eigsvc
