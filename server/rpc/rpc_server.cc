#include "server/rpc/rpc_server.h"

#include <array>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "eigsvc/v1/analysis_service.grpc.pb.h"
#include "eigsvc/v1/catalog_service.grpc.pb.h"
#include "eigsvc/v1/training_service.grpc.pb.h"
#include "grpcpp/ext/proto_server_reflection_plugin.h"
#include "grpcpp/health_check_service_interface.h"
#include "grpcpp/resource_quota.h"
#include "grpcpp/security/server_credentials.h"
#include "grpcpp/server.h"
#include "grpcpp/server_builder.h"
#include "server/rpc/call.h"
#include "server/rpc/services.h"

namespace eigsvc {
namespace {

// The health service's name for the process itself: readiness must not restart a pod that only drains.
constexpr char kLiveness[] = "liveness";
constexpr int kMaxRequestBytes = 4 << 20;
constexpr int kMaxMetadataBytes = 16 << 10;
// A connection's; one client of a browser or a test may well hold a few hundred watches.
constexpr int kMaxConcurrentStreams = 1000;
constexpr size_t kMemoryQuotaBytes = size_t{512} << 20;
constexpr int kKeepaliveTimeMs = 30'000, kKeepaliveTimeoutMs = 10'000, kMinPingIntervalMs = 5'000;

class RpcServerImpl final : public RpcServer {
 public:
  RpcServerImpl(RpcOptions options, RpcBackends backends)
      : state_(std::move(options), std::move(backends)),
        services_{NewAnalysisService(state_), NewTrainingService(state_), NewCatalogService(state_)} {}
  ~RpcServerImpl() override { Shutdown(absl::Now()); }

  absl::Status Listen() {
    grpc::EnableDefaultHealthCheckService(true);
    if (state_.options.reflection) grpc::reflection::InitProtoReflectionServerBuilderPlugin();
    grpc::ServerBuilder builder;
    builder.AddListeningPort(state_.options.listen, grpc::InsecureServerCredentials(), &port_);
    for (const auto& service : services_) builder.RegisterService(service.get());
    builder.SetMaxReceiveMessageSize(kMaxRequestBytes);
    builder.SetResourceQuota(grpc::ResourceQuota("eigsvcd").Resize(kMemoryQuotaBytes));
    builder.AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, kMaxMetadataBytes);
    builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, kMaxConcurrentStreams);
    // Two servers on one port would share its clients at random; gRPC's default allows it.
    builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
    // A client that vanished without a word is noticed, and its job ends.
    builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveTimeMs);
    builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMs);
    builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
    // A client whose name leads to many servers finds those that came later.
    builder.AddChannelArgument(
        GRPC_ARG_MAX_CONNECTION_AGE_MS,
        static_cast<int>(absl::ToInt64Milliseconds(state_.options.max_connection_age)));
    // Clients may do the same: by default two pings within five minutes would cost them the connection.
    builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
    builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, kMinPingIntervalMs);
    server_ = builder.BuildAndStart();
    if (server_ == nullptr) {
      return absl::UnavailableError(absl::StrCat("cannot listen on ", state_.options.listen,
                                                 ": the address is in use by another program, not of this "
                                                 "machine, or not allowed; choose another with "
                                                 "--listen"));
    }
    if (absl::StartsWith(state_.options.listen, "unix:")) port_ = 0;
    SetServing(false);
    server_->GetHealthCheckService()->SetServingStatus(kLiveness, true);
    return absl::OkStatus();
  }

  int port() const override { return port_; }

  void SetServing(bool serving) override {
    static const std::array<std::string, 4> kServices = {"", v1::AnalysisService::service_full_name(),
                                                         v1::TrainingService::service_full_name(),
                                                         v1::CatalogService::service_full_name()};
    for (const std::string& name : kServices)
      server_->GetHealthCheckService()->SetServingStatus(name, serving);
  }

  void SetDraining() override { state_.draining = true; }

  void Shutdown(absl::Time deadline) override {
    if (server_ != nullptr && !std::exchange(shut_down_, true))
      server_->Shutdown(absl::ToChronoTime(deadline));
  }

 private:
  RpcState state_;
  std::array<std::unique_ptr<grpc::Service>, 3> services_;
  int port_ = 0;
  bool shut_down_ = false;
  std::unique_ptr<grpc::Server> server_;  // last: it ends before what its calls use
};

}  // namespace

absl::StatusOr<std::unique_ptr<RpcServer>> RpcServer::Start(RpcOptions options, RpcBackends backends) {
  auto server = std::make_unique<RpcServerImpl>(std::move(options), std::move(backends));
  if (absl::Status status = server->Listen(); !status.ok()) return status;
  return server;
}

}  // namespace eigsvc
