// PrivateDaemon: an eigsvcd of this call's own. It listens on a Unix socket in a fresh 0700 directory, may
// read the files its parent names, and ends when this object goes or this process dies (its stdin closes).
#pragma once

#include <sys/types.h>

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace eigsvc::cli {

class PrivateDaemon {
 public:
  struct Options {
    std::string binary;     // path of eigsvcd
    bool show_log = false;  // its log to stderr; otherwise kept, and quoted when the start fails
    absl::Duration start_timeout = absl::Seconds(30);
  };
  // Starts it and waits until it listens. LocalError naming the program, the cause and the remedy.
  static absl::StatusOr<std::unique_ptr<PrivateDaemon>> Start(const Options& options);
  ~PrivateDaemon();  // ends it and removes the directory
  PrivateDaemon(const PrivateDaemon&) = delete;
  PrivateDaemon& operator=(const PrivateDaemon&) = delete;

  // "unix:/tmp/eigsvc.XXXXXX/socket".
  const std::string& address() const { return address_; }

 private:
  PrivateDaemon() = default;
  absl::Status MakeDirectory();
  absl::Status Spawn(const Options& options);
  absl::Status AwaitReady(const Options& options);
  bool Exited(absl::Duration within);
  std::string LogTail() const;

  std::string directory_, address_;
  pid_t process_ = -1;
  int stdin_fd_ = -1;  // its life line: closing it ends the daemon
  int stdout_fd_ = -1;
  int wait_status_ = 0;
};

// EIGSVC_DAEMON if set, else eigsvcd beside this program.
std::string DaemonBinary(const std::string& environment_value);

}  // namespace eigsvc::cli
