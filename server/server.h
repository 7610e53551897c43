// Server: the whole daemon as one value: config, store, metrics, workers, jobs, rpc, http, built in this
// order and taken down in the reverse one. main.cc adds signals, logging and exit codes; tests run it in
// process.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "server/config/config.h"
#include "server/rpc/rpc_server.h"
#include "server/workers/worker.h"

namespace eigsvc {

// What a test or main puts in place of the defaults.
struct ServerHooks {
  WorkerLauncher launcher;  // empty: processes of config.worker_binary
  std::function<void(const RpcRecord&)> on_rpc;
};

class Server {
 public:
  // Returns as soon as the ports answer; workers start in the background and readiness follows them.
  // UNAVAILABLE or INVALID_ARGUMENT naming what stands in the way and the remedy.
  static absl::StatusOr<std::unique_ptr<Server>> Start(const ServerConfig& config, ServerHooks hooks);
  ~Server();  // Shutdown at once

  std::string address() const;  // "127.0.0.1:50151" or "unix:/path", the port being the real one
  int port() const;             // 0 for a Unix socket
  int http_port() const;        // 0 when there is no HTTP

  // Blocks through the drain: not ready, yet serving, for lame_duck; then no new jobs, and running ones may
  // finish for drain_timeout before they are cancelled; then open calls are closed. A private server has no
  // lame duck.
  void Shutdown();
  // From any thread: the rest of a drain at once.
  void Hurry();

 private:
  struct Impl;
  explicit Server(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace eigsvc
