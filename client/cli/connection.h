// Connection: the server a command talks to, named or private, and its stubs. One server for all its calls:
// jobs, uploads and checkpoints are where they were made.
#pragma once

#include <grpcpp/channel.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/cli/call.h"
#include "client/cli/private_daemon.h"
#include "eigsvc/v1/analysis_service.grpc.pb.h"
#include "eigsvc/v1/catalog_service.grpc.pb.h"
#include "eigsvc/v1/training_service.grpc.pb.h"

namespace eigsvc::cli {

class Connection {
 public:
  struct Options {
    std::string server;  // as the user names it, "HOST:PORT" or "unix:/path"; empty: a private daemon
    std::vector<std::string>
        servers;                // those behind the name (servers.h): the first that answers is talked to
    std::string daemon_binary;  // for the private one
    bool show_daemon_log = false;
    absl::Time deadline = absl::InfiniteFuture();
  };
  static absl::StatusOr<std::unique_ptr<Connection>> Open(const Options& options);

  bool private_server() const { return daemon_ != nullptr; }
  v1::AnalysisService::Stub& analyses() { return *analyses_; }
  v1::CatalogService::Stub& catalog() { return *catalog_; }
  v1::TrainingService::Stub& trainings() { return *trainings_; }

  // For every call: the deadline of the command.
  CallOptions call_options() const;
  // A status as the user should read it: one that means "nobody answers" says so, and what to do.
  absl::Status Explain(const absl::Status& status) const;

 private:
  Connection() = default;
  std::unique_ptr<PrivateDaemon> daemon_;  // outlives the channel's calls
  std::string address_;
  absl::Time deadline_;
  std::unique_ptr<v1::AnalysisService::Stub> analyses_;
  std::unique_ptr<v1::CatalogService::Stub> catalog_;
  std::unique_ptr<v1::TrainingService::Stub> trainings_;
};

}  // namespace eigsvc::cli
