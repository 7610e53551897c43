#include "client/cli/connection.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "client/cli/servers.h"
#include "models/base/status_macros.h"

namespace eigsvc::cli {
namespace {

constexpr int kMaxReceiveBytes = 16 << 20;

// Calls that may be repeated: they read, or repeat to the same end. Analyze, Train and the uploads are left
// out: a second one would be a second job. A server that shuts down answers a call that it had not yet taken
// up with CANCELLED.
constexpr char kServiceConfig[] = R"({"methodConfig":[{
  "name":[
    {"service":"eigsvc.v1.AnalysisService","method":"GetAnalysis"},
    {"service":"eigsvc.v1.AnalysisService","method":"ListAnalyses"},
    {"service":"eigsvc.v1.AnalysisService","method":"CancelAnalysis"},
    {"service":"eigsvc.v1.TrainingService","method":"GetTraining"},
    {"service":"eigsvc.v1.TrainingService","method":"ListTrainings"},
    {"service":"eigsvc.v1.TrainingService","method":"CancelTraining"},
    {"service":"eigsvc.v1.CatalogService","method":"ListModels"},
    {"service":"eigsvc.v1.CatalogService","method":"ListTasks"},
    {"service":"eigsvc.v1.CatalogService","method":"ListCheckpoints"},
    {"service":"eigsvc.v1.CatalogService","method":"InspectCheckpoint"},
    {"service":"eigsvc.v1.CatalogService","method":"ListLoadedModels"},
    {"service":"eigsvc.v1.CatalogService","method":"GetServerInfo"}],
  "retryPolicy":{"maxAttempts":4,"initialBackoff":"0.2s","maxBackoff":"2s","backoffMultiplier":2,
                 "retryableStatusCodes":["UNAVAILABLE","CANCELLED"]}}]})";

}  // namespace

absl::StatusOr<std::unique_ptr<Connection>> Connection::Open(const Options& options) {
  std::unique_ptr<Connection> connection(new Connection);
  connection->deadline_ = options.deadline;
  connection->address_ = options.server;
  if (options.server.empty()) {
    EIGSVC_ASSIGN_OR_RETURN(connection->daemon_, PrivateDaemon::Start({.binary = options.daemon_binary,
                                                                       .show_log = options.show_daemon_log}));
    connection->address_ = connection->daemon_->address();
  }
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMaxReceiveBytes);
  arguments.SetServiceConfigJSON(kServiceConfig);
  // A server that restarts is back before the next one goes: gRPC's own waits grow to two minutes.
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 200);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 2'000);
  if (absl::StartsWith(connection->address_, "unix:")) {
    arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
    arguments.SetString(GRPC_ARG_DEFAULT_AUTHORITY, "localhost");  // a path is no valid :authority
  } else {
    // A job's stream is quiet while it queues. A socket file's other end cannot vanish unseen, and a busy
    // machine may leave a ping unanswered for long.
    arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 60'000);
    arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20'000);
  }
  std::string target = connection->address_;
  if (!options.servers.empty() && options.servers.front() != target) {
    // Tried in order, and again from the start after a lost connection (gRPC's pick_first).
    target = JoinServers(options.servers);
    arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);  // a proxy is for names
    if (!absl::StartsWith(options.server, "ipv")) {
      arguments.SetString(GRPC_ARG_DEFAULT_AUTHORITY, NameOf(options.server));
    }
  }
  const std::shared_ptr<grpc::Channel> channel =
      grpc::CreateCustomChannel(target, grpc::InsecureChannelCredentials(), arguments);
  connection->analyses_ = v1::AnalysisService::NewStub(channel);
  connection->catalog_ = v1::CatalogService::NewStub(channel);
  connection->trainings_ = v1::TrainingService::NewStub(channel);
  return connection;
}

CallOptions Connection::call_options() const { return {.deadline = deadline_}; }

absl::Status Connection::Explain(const absl::Status& status) const {
  // gRPC's own words for a connection it could not make; a server's UNAVAILABLE keeps the server's message.
  const bool nobody = absl::IsUnavailable(status) &&
                      (absl::StrContains(status.message(), "failed to connect") ||
                       absl::StrContains(status.message(), "connections to all backends failing") ||
                       absl::StrContains(status.message(), "DNS resolution failed"));
  if (!nobody) return status;
  if (private_server()) {
    return absl::UnavailableError(absl::StrCat("the private daemon is gone (", std::string(status.message()),
                                               "); run again with -v to see its log"));
  }
  return absl::UnavailableError(
      absl::StrCat("no server answers at ", address_, "; start one with `eigsvcd --listen ", address_,
                   "`, correct --server or EIGSVC_SERVER, or leave both out for a private one"));
}

}  // namespace eigsvc::cli
