// One line a bad request over the wire: its code, and the words that name the fault or the remedy.
#include <functional>
#include <limits>
#include <string>

#include "gmock/gmock.h"
#include "grpcpp/generic/generic_stub.h"
#include "grpcpp/support/byte_buffer.h"
#include "tests/server_rpc/daemon.h"

namespace eigsvc::testing {
namespace {

using ::testing::HasSubstr;

class BadRequestsTest : public DaemonTest {
 protected:
  using Spoil = std::function<void(v1::AnalysisSpec&)>;
  grpc::Status AnalyzeSpoiled(const Spoil& spoil) {
    v1::AnalyzeRequest request = GoodRequest();
    spoil(*request.mutable_spec());
    return Analyze(request);
  }
  grpc::Status TrainSpoiled(const std::function<void(v1::TrainingSpec&)>& spoil) {
    v1::TrainRequest request;
    request.mutable_spec()->mutable_start()->mutable_initializer()->set_family("mamba2");
    request.mutable_spec()->mutable_task()->set_name("mqar");
    spoil(*request.mutable_spec());
    grpc::ClientContext context;
    auto stream = trainings_->Train(&context, request);
    v1::TrainResponse response;
    while (stream->Read(&response)) {
    }
    return stream->Finish();
  }
  grpc::Status Inspect(const std::function<void(v1::CheckpointRef&)>& fill) {
    grpc::ClientContext context;
    v1::InspectCheckpointRequest request;
    fill(*request.mutable_checkpoint());
    v1::InspectCheckpointResponse response;
    return catalog_->InspectCheckpoint(&context, request, &response);
  }
  grpc::Status Load(const std::function<void(v1::LoadModelRequest&)>& fill) {
    grpc::ClientContext context;
    v1::LoadModelRequest request;
    request.mutable_checkpoint()->set_name("known.safetensors");
    fill(request);
    v1::LoadModelResponse response;
    return catalog_->LoadModel(&context, request, &response);
  }
  grpc::Status Read(const std::string& id, int64_t offset) {
    grpc::ClientContext context;
    v1::ReadEigenvaluesRequest request;
    request.set_analysis_id(id);
    request.set_offset_bytes(offset);
    return analyses_->ReadEigenvalues(&context, request)->Finish();
  }
  grpc::Status Download(const std::string& sha256) {
    grpc::ClientContext context;
    v1::DownloadCheckpointRequest request;
    request.set_sha256(sha256);
    return catalog_->DownloadCheckpoint(&context, request)->Finish();
  }
  template <typename Call, typename Request, typename Response>
  grpc::Status Unary(Call call, const Request& request, Response response) {
    grpc::ClientContext context;
    return call(&context, request, &response);
  }
};

TEST_F(BadRequestsTest, EachHasItsCodeAndNamesTheFault) {
  StartDaemon();
  AwaitWorker();
  std::string kept, not_kept;
  script_.analysis = [](const worker::v1::RunAnalysisRequest& request, FakeRun&, const auto& on_event) {
    if (!request.export_path().empty()) std::ofstream(request.export_path()) << "0123456789";
    on_event(ResultEvent(1));
    return absl::OkStatus();
  };
  ASSERT_TRUE(Analyze(GoodRequest(), nullptr, &not_kept).ok());
  v1::AnalyzeRequest keep = GoodRequest();
  keep.mutable_spec()->set_keep_eigenvalues(true);
  ASSERT_TRUE(Analyze(keep, nullptr, &kept).ok());

  const auto analyze = [&](const Spoil& spoil) { return AnalyzeSpoiled(spoil); };
  const auto page = [&](int32_t size, const std::string& token) {
    v1::ListAnalysesRequest request;
    request.set_page_size(size);
    request.set_page_token(token);
    return Unary([&](auto... a) { return analyses_->ListAnalyses(a...); }, request,
                 v1::ListAnalysesResponse());
  };
  const auto checkpoints = [&](int32_t size, const std::string& token) {
    v1::ListCheckpointsRequest request;
    request.set_page_size(size);
    request.set_page_token(token);
    return Unary([&](auto... a) { return catalog_->ListCheckpoints(a...); }, request,
                 v1::ListCheckpointsResponse());
  };
  const auto get = [&](const std::string& id) {
    v1::GetAnalysisRequest request;
    request.set_analysis_id(id);
    return Unary([&](auto... a) { return analyses_->GetAnalysis(a...); }, request, v1::GetAnalysisResponse());
  };
  const auto cancel = [&](const std::string& id) {
    v1::CancelAnalysisRequest request;
    request.set_analysis_id(id);
    return Unary([&](auto... a) { return analyses_->CancelAnalysis(a...); }, request,
                 v1::CancelAnalysisResponse());
  };
  const auto get_training = [&](const std::string& id) {
    v1::GetTrainingRequest request;
    request.set_training_id(id);
    return Unary([&](auto... a) { return trainings_->GetTraining(a...); }, request,
                 v1::GetTrainingResponse());
  };
  const auto unload = [&](const std::string& id) {
    v1::UnloadModelRequest request;
    request.set_model_id(id);
    return Unary([&](auto... a) { return catalog_->UnloadModel(a...); }, request, v1::UnloadModelResponse());
  };
  const auto watch = [&](const std::string& id) {
    grpc::ClientContext context;
    v1::WatchAnalysisRequest request;
    request.set_analysis_id(id);
    return analyses_->WatchAnalysis(&context, request)->Finish();
  };

  struct Case {
    grpc::Status status;
    grpc::StatusCode code;
    const char* words;
  };
  const std::string unknown_digest(64, '0');
  const Case cases[] = {
      {analyze([](auto& s) { s.clear_checkpoint(); }), grpc::INVALID_ARGUMENT, "names no source"},
      {analyze([](auto& s) { s.mutable_checkpoint()->set_name("absent"); }), grpc::NOT_FOUND,
       "known.safetensors"},
      {analyze([](auto& s) { s.mutable_checkpoint()->set_name("../known.safetensors"); }),
       grpc::INVALID_ARGUMENT, ".."},
      {analyze([](auto& s) { s.mutable_checkpoint()->set_name("/etc/passwd"); }), grpc::INVALID_ARGUMENT,
       "passwd"},
      {analyze([](auto& s) { s.mutable_checkpoint()->set_local_path("/etc/passwd"); }),
       grpc::PERMISSION_DENIED, ""},
      {analyze([](auto& s) { s.mutable_checkpoint()->set_sha256("xyz"); }), grpc::INVALID_ARGUMENT,
       "64 lower-case"},
      {analyze([&](auto& s) { s.mutable_checkpoint()->set_sha256(unknown_digest); }), grpc::NOT_FOUND,
       "0000"},
      {analyze([](auto& s) { s.mutable_checkpoint()->set_settings_json("nonsense"); }),
       grpc::INVALID_ARGUMENT, "settings_json"},
      {analyze([](auto& s) { s.mutable_checkpoint()->mutable_initializer()->set_family("rwkv9"); }),
       grpc::NOT_FOUND, "known: llama, mamba2"},
      {analyze([](auto& s) { s.clear_task(); }), grpc::INVALID_ARGUMENT, "task.name"},
      {analyze([](auto& s) { s.mutable_task()->set_name("listops"); }), grpc::NOT_FOUND,
       "known: mqar, next-token"},
      {analyze([](auto& s) { s.mutable_task()->set_name("next-token"); }), grpc::INVALID_ARGUMENT,
       "task.data"},
      {analyze([](auto& s) { s.mutable_task()->set_split("dev"); }), grpc::INVALID_ARGUMENT, "\"dev\""},
      {analyze([](auto& s) { s.mutable_task()->set_parameters_json("[]"); }), grpc::INVALID_ARGUMENT,
       "parameters_json"},
      {analyze([](auto& s) { s.mutable_task()->mutable_data()->set_name("../../x"); }),
       grpc::INVALID_ARGUMENT, ""},
      {analyze([](auto& s) { s.set_examples(-5); }), grpc::INVALID_ARGUMENT, "examples -5"},
      {analyze([](auto& s) { s.set_examples(1'000'000'000'000); }), grpc::INVALID_ARGUMENT, "examples"},
      {analyze([](auto& s) { s.set_batch_size(1 << 20); }), grpc::INVALID_ARGUMENT, "batch_size 1048576"},
      {analyze([](auto& s) { s.set_max_steps(-1); }), grpc::INVALID_ARGUMENT, "max_steps -1"},
      {analyze([](auto& s) { s.set_dtype("int8"); }), grpc::INVALID_ARGUMENT, "float32, float64"},
      {analyze([](auto& s) { s.set_device("tpu:0"); }), grpc::NOT_FOUND, "known: cpu"},
      {analyze([](auto& s) { s.mutable_checkpoint()->set_settings_json(std::string(5 << 20, ' ')); }),
       grpc::RESOURCE_EXHAUSTED, "larger than max"},
      {TrainSpoiled([](auto& s) { s.set_steps(0); }), grpc::INVALID_ARGUMENT, "steps 0"},
      {TrainSpoiled([](auto& s) { s.set_learning_rate(std::numeric_limits<double>::quiet_NaN()); }),
       grpc::INVALID_ARGUMENT, "learning_rate nan"},
      {TrainSpoiled([](auto& s) { s.set_resume(true); }), grpc::INVALID_ARGUMENT, "resume"},
      {TrainSpoiled([](auto& s) { s.mutable_start()->mutable_initializer()->set_family("llama"); }),
       grpc::INVALID_ARGUMENT, "no initialiser"},
      {get("an-nope"), grpc::NOT_FOUND, "an-nope"},
      {get(""), grpc::INVALID_ARGUMENT, "analysis_id is required"},
      {get_training("tr-nope"), grpc::NOT_FOUND, "tr-nope"},
      {get_training(kept), grpc::NOT_FOUND, "list them"},
      {cancel("an-nope"), grpc::NOT_FOUND, "an-nope"},
      {watch("an-nope"), grpc::NOT_FOUND, "forgotten"},
      {page(-1, ""), grpc::INVALID_ARGUMENT, "page_size -1"},
      {page(1001, ""), grpc::INVALID_ARGUMENT, "page_size 1001"},
      {page(1, "bm90IG91cnM"), grpc::INVALID_ARGUMENT, "page_token"},
      {checkpoints(5000, ""), grpc::INVALID_ARGUMENT, "page_size 5000"},
      {checkpoints(1, "x"), grpc::INVALID_ARGUMENT, "page_token"},
      {Read(not_kept, 0), grpc::FAILED_PRECONDITION, "keep_eigenvalues"},
      {Read(kept, 11), grpc::OUT_OF_RANGE, "the file has 10 bytes"},
      {Read(kept, -1), grpc::INVALID_ARGUMENT, "negative"},
      {Read("an-nope", 0), grpc::NOT_FOUND, "an-nope"},
      {Download("../../etc/passwd"), grpc::INVALID_ARGUMENT, "64 lower-case"},
      {Download(unknown_digest), grpc::NOT_FOUND, "0000"},
      {Inspect([](auto&) {}), grpc::INVALID_ARGUMENT, "names no source"},
      {Inspect([](auto& ref) { ref.mutable_initializer()->set_family("mamba2"); }), grpc::INVALID_ARGUMENT,
       "no bytes to inspect"},
      {Inspect([](auto& ref) { ref.set_local_path("/etc/passwd"); }), grpc::PERMISSION_DENIED, ""},
      {Load([](auto& r) { r.set_dtype("fp4"); }), grpc::INVALID_ARGUMENT, "dtype \"fp4\""},
      {Load([](auto& r) { r.set_device("cuda:9"); }), grpc::NOT_FOUND, "cuda:9"},
      {unload("m-none"), grpc::NOT_FOUND, "m-none"},
      {unload(""), grpc::INVALID_ARGUMENT, "model_id"},
  };
  int number = 0;
  for (const Case& c : cases) {
    EXPECT_THAT(c.status, IsStatus(c.code, HasSubstr(c.words))) << "case " << number;
    EXPECT_LE(c.status.error_message().size(), 1024u);
    ++number;
  }
  EXPECT_TRUE(Analyze(GoodRequest()).ok());  // none of them hurt
}

TEST_F(BadRequestsTest, BytesThatAreNoMessageAreRefused) {
  StartDaemon();
  for (const char* method :
       {"AnalysisService/Analyze", "AnalysisService/WatchAnalysis", "AnalysisService/ReadEigenvalues",
        "TrainingService/Train", "TrainingService/WatchTraining", "CatalogService/DownloadCheckpoint"}) {
    grpc::GenericStub stub(channel_);
    grpc::ClientContext context;
    grpc::CompletionQueue queue;
    auto call = stub.PrepareCall(&context, absl::StrCat("/eigsvc.v1.", method), &queue);
    void* tag;
    bool ok;
    call->StartCall(nullptr);
    ASSERT_TRUE(queue.Next(&tag, &ok) && ok);
    const grpc::Slice promises_more_than_follows(std::string("\x0A\x7F"));
    call->WriteLast(grpc::ByteBuffer(&promises_more_than_follows, 1), grpc::WriteOptions(), nullptr);
    ASSERT_TRUE(queue.Next(&tag, &ok) && ok);
    grpc::Status status;
    call->Finish(&status, nullptr);
    ASSERT_TRUE(queue.Next(&tag, &ok));
    EXPECT_THAT(status, IsStatus(grpc::INVALID_ARGUMENT, HasSubstr("no valid message"))) << method;
  }
}

TEST_F(BadRequestsTest, FullQueueIsResourceExhausted) {
  config_.queue_capacity = 1;
  RunUntilStopped();
  StartDaemon();
  grpc::ClientContext first, second;
  auto running = analyses_->Analyze(&first, GoodRequest());
  v1::AnalyzeResponse response;
  while (running->Read(&response) && !response.event().has_model()) {
  }
  auto queued = analyses_->Analyze(&second, GoodRequest());
  ASSERT_TRUE(queued->Read(&response));
  EXPECT_THAT(Analyze(GoodRequest()), IsStatus(grpc::RESOURCE_EXHAUSTED, HasSubstr("queue is full")));
  first.TryCancel();
  second.TryCancel();
  running->Finish();
  queued->Finish();
}

}  // namespace
}  // namespace eigsvc::testing
