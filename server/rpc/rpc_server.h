// RpcServer: the gRPC face of the daemon. Its reactions only hand over: what blocks runs on IoPool threads,
// and the work itself is in server/jobs, server/store and server/workers. Start reading at rpc_server.cc,
// then event_call.h.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "server/jobs/jobs.h"
#include "server/metrics/metrics.h"
#include "server/store/store.h"
#include "server/workers/worker.h"

namespace eigsvc {

// One finished RPC, for the access log.
struct RpcRecord {
  absl::string_view method;  // "AnalysisService.Analyze"
  absl::string_view code;    // "OK"
  std::string message;       // of an error
  std::string peer;
  absl::Duration duration;
};

struct RpcOptions {
  std::string listen = "127.0.0.1:0";  // "HOST:PORT" or "unix:/path"
  bool reflection = true;
  bool private_server = false;
  absl::Duration max_connection_age = absl::Minutes(5);  // without a limit to the calls that are on one then
  // Shown by GetServerInfo.
  std::map<std::string, std::string> versions;
  std::map<std::string, int64_t> limits;
  int64_t queue_capacity = 64;
  std::function<void(const RpcRecord&)> on_rpc;  // from any thread; may be empty
};

// Everything the RPCs work with. Outlives the server.
struct RpcBackends {
  Jobs* jobs = nullptr;
  Store* store = nullptr;
  Metrics* metrics = nullptr;
  std::vector<Worker*> workers;
};

class RpcServer {
 public:
  virtual ~RpcServer() = default;  // Shutdown(now)

  // Listens and serves; health says NOT_SERVING until SetServing, but of "liveness", which is SERVING for as
  // long as the process answers, in a drain, too. UNAVAILABLE when the address cannot be had.
  static absl::StatusOr<std::unique_ptr<RpcServer>> Start(RpcOptions options, RpcBackends backends);

  virtual int port() const = 0;  // 0 for a Unix socket
  // Health of "" and of every service, Check and Watch.
  virtual void SetServing(bool serving) = 0;
  // Shown by GetServerInfo; uploads are refused with UNAVAILABLE.
  virtual void SetDraining() = 0;
  // Open calls get until then; after it they are cancelled. Returns when none is left.
  virtual void Shutdown(absl::Time deadline) = 0;
};

}  // namespace eigsvc
