#include "server/worker/worker_service.h"

#include <chrono>
#include <utility>

#include "absl/time/clock.h"
#include "models/base/freed_memory.h"
#include "models/base/status_macros.h"
#include "models/base/utf8.h"
#include "models/tensor/torch_call.h"
#include "server/worker/analysis_job.h"
#include "server/worker/convert.h"
#include "server/worker/device_info.h"
#include "server/worker/event_writer.h"
#include "server/worker/outline.h"
#include "server/worker/side_call.h"
#include "server/worker/training_job.h"

namespace eigsvc {
namespace {

// A status travels in HTTP/2 trailers, of which gRPC takes 8 KiB, and escaping may triple it.
constexpr size_t kMaxMessageBytes = 2048;

grpc::Status GrpcStatus(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()),
                      ToUtf8(status.message(), kMaxMessageBytes));
}
static_assert(static_cast<int>(grpc::StatusCode::CANCELLED) ==
              static_cast<int>(absl::StatusCode::kCancelled));
static_assert(static_cast<int>(grpc::StatusCode::UNAUTHENTICATED) ==
              static_cast<int>(absl::StatusCode::kUnauthenticated));

absl::Time Deadline(const grpc::CallbackServerContext& context) {
  const std::chrono::system_clock::time_point deadline = context.deadline();
  return deadline == std::chrono::system_clock::time_point::max() ? absl::InfiniteFuture()
                                                                  : absl::FromChrono(deadline);
}

}  // namespace

WorkerService::WorkerService(WorkerServiceOptions options)
    : options_(std::move(options)),
      device_description_(DescribeDevices(options_.devices)),
      pool_(options_.devices, options_.device_name, options_.model_memory_bytes, options_.reader) {}

template <typename Response, typename Job>
grpc::ServerWriteReactor<Response>* WorkerService::StartJob(grpc::CallbackServerContext* context, Job job) {
  auto* writer = new EventWriter<Response>(Deadline(*context));
  if (busy_.exchange(true)) {
    writer->End(
        GrpcStatus(absl::InternalError("this worker runs a job already and takes one at a time: the daemon "
                                       "must wait for it (a bug of the daemon)")));
    return writer;
  }
  jobs_.Post([this, writer, job = std::move(job)] {
    const absl::Status status = job(*writer);
    EndIfFatal(status);
    busy_ = false;  // before the end is told: the next job may come at once
    writer->End(GrpcStatus(status));
  });
  return writer;
}

grpc::ServerUnaryReactor* WorkerService::StartSide(grpc::CallbackServerContext* context, int64_t call_id,
                                                   absl::string_view what,
                                                   std::function<absl::Status(const StopToken&)> call) {
  auto* reactor = new SideCall(Deadline(*context));
  side_.Post([this, reactor, call_id, what, call = std::move(call)] {
    side_call_id_ = call_id;
    const absl::Status status = CallTorch(what, [&]() -> absl::Status {
      EIGSVC_RETURN_IF_ERROR(reactor->stop().Check());
      return call(reactor->stop());
    });
    EndIfFatal(status);
    side_call_id_ = 0;  // before the end is told, as for jobs
    reactor->Finish(GrpcStatus(status));
  });
  return reactor;
}

void WorkerService::EndIfFatal(const absl::Status& status) const {
  if (status.GetPayload(kStickyCudaErrorUrl).has_value() && options_.on_fatal) options_.on_fatal(status);
}

