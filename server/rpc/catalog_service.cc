#include "eigsvc/v1/catalog_service.grpc.pb.h"
#include "google/protobuf/timestamp.pb.h"
#include "server/jobs/spec_checks.h"
#include "server/rpc/catalog.h"
#include "server/rpc/file_call.h"
#include "server/rpc/services.h"
#include "server/rpc/upload_call.h"

namespace eigsvc {

absl::StatusOr<UploadPlan> ToPlan(const v1::UploadManifest& manifest) {
  constexpr int kMaxFiles = 1000;
  if (manifest.files().empty() || manifest.files_size() > kMaxFiles) {
    return absl::InvalidArgumentError(
        absl::StrCat("the manifest lists ", manifest.files_size(), " files; an upload has 1 to ", kMaxFiles));
  }
  UploadPlan plan;
  plan.directory = manifest.directory();
  for (const v1::UploadFile& file : manifest.files()) {
    plan.files.push_back({file.name(), file.sha256(), file.size_bytes()});
  }
  return plan;
}

namespace {

using CatalogBaseStreams = v1::CatalogService::WithRawCallbackMethod_DownloadCheckpoint<
    v1::CatalogService::WithCallbackMethod_UploadCheckpoint<
        v1::CatalogService::WithCallbackMethod_UploadData<v1::CatalogService::Service>>>;
using CatalogServiceBase = v1::CatalogService::WithCallbackMethod_ListModels<
    v1::CatalogService::WithCallbackMethod_ListTasks<v1::CatalogService::WithCallbackMethod_ListCheckpoints<
        v1::CatalogService::WithCallbackMethod_InspectCheckpoint<
            v1::CatalogService::WithCallbackMethod_LoadModel<
                v1::CatalogService::WithCallbackMethod_UnloadModel<
                    v1::CatalogService::WithCallbackMethod_ListLoadedModels<
                        v1::CatalogService::WithCallbackMethod_GetServerInfo<CatalogBaseStreams>>>>>>>>;

class CatalogServiceImpl final : public CatalogServiceBase {
 public:
  explicit CatalogServiceImpl(RpcState& state) : state_(state), catalog_(state.backends) {}

 private:
  using Context = grpc::CallbackServerContext;

  grpc::ServerUnaryReactor* ListModels(Context* context, const v1::ListModelsRequest*,
                                       v1::ListModelsResponse* response) override {
    return StartUnary(state_, "CatalogService.ListModels", context, state_.calls,
                      [=, this](CallControl& control) {
                        absl::StatusOr<worker::v1::GetCatalogResponse> found = catalog_.Get(control);
                        if (found.ok()) response->mutable_models()->Swap(found->mutable_models());
                        return found.status();
                      });
  }

  grpc::ServerUnaryReactor* ListTasks(Context* context, const v1::ListTasksRequest*,
                                      v1::ListTasksResponse* response) override {
    return StartUnary(state_, "CatalogService.ListTasks", context, state_.calls,
                      [=, this](CallControl& control) {
                        absl::StatusOr<std::vector<v1::TaskInfo>> tasks = catalog_.ListTasks(control);
                        if (!tasks.ok()) return tasks.status();
                        for (v1::TaskInfo& task : *tasks) response->add_tasks()->Swap(&task);
                        return absl::OkStatus();
                      });
  }

  grpc::ServerUnaryReactor* ListCheckpoints(Context* context, const v1::ListCheckpointsRequest* request,
                                            v1::ListCheckpointsResponse* response) override {
    return StartUnary(state_, "CatalogService.ListCheckpoints", context, state_.files,
                      [=, this](CallControl&) {
                        absl::StatusOr<Page<v1::Checkpoint>> page =
                            catalog_.ListCheckpoints(request->page_size(), request->page_token());
                        if (!page.ok()) return page.status();
                        for (v1::Checkpoint& checkpoint : page->records)
                          response->add_checkpoints()->Swap(&checkpoint);
                        response->set_next_page_token(page->next_page_token);
                        return absl::OkStatus();
                      });
  }

  grpc::ServerUnaryReactor* InspectCheckpoint(Context* context, const v1::InspectCheckpointRequest* request,
                                              v1::InspectCheckpointResponse* response) override {
    return StartUnary(state_, "CatalogService.InspectCheckpoint", context, state_.calls,
                      [=, this](CallControl& control) {
                        absl::StatusOr<v1::CheckpointInspection> found = catalog_.Inspect(*request, control);
                        if (found.ok()) response->mutable_inspection()->Swap(&*found);
                        return found.status();
                      });
  }

