#include "eigsvc/v1/training_service.grpc.pb.h"
#include "server/rpc/job_call.h"
#include "server/rpc/services.h"

namespace eigsvc {
namespace {

// Jobs encodes an event once for both.
static_assert(int{v1::TrainResponse::kEventFieldNumber} == int{v1::WatchTrainingResponse::kEventFieldNumber});

// The streams are raw: what they send is encoded already.
using TrainingServiceBase =
    v1::TrainingService::WithRawCallbackMethod_Train<v1::TrainingService::WithRawCallbackMethod_WatchTraining<
        v1::TrainingService::WithCallbackMethod_GetTraining<
            v1::TrainingService::WithCallbackMethod_ListTrainings<
                v1::TrainingService::WithCallbackMethod_CancelTraining<v1::TrainingService::Service>>>>>;

class TrainingServiceImpl final : public TrainingServiceBase {
 public:
  explicit TrainingServiceImpl(RpcState& state) : state_(state), jobs_(*state.backends.jobs) {}

 private:
  using Context = grpc::CallbackServerContext;

  grpc::ServerWriteReactor<grpc::ByteBuffer>* Train(Context* context,
                                                    const grpc::ByteBuffer* bytes) override {
    v1::TrainRequest request;
    absl::Status decoded = Decode(*bytes, &request);
    return StartJobCall(
        state_, "TrainingService.Train", context, request.detach(),
        [this, decoded, spec = request.spec()](absl::Time deadline) -> absl::StatusOr<std::string> {
          if (!decoded.ok()) return decoded;
          return jobs_.SubmitTraining(spec, deadline);
        },
        [this](const std::string& id, auto on_ready) { return jobs_.WatchTraining(id, std::move(on_ready)); },
        [this](const std::string& id, const absl::Status& reason) {
          return jobs_.CancelTraining(id, reason);
        });
  }

  grpc::ServerWriteReactor<grpc::ByteBuffer>* WatchTraining(Context* context,
                                                            const grpc::ByteBuffer* bytes) override {
    v1::WatchTrainingRequest request;
    absl::Status decoded = Decode(*bytes, &request);
    return EventCall::Start(
        state_, "TrainingService.WatchTraining", context,
        [this, decoded, id = request.training_id()](
            std::function<void()> on_ready) -> absl::StatusOr<std::unique_ptr<EventStream>> {
          if (!decoded.ok()) return decoded;
          return jobs_.WatchTraining(id, std::move(on_ready));
        },
        [] {});
  }

  grpc::ServerUnaryReactor* GetTraining(Context* context, const v1::GetTrainingRequest* request,
                                        v1::GetTrainingResponse* response) override {
    return StartUnary(state_, "TrainingService.GetTraining", context, state_.files, [=, this](CallControl&) {
      return Get(request->training_id(), response->mutable_training());
    });
  }

  grpc::ServerUnaryReactor* ListTrainings(Context* context, const v1::ListTrainingsRequest* request,
                                          v1::ListTrainingsResponse* response) override {
    return StartUnary(state_, "TrainingService.ListTrainings", context, state_.files,
                      [=, this](CallControl&) {
                        absl::StatusOr<Page<v1::Training>> page =
                            jobs_.ListTrainings(request->page_size(), request->page_token());
                        if (!page.ok()) return page.status();
                        for (v1::Training& training : page->records)
                          response->add_trainings()->Swap(&training);
                        response->set_next_page_token(page->next_page_token);
                        return absl::OkStatus();
                      });
  }

  grpc::ServerUnaryReactor* CancelTraining(Context* context, const v1::CancelTrainingRequest* request,
                                           v1::CancelTrainingResponse* response) override {
    return StartUnary(
        state_, "TrainingService.CancelTraining", context, state_.files, [=, this](CallControl&) {
          const absl::Status cancelled =
              jobs_.CancelTraining(request->training_id(), absl::CancelledError("cancelled on request"));
          if (!cancelled.ok()) return cancelled;
          return Get(request->training_id(), response->mutable_training());
        });
  }

  absl::Status Get(const std::string& id, v1::Training* out) {
    absl::StatusOr<v1::Training> training = jobs_.GetTraining(id);
    if (training.ok()) out->Swap(&*training);
    return training.status();
  }

  RpcState& state_;
  Jobs& jobs_;
};

}  // namespace

std::unique_ptr<grpc::Service> NewTrainingService(RpcState& state) {
  return std::make_unique<TrainingServiceImpl>(state);
}

}  // namespace eigsvc