grpc::ServerUnaryReactor* WorkerService::GetStatus(grpc::CallbackServerContext* context,
                                                   const worker::v1::GetStatusRequest*,
                                                   worker::v1::GetStatusResponse* response) {
  response->set_device(options_.device_name);
  response->set_device_description(device_description_);
  response->set_busy(busy_);
  response->set_side_call_id(side_call_id_);
  response->mutable_versions()->insert(Versions().begin(), Versions().end());
  response->set_self_test(options_.self_test);
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

grpc::ServerWriteReactor<worker::v1::RunAnalysisResponse>* WorkerService::RunAnalysis(
    grpc::CallbackServerContext* context, const worker::v1::RunAnalysisRequest* request) {
  using Response = worker::v1::RunAnalysisResponse;
  return StartJob<Response>(context, [this, request = *request](EventWriter<Response>& writer) {
    const auto on_event = [&](v1::AnalysisEvent event) {
      const bool snapshot = event.has_progress();
      Response response;
      *response.mutable_event() = std::move(event);
      writer.Post(std::move(response), snapshot);
    };
    return RunAnalysisJob(request, pool_, on_event, writer.stop());
  });
}

grpc::ServerWriteReactor<worker::v1::RunTrainingResponse>* WorkerService::RunTraining(
    grpc::CallbackServerContext* context, const worker::v1::RunTrainingRequest* request) {
  using Response = worker::v1::RunTrainingResponse;
  return StartJob<Response>(context, [this, request = *request](EventWriter<Response>& writer) {
    const auto on_event = [&](Response response) {
      const bool snapshot = response.event().has_progress();
      writer.Post(std::move(response), snapshot);
    };
    return RunTrainingJob(request, pool_, on_event, writer.stop());
  });
}

grpc::ServerUnaryReactor* WorkerService::Inspect(grpc::CallbackServerContext* context,
                                                 const worker::v1::InspectRequest* request,
                                                 worker::v1::InspectResponse* response) {
  const auto inspect = [this, request, response](const StopToken& stop) -> absl::Status {
    const worker::v1::ResolvedCheckpoint& checkpoint = request->checkpoint();
    if (checkpoint.path().empty()) {
      return absl::InvalidArgumentError("there is no file to inspect; name a checkpoint, not an initializer");
    }
    InspectOptions options;
    options.archive.memory_map = checkpoint.immutable();
    options.archive.on_demand = true;
    options.archive.stop = &stop;
    options.archive.reader = options_.reader;
    options.dtype = request->dtype();
    options.steps = request->steps();
    EIGSVC_ASSIGN_OR_RETURN(*response->mutable_inspection(),
                            InspectWithModel(checkpoint.path(), checkpoint.ref().settings_json(), options));
    return absl::OkStatus();
  };
  return StartSide(context, request->call_id(), "inspect", inspect);
}

grpc::ServerUnaryReactor* WorkerService::GetCatalog(grpc::CallbackServerContext* context,
                                                    const worker::v1::GetCatalogRequest*,
                                                    worker::v1::GetCatalogResponse* response) {
  *response = CatalogProto();
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

grpc::ServerUnaryReactor* WorkerService::Load(grpc::CallbackServerContext* context,
                                              const worker::v1::LoadRequest* request,
                                              worker::v1::LoadResponse* response) {
  const auto load = [this, request, response](const StopToken& stop) -> absl::Status {
    EIGSVC_ASSIGN_OR_RETURN(const ModelPool::Handle model,
                            pool_.Acquire(request->checkpoint(), request->dtype(), stop));
    *response->mutable_model() = LoadedModelProto(*model, absl::Now());
    return absl::OkStatus();
  };
  return StartSide(context, request->call_id(), "load", load);
}

grpc::ServerUnaryReactor* WorkerService::Unload(grpc::CallbackServerContext* context,
                                                const worker::v1::UnloadRequest* request,
                                                worker::v1::UnloadResponse*) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  const absl::Status status = pool_.Unload(request->model_id());
  ReleaseFreedMemory();
  reactor->Finish(GrpcStatus(status));
  return reactor;
}

grpc::ServerUnaryReactor* WorkerService::ListLoaded(grpc::CallbackServerContext* context,
                                                    const worker::v1::ListLoadedRequest*,
                                                    worker::v1::ListLoadedResponse* response) {
  for (v1::LoadedModel& model : pool_.List()) *response->add_models() = std::move(model);
  const DeviceMemory memory = ReadDeviceMemory(options_.devices);
  response->set_device_memory_bytes(memory.total_bytes);
  response->set_device_free_bytes(memory.free_bytes);
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

}  // namespace eigsvc
