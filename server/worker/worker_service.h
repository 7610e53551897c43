// WorkerService: proto/eigsvc/worker/v1 over one device. gRPC's threads only hand over: jobs run on one
// thread, loads and inspections on another, so that GetStatus answers at once whatever runs.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>

#include "c10/core/Device.h"
#include "eigsvc/worker/v1/worker_service.grpc.pb.h"
#include "server/worker/model_pool.h"
#include "server/worker/work_thread.h"

namespace eigsvc {

struct WorkerServiceOptions {
  std::vector<c10::Device> devices = {c10::Device(c10::kCPU)};  // several share an analysis
  std::string device_name = "cpu";
  int64_t model_memory_bytes = int64_t{8} << 30;
  std::string self_test;                   // what SelfTestAttention said
  const ContentsReader* reader = nullptr;  // as in ArchiveOptions; outlives the service
  // Ends the process: called in place of an answer once a call left the device unusable (a sticky CUDA
  // error). The daemon then sees a death, which it tries once more in a new process, and not the call's own
  // failure.
  std::function<void(const absl::Status&)> on_fatal;
};

class WorkerService final : public worker::v1::WorkerService::CallbackService {
 public:
  explicit WorkerService(WorkerServiceOptions options);

  grpc::ServerUnaryReactor* GetStatus(grpc::CallbackServerContext* context,
                                      const worker::v1::GetStatusRequest* request,
                                      worker::v1::GetStatusResponse* response) override;
  grpc::ServerWriteReactor<worker::v1::RunAnalysisResponse>* RunAnalysis(
      grpc::CallbackServerContext* context, const worker::v1::RunAnalysisRequest* request) override;
  grpc::ServerWriteReactor<worker::v1::RunTrainingResponse>* RunTraining(
      grpc::CallbackServerContext* context, const worker::v1::RunTrainingRequest* request) override;
  grpc::ServerUnaryReactor* Inspect(grpc::CallbackServerContext* context,
                                    const worker::v1::InspectRequest* request,
                                    worker::v1::InspectResponse* response) override;
  grpc::ServerUnaryReactor* GetCatalog(grpc::CallbackServerContext* context,
                                       const worker::v1::GetCatalogRequest* request,
                                       worker::v1::GetCatalogResponse* response) override;
  grpc::ServerUnaryReactor* Load(grpc::CallbackServerContext* context, const worker::v1::LoadRequest* request,
                                 worker::v1::LoadResponse* response) override;
  grpc::ServerUnaryReactor* Unload(grpc::CallbackServerContext* context,
                                   const worker::v1::UnloadRequest* request,
                                   worker::v1::UnloadResponse* response) override;
  grpc::ServerUnaryReactor* ListLoaded(grpc::CallbackServerContext* context,
                                       const worker::v1::ListLoadedRequest* request,
                                       worker::v1::ListLoadedResponse* response) override;

 private:
  template <typename Response, typename Job>
  grpc::ServerWriteReactor<Response>* StartJob(grpc::CallbackServerContext* context, Job job);
  // Runs `call` on the side thread with a token of the call's cancel and deadline, then ends the call with
  // its status.
  grpc::ServerUnaryReactor* StartSide(grpc::CallbackServerContext* context, int64_t call_id,
                                      absl::string_view what,
                                      std::function<absl::Status(const StopToken&)> call);
  void EndIfFatal(const absl::Status& status) const;

  const WorkerServiceOptions options_;
  const std::string device_description_;
  ModelPool pool_;
  std::atomic<bool> busy_{false};
  std::atomic<int64_t> side_call_id_{0};  // of the one that runs
  WorkThread jobs_, side_;                // last: their work uses the members above
};

}  // namespace eigsvc