  grpc::ServerReadReactor<v1::UploadCheckpointRequest>* UploadCheckpoint(
      Context* context, v1::UploadCheckpointResponse* response) override {
    return UploadCall<v1::UploadCheckpointRequest, v1::UploadCheckpointResponse>::Start(
        state_, "CatalogService.UploadCheckpoint", context, StoreKind::kCheckpoint, response);
  }

  grpc::ServerReadReactor<v1::UploadDataRequest>* UploadData(Context* context,
                                                             v1::UploadDataResponse* response) override {
    return UploadCall<v1::UploadDataRequest, v1::UploadDataResponse>::Start(
        state_, "CatalogService.UploadData", context, StoreKind::kData, response);
  }

  grpc::ServerWriteReactor<grpc::ByteBuffer>* DownloadCheckpoint(Context* context,
                                                                 const grpc::ByteBuffer* bytes) override {
    v1::DownloadCheckpointRequest request;
    absl::Status decoded = Decode(*bytes, &request);
    return FileCall::Start(state_, "CatalogService.DownloadCheckpoint", context,
                           [this, decoded, request]() -> absl::StatusOr<FileCall::Source> {
                             if (!decoded.ok()) return decoded;
                             if (absl::Status status = CheckSha256("sha256", request.sha256()); !status.ok())
                               return status;
                             absl::StatusOr<ResolvedPath> found = state_.backends.store->ResolveDigest(
                                 StoreKind::kCheckpoint, request.sha256());
                             if (!found.ok()) return found.status();
                             return FileCall::Source{found->path, request.offset_bytes()};
                           });
  }

  grpc::ServerUnaryReactor* LoadModel(Context* context, const v1::LoadModelRequest* request,
                                      v1::LoadModelResponse* response) override {
    return StartUnary(state_, "CatalogService.LoadModel", context, state_.calls,
                      [=, this](CallControl& control) {
                        absl::StatusOr<v1::LoadedModel> loaded = catalog_.Load(*request, control);
                        if (loaded.ok()) response->mutable_model()->Swap(&*loaded);
                        return loaded.status();
                      });
  }

  grpc::ServerUnaryReactor* UnloadModel(Context* context, const v1::UnloadModelRequest* request,
                                        v1::UnloadModelResponse*) override {
    return StartUnary(state_, "CatalogService.UnloadModel", context, state_.calls,
                      [=, this](CallControl&) { return catalog_.Unload(request->model_id()); });
  }

  grpc::ServerUnaryReactor* ListLoadedModels(Context* context, const v1::ListLoadedModelsRequest*,
                                             v1::ListLoadedModelsResponse* response) override {
    return StartUnary(state_, "CatalogService.ListLoadedModels", context, state_.calls,
                      [=, this](CallControl&) {
                        for (v1::LoadedModel& model : catalog_.ListLoaded())
                          response->add_models()->Swap(&model);
                        return absl::OkStatus();
                      });
  }

  grpc::ServerUnaryReactor* GetServerInfo(Context* context, const v1::GetServerInfoRequest*,
                                          v1::GetServerInfoResponse* response) override {
    return StartUnary(state_, "CatalogService.GetServerInfo", context, state_.files, [=, this](CallControl&) {
      for (const auto& [name, version] : state_.options.versions)
        (*response->mutable_versions())[name] = version;
      for (const auto& [name, limit] : state_.options.limits) (*response->mutable_limits())[name] = limit;
      for (const Worker* worker : state_.backends.workers) {
        const Worker::Snapshot snapshot = worker->snapshot();
        for (const auto& [name, version] : snapshot.status.versions()) {
          (*response->mutable_versions())[name] = version;
        }
      }
      response->set_private_server(state_.options.private_server);
      response->set_draining(state_.draining);
      response->set_queue_depth(static_cast<int32_t>(state_.backends.jobs->queue_depth()));
      response->set_queue_capacity(static_cast<int32_t>(state_.options.queue_capacity));
      for (v1::WorkerInfo& info : catalog_.Workers()) response->add_workers()->Swap(&info);
      response->mutable_start_time()->set_seconds(absl::ToUnixSeconds(state_.start_time));
      return absl::OkStatus();
    });
  }

  RpcState& state_;
  Catalog catalog_;
};

}  // namespace

std::unique_ptr<grpc::Service> NewCatalogService(RpcState& state) {
  return std::make_unique<CatalogServiceImpl>(state);
}

}  // namespace eigsvc
