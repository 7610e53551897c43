// ServerConfig: everything the daemon can be told, in one struct. Precedence: flag, then EIGSVC_*
// environment, then default. No other room reads a flag or the environment. Printed by --print-config. A flag
// is its field's name with dashes (--queue-capacity), its variable EIGSVC_ and the name
// (EIGSVC_QUEUE_CAPACITY), its key in --print-config the name itself. Sizes take a unit (8GiB), durations too
// (250ms); switches are
// --name and --no-name, their variables true or false; `devices` is a comma-separated list.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace eigsvc {

struct ServerConfig {
  // Where gRPC listens: "HOST:PORT" (port 0: any free one) or "unix:/path". Loopback by default: there is no
  // authentication yet; other addresses need allow_remote.
  std::string listen = "127.0.0.1:50151";
  bool allow_remote = false;
  // Where /metrics, /livez, /readyz and pictures are; empty: nowhere.
  std::string http_listen = "127.0.0.1:9464";
  // Checkpoints and data that clients may name; empty: none.
  std::string checkpoint_root, data_root;
  // Uploads, trained checkpoints, kept eigenvalues, worker sockets. Created 0700.
  std::string state_dir;      // default: $XDG_STATE_HOME/eigsvc or ~/.local/state/eigsvc
  std::string worker_binary;  // default: eigsvc-worker beside this program
  std::vector<std::string> devices = {
      "auto"};                  // one worker each; "auto": every CUDA device, or cpu when there is none
  int worker_threads = 0;       // CPU threads of a worker; 0: all
  int64_t queue_capacity = 64;  // jobs waiting; beyond it RESOURCE_EXHAUSTED
  int64_t model_memory_bytes = int64_t{8} << 30;     // weights kept loaded, per worker
  int64_t result_memory_bytes = int64_t{256} << 20;  // finished jobs kept
  int64_t spool_bytes = int64_t{16} << 30;           // kept eigenvalues on disk
  int64_t upload_bytes = int64_t{64} << 30;          // uploads and trained checkpoints on disk
  // Older connections are asked to come again, by a name that may have other addresses by then; calls on them
  // go on.
  absl::Duration max_connection_age = absl::Minutes(5);
  absl::Duration lame_duck = absl::Seconds(5);  // after SIGTERM: not ready, still serving
  absl::Duration drain_timeout =
      absl::Seconds(25);  // then running jobs may finish this long before they are cancelled
  absl::Duration cancel_grace = absl::Milliseconds(150);  // a worker that has not stopped by then is killed
  std::string log_level = "info";                         // trace, debug, info, warning, error
  std::string log_format = "auto";  // auto: json unless stderr is a terminal; json, text
  bool reflection = true;
  // A client's private daemon: may read local paths, has no HTTP port (http_listen is empty), ends with its
  // parent.
  bool private_server = false;
  // The directory that such a client made for its daemon (socket, log, state_dir): removed when the daemon
  // ends, which the client may no longer be there to do. Empty: none.
  std::string scratch_dir;
  bool print_config = false;
};

// `exit_text` is set (and the config unusable) for --help and --version.
struct ParsedConfig {
  ServerConfig config;
  std::string exit_text;
};
// Parses the command line and the environment. INVALID_ARGUMENT naming the flag or variable, its value and
// what is allowed. Reads the environment: not beside a thread that changes it.
absl::StatusOr<ParsedConfig> ParseServerConfig(int argc, const char* const* argv);

// The resolved configuration as JSON, one key a flag.
std::string ConfigToJson(const ServerConfig& config);

}  // namespace eigsvc
