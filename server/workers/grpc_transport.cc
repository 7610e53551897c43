#include "server/workers/grpc_transport.h"

#include <grpcpp/grpcpp.h>
#include <unistd.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "eigsvc/worker/v1/worker_service.grpc.pb.h"

namespace eigsvc {
namespace {

using worker::v1::WorkerService;

// The channel is private to two processes that trust each other's sizes: a result with many spectra is one
// message.
constexpr int kMaxMessageBytes = 256 << 20;
// Calls without a control: bounded all the same, so that a stuck worker cannot hold the caller for ever.
constexpr absl::Duration kPlainCallTimeout = absl::Seconds(30);

absl::Status ToStatus(const grpc::Status& status) {
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
}
static_assert(static_cast<int>(absl::StatusCode::kUnauthenticated) ==
                  static_cast<int>(grpc::StatusCode::UNAUTHENTICATED) &&
              static_cast<int>(absl::StatusCode::kCancelled) ==
                  static_cast<int>(grpc::StatusCode::CANCELLED) &&
              static_cast<int>(absl::StatusCode::kDataLoss) == static_cast<int>(grpc::StatusCode::DATA_LOSS));

class GrpcTransport : public WorkerTransport {
 public:
  explicit GrpcTransport(const std::string& socket_path) : socket_path_(socket_path) {
    grpc::ChannelArguments arguments;
    arguments.SetMaxReceiveMessageSize(kMaxMessageBytes);
    arguments.SetMaxSendMessageSize(kMaxMessageBytes);
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
    arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
    arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 500);
    stub_ = WorkerService::NewStub(grpc::CreateCustomChannel(absl::StrCat("unix:", socket_path),
                                                             grpc::InsecureChannelCredentials(), arguments));
  }

  absl::StatusOr<worker::v1::GetStatusResponse> GetStatus(absl::Duration timeout) override {
    // A failed connect would start gRPC's back-off, which is longer than the rest of the worker's start.
    if (access(socket_path_.c_str(), F_OK) != 0)
      return absl::UnavailableError("the worker has no socket yet");
    return Plain<worker::v1::GetStatusResponse>(&WorkerService::Stub::GetStatus,
                                                worker::v1::GetStatusRequest(), timeout);
  }
  absl::StatusOr<worker::v1::GetCatalogResponse> GetCatalog() override {
    return Plain<worker::v1::GetCatalogResponse>(&WorkerService::Stub::GetCatalog,
                                                 worker::v1::GetCatalogRequest());
  }
  absl::Status RunAnalysis(const worker::v1::RunAnalysisRequest& request, CallControl& control,
                           const std::function<void(worker::v1::RunAnalysisResponse)>& on_event) override {
    return Stream(&WorkerService::Stub::RunAnalysis, request, control, on_event);
  }
  absl::Status RunTraining(const worker::v1::RunTrainingRequest& request, CallControl& control,
                           const std::function<void(worker::v1::RunTrainingResponse)>& on_event) override {
    return Stream(&WorkerService::Stub::RunTraining, request, control, on_event);
  }
  absl::StatusOr<worker::v1::InspectResponse> Inspect(const worker::v1::InspectRequest& request,
                                                      CallControl& control) override {
    return Controlled<worker::v1::InspectResponse>(&WorkerService::Stub::Inspect, request, control);
  }
  absl::StatusOr<worker::v1::LoadResponse> Load(const worker::v1::LoadRequest& request,
                                                CallControl& control) override {
    return Controlled<worker::v1::LoadResponse>(&WorkerService::Stub::Load, request, control);
  }
  absl::Status Unload(const worker::v1::UnloadRequest& request) override {
    return Plain<worker::v1::UnloadResponse>(&WorkerService::Stub::Unload, request).status();
  }
  absl::StatusOr<worker::v1::ListLoadedResponse> ListLoaded() override {
    return Plain<worker::v1::ListLoadedResponse>(&WorkerService::Stub::ListLoaded,
                                                 worker::v1::ListLoadedRequest());
  }

 private:
  // The context of a call that a control can stop. The hook is gone before the context is.
  class ControlledContext {
   public:
    explicit ControlledContext(CallControl& control) : control_(control) {
      if (control.deadline() != absl::InfiniteFuture())
        context_.set_deadline(absl::ToChronoTime(control.deadline()));
      control.OnCancel([this] { context_.TryCancel(); });
    }
    ~ControlledContext() { control_.OnCancel({}); }
    grpc::ClientContext* get() { return &context_; }

   private:
    CallControl& control_;
    grpc::ClientContext context_;
  };

  template <typename Response, typename Method, typename Request>
  absl::StatusOr<Response> Plain(Method method, const Request& request,
                                 absl::Duration timeout = kPlainCallTimeout) {
    grpc::ClientContext context;
    context.set_deadline(absl::ToChronoTime(absl::Now() + timeout));
    Response response;
    const grpc::Status status = ((*stub_).*method)(&context, request, &response);
    if (!status.ok()) return ToStatus(status);
    return response;
  }

  template <typename Response, typename Method, typename Request>
  absl::StatusOr<Response> Controlled(Method method, const Request& request, CallControl& control) {
    ControlledContext context(control);
    Response response;
    const grpc::Status status = ((*stub_).*method)(context.get(), request, &response);
    if (!status.ok()) return ToStatus(status);
    return response;
  }

  // Reads on the calling thread, so a slow `on_event` holds the worker's writes back rather than memory
  // filling up.
  template <typename Method, typename Request, typename Response>
  absl::Status Stream(Method method, const Request& request, CallControl& control,
                      const std::function<void(Response)>& on_event) {
    ControlledContext context(control);
    const std::unique_ptr<grpc::ClientReader<Response>> reader = ((*stub_).*method)(context.get(), request);
    for (Response response; reader->Read(&response);) on_event(std::move(response));
    return ToStatus(reader->Finish());
  }

  const std::string socket_path_;
  std::unique_ptr<WorkerService::Stub> stub_;
};

}  // namespace

std::unique_ptr<WorkerTransport> NewGrpcTransport(const std::string& socket_path) {
  return std::make_unique<GrpcTransport>(socket_path);
}

}  // namespace eigsvc
