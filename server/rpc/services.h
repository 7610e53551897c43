// The three services, one file each. Their methods check nothing themselves: they hand over to the room that
// knows.
#pragma once

#include <memory>

#include "grpcpp/impl/service_type.h"
#include "server/rpc/call.h"

namespace eigsvc {

// `state` outlives the service.
std::unique_ptr<grpc::Service> NewAnalysisService(RpcState& state);
std::unique_ptr<grpc::Service> NewTrainingService(RpcState& state);
std::unique_ptr<grpc::Service> NewCatalogService(RpcState& state);

}  // namespace eigsvc
