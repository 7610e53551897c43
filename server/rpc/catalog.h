// What CatalogService answers, without gRPC: the worker to ask, the pages of checkpoints, the pools of all
// workers. Blocking; thread-safe.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "eigsvc/v1/catalog_service.pb.h"
#include "server/jobs/page_token.h"
#include "server/rpc/rpc_server.h"

namespace eigsvc {

class Catalog {
 public:
  explicit Catalog(const RpcBackends& backends) : backends_(backends) {}

  // UNAVAILABLE with the reason when no worker comes up in time or before the control is cancelled.
  absl::StatusOr<worker::v1::GetCatalogResponse> Get(CallControl& control);
  // With what of their data the data root holds. Blocking.
  absl::StatusOr<std::vector<v1::TaskInfo>> ListTasks(CallControl& control);
  absl::StatusOr<Page<v1::Checkpoint>> ListCheckpoints(int32_t page_size, const std::string& page_token);
  absl::StatusOr<v1::CheckpointInspection> Inspect(const v1::InspectCheckpointRequest& request,
                                                   CallControl& control);
  absl::StatusOr<v1::LoadedModel> Load(const v1::LoadModelRequest& request, CallControl& control);
  absl::Status Unload(const std::string& model_id);
  std::vector<v1::LoadedModel> ListLoaded();
  std::vector<v1::WorkerInfo> Workers();

 private:
  std::vector<std::string> Devices() const;
  Worker* Pick(const std::string& device) const;  // an idle one first

  const RpcBackends backends_;
  const PageTokens tokens_;
};

}  // namespace eigsvc
