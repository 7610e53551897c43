#include "eigsvc/v1/analysis_service.grpc.pb.h"
#include "server/rpc/file_call.h"
#include "server/rpc/job_call.h"
#include "server/rpc/services.h"

namespace eigsvc {
namespace {

// Jobs encodes an event once for both.
static_assert(int{v1::AnalyzeResponse::kEventFieldNumber} ==
              int{v1::WatchAnalysisResponse::kEventFieldNumber});

// The streams are raw: what they send is encoded already.
using AnalysisServiceBase = v1::AnalysisService::WithRawCallbackMethod_Analyze<
    v1::AnalysisService::WithRawCallbackMethod_WatchAnalysis<
        v1::AnalysisService::WithRawCallbackMethod_ReadEigenvalues<
            v1::AnalysisService::WithCallbackMethod_GetAnalysis<
                v1::AnalysisService::WithCallbackMethod_ListAnalyses<
                    v1::AnalysisService::WithCallbackMethod_CancelAnalysis<v1::AnalysisService::Service>>>>>>;

class AnalysisServiceImpl final : public AnalysisServiceBase {
 public:
  explicit AnalysisServiceImpl(RpcState& state) : state_(state), jobs_(*state.backends.jobs) {}

 private:
  using Context = grpc::CallbackServerContext;

  grpc::ServerWriteReactor<grpc::ByteBuffer>* Analyze(Context* context,
                                                      const grpc::ByteBuffer* bytes) override {
    v1::AnalyzeRequest request;
    absl::Status decoded = Decode(*bytes, &request);
    return StartJobCall(
        state_, "AnalysisService.Analyze", context, request.detach(),
        [this, decoded, spec = request.spec()](absl::Time deadline) -> absl::StatusOr<std::string> {
          if (!decoded.ok()) return decoded;
          return jobs_.SubmitAnalysis(spec, deadline);
        },
        [this](const std::string& id, auto on_ready) { return jobs_.WatchAnalysis(id, std::move(on_ready)); },
        [this](const std::string& id, const absl::Status& reason) {
          return jobs_.CancelAnalysis(id, reason);
        });
  }

  grpc::ServerWriteReactor<grpc::ByteBuffer>* WatchAnalysis(Context* context,
                                                            const grpc::ByteBuffer* bytes) override {
    v1::WatchAnalysisRequest request;
    absl::Status decoded = Decode(*bytes, &request);
    return EventCall::Start(
        state_, "AnalysisService.WatchAnalysis", context,
        [this, decoded, id = request.analysis_id()](
            std::function<void()> on_ready) -> absl::StatusOr<std::unique_ptr<EventStream>> {
          if (!decoded.ok()) return decoded;
          return jobs_.WatchAnalysis(id, std::move(on_ready));
        },
        [] {});
  }

  grpc::ServerWriteReactor<grpc::ByteBuffer>* ReadEigenvalues(Context* context,
                                                              const grpc::ByteBuffer* bytes) override {
    v1::ReadEigenvaluesRequest request;
    absl::Status decoded = Decode(*bytes, &request);
    return FileCall::Start(state_, "AnalysisService.ReadEigenvalues", context,
                           [this, decoded, request]() -> absl::StatusOr<FileCall::Source> {
                             if (!decoded.ok()) return decoded;
                             absl::StatusOr<std::string> path = jobs_.EigenvaluesPath(request.analysis_id());
                             if (!path.ok()) return path.status();
                             return FileCall::Source{*std::move(path), request.offset_bytes()};
                           });
  }

  grpc::ServerUnaryReactor* GetAnalysis(Context* context, const v1::GetAnalysisRequest* request,
                                        v1::GetAnalysisResponse* response) override {
    return StartUnary(state_, "AnalysisService.GetAnalysis", context, state_.files, [=, this](CallControl&) {
      return Get(request->analysis_id(), response->mutable_analysis());
    });
  }

  grpc::ServerUnaryReactor* ListAnalyses(Context* context, const v1::ListAnalysesRequest* request,
                                         v1::ListAnalysesResponse* response) override {
    return StartUnary(state_, "AnalysisService.ListAnalyses", context, state_.files, [=, this](CallControl&) {
      absl::StatusOr<Page<v1::Analysis>> page =
          jobs_.ListAnalyses(request->page_size(), request->page_token());
      if (!page.ok()) return page.status();
      for (v1::Analysis& analysis : page->records) response->add_analyses()->Swap(&analysis);
      response->set_next_page_token(page->next_page_token);
      return absl::OkStatus();
    });
  }

  grpc::ServerUnaryReactor* CancelAnalysis(Context* context, const v1::CancelAnalysisRequest* request,
                                           v1::CancelAnalysisResponse* response) override {
    return StartUnary(
        state_, "AnalysisService.CancelAnalysis", context, state_.files, [=, this](CallControl&) {
          const absl::Status cancelled =
              jobs_.CancelAnalysis(request->analysis_id(), absl::CancelledError("cancelled on request"));
          if (!cancelled.ok()) return cancelled;
          return Get(request->analysis_id(), response->mutable_analysis());
        });
  }

  absl::Status Get(const std::string& id, v1::Analysis* out) {
    absl::StatusOr<v1::Analysis> analysis = jobs_.GetAnalysis(id);
    if (analysis.ok()) out->Swap(&*analysis);
    return analysis.status();
  }

  RpcState& state_;
  Jobs& jobs_;
};

}  // namespace

std::unique_ptr<grpc::Service> NewAnalysisService(RpcState& state) {
  return std::make_unique<AnalysisServiceImpl>(state);
}

}  // namespace eigsvc
