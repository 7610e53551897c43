// Job streams end to end: what a client sees, and what its leaving does to the job.
#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "tests/server_rpc/daemon.h"

namespace eigsvc::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class StreamTest : public DaemonTest {
 protected:
  // Starts an analysis that goes on, and reads until its model.
  std::unique_ptr<grpc::ClientReader<v1::AnalyzeResponse>> StartAnalysis(grpc::ClientContext& context,
                                                                         const v1::AnalyzeRequest& request,
                                                                         std::string* id) {
    auto stream = analyses_->Analyze(&context, request);
    v1::AnalyzeResponse response;
    while (stream->Read(&response) && !response.event().has_model()) {
    }
    EXPECT_TRUE(response.event().has_model());
    *id = response.event().analysis_id();
    return stream;
  }
};

TEST_F(StreamTest, AnalysisStreamsToItsResult) {
  std::atomic<bool> model_read = false, progress_read = false;
  const auto wait_for = [](std::atomic<bool>& flag) {
    for (int i = 0; i < 10'000 && !flag; ++i) absl::SleepFor(absl::Milliseconds(1));
  };
  script_.analysis = [&](const worker::v1::RunAnalysisRequest& request, FakeRun&, const auto& on_event) {
    EXPECT_THAT(request.checkpoint().path(), HasSubstr("checkpoints/known.safetensors"));
    on_event(ModelEvent());
    wait_for(model_read);
    on_event(ProgressEvent(1, 2));
    wait_for(progress_read);
    on_event(ResultEvent(10));
    return absl::OkStatus();
  };
  StartDaemon();
  grpc::ClientContext context;
  auto stream = analyses_->Analyze(&context, GoodRequest());
  std::vector<std::string> kinds;
  std::string id;
  v1::AnalyzeResponse response;
  while (stream->Read(&response)) {
    kinds.push_back(Kind(response.event()));
    id = response.event().analysis_id();
    if (response.event().has_model()) model_read = true;
    if (response.event().has_progress()) progress_read = true;
  }
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_THAT(kinds, ElementsAre("accepted", "model", "progress", "result"));
  EXPECT_EQ(response.event().result().sites_size(), 1);
  EXPECT_EQ(Get(id).result().eigenvalues(), 10);
}

TEST_F(StreamTest, WatchGetsPastEventsAndTheJobsStatus) {
  script_.analysis = [](const auto&, FakeRun&, const auto& on_event) {
    on_event(ModelEvent());
    return absl::DataLossError("tensor a.b is damaged; get a good copy");
  };
  StartDaemon();
  std::string id;
  EXPECT_THAT(Analyze(GoodRequest(), nullptr, &id), IsStatus(grpc::DATA_LOSS, HasSubstr("a.b")));
  grpc::ClientContext context;
  v1::WatchAnalysisRequest watch;
  watch.set_analysis_id(id);
  auto stream = analyses_->WatchAnalysis(&context, watch);
  v1::WatchAnalysisResponse response;
  std::vector<std::string> kinds;
  while (stream->Read(&response)) kinds.push_back(Kind(response.event()));
  EXPECT_THAT(kinds, ElementsAre("accepted", "model"));
  EXPECT_THAT(stream->Finish(), IsStatus(grpc::DATA_LOSS, HasSubstr("good copy")));
  EXPECT_EQ(Get(id).error().code(), grpc::DATA_LOSS);
}

TEST_F(StreamTest, ClientThatLeavesCancelsItsJob) {
  RunUntilStopped();
  StartDaemon();
  grpc::ClientContext context;
  std::string id;
  auto stream = StartAnalysis(context, GoodRequest(), &id);
  context.TryCancel();
  EXPECT_THAT(stream->Finish(), IsStatus(grpc::CANCELLED, ::testing::_));
  EXPECT_TRUE(WaitForState(id, v1::JOB_STATE_CANCELLED));
  EXPECT_EQ(Get(id).error().code(), grpc::CANCELLED);
  EXPECT_THAT(Get(id).error().message(), HasSubstr("the client left"));
}

TEST_F(StreamTest, ClientThatLeavesAQueuedJobCancelsIt) {
  RunUntilStopped();
  StartDaemon();
  grpc::ClientContext first;
  std::string running;
  auto stream = StartAnalysis(first, GoodRequest(), &running);
  std::string queued;
  {
    grpc::ClientContext context;
    auto second = analyses_->Analyze(&context, GoodRequest());
    v1::AnalyzeResponse response;
    ASSERT_TRUE(second->Read(&response));
    EXPECT_TRUE(response.event().has_accepted());
    queued = response.event().analysis_id();
    context.TryCancel();
    second->Finish();
  }
  EXPECT_TRUE(WaitForState(queued, v1::JOB_STATE_CANCELLED));
  EXPECT_EQ(Get(running).state(), v1::JOB_STATE_RUNNING);
  first.TryCancel();
  stream->Finish();
}

TEST_F(StreamTest, DetachedJobOutlivesItsCall) {
  std::atomic<bool> go = false;
  script_.analysis = [&](const auto&, FakeRun& run, const auto& on_event) -> absl::Status {
    on_event(ModelEvent());
    while (!go) {
      if (absl::Status status = run.Sleep(absl::Milliseconds(1)); !status.ok()) return status;
    }
    on_event(ResultEvent(10));
    return absl::OkStatus();
  };
  StartDaemon();
  v1::AnalyzeRequest request = GoodRequest();
  request.set_detach(true);
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + absl::Milliseconds(400)));
  std::string id;
  auto stream = StartAnalysis(context, request, &id);
  v1::AnalyzeResponse response;
  EXPECT_FALSE(stream->Read(&response));
  EXPECT_THAT(stream->Finish(), IsStatus(grpc::DEADLINE_EXCEEDED, ::testing::_));
  absl::SleepFor(absl::Milliseconds(100));
  EXPECT_EQ(Get(id).state(), v1::JOB_STATE_RUNNING);
  go = true;
  EXPECT_TRUE(WaitForState(id, v1::JOB_STATE_SUCCEEDED));
}

TEST_F(StreamTest, DeadlineOfTheCallIsTheJobs) {
  RunUntilStopped();
  StartDaemon();
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + absl::Milliseconds(400)));
  std::string id;
  auto stream = StartAnalysis(context, GoodRequest(), &id);
  EXPECT_THAT(stream->Finish(), IsStatus(grpc::DEADLINE_EXCEEDED, ::testing::_));
  EXPECT_TRUE(WaitForState(id, v1::JOB_STATE_CANCELLED));
  EXPECT_EQ(Get(id).error().code(), grpc::DEADLINE_EXCEEDED);
}

TEST_F(StreamTest, WatcherThatLeavesLeavesTheJobAlone) {
  RunUntilStopped();
  StartDaemon();
  grpc::ClientContext context;
  std::string id;
  auto stream = StartAnalysis(context, GoodRequest(), &id);
  {
    grpc::ClientContext watching;
    v1::WatchAnalysisRequest watch;
    watch.set_analysis_id(id);
    auto watcher = analyses_->WatchAnalysis(&watching, watch);
    v1::WatchAnalysisResponse response;
    ASSERT_TRUE(watcher->Read(&response));
    watching.TryCancel();
    watcher->Finish();
  }
  absl::SleepFor(absl::Milliseconds(50));
  EXPECT_EQ(Get(id).state(), v1::JOB_STATE_RUNNING);
  context.TryCancel();
  stream->Finish();
}

TEST_F(StreamTest, CancelRpcEndsTheStreamWithin250Milliseconds) {
  RunUntilStopped();
  StartDaemon();
  grpc::ClientContext context;
  std::string id;
  auto stream = StartAnalysis(context, GoodRequest(), &id);
  const absl::Time asked = absl::Now();
  grpc::ClientContext cancelling;
  v1::CancelAnalysisRequest request;
  request.set_analysis_id(id);
  v1::CancelAnalysisResponse cancelled;
  EXPECT_TRUE(analyses_->CancelAnalysis(&cancelling, request, &cancelled).ok());
  EXPECT_EQ(cancelled.analysis().analysis_id(), id);
  v1::AnalyzeResponse response;
  EXPECT_FALSE(stream->Read(&response));
  EXPECT_THAT(stream->Finish(), IsStatus(grpc::CANCELLED, HasSubstr("on request")));
  EXPECT_LT(absl::Now() - asked, absl::Milliseconds(250));
}

TEST_F(StreamTest, WorkerThatDiesIsRetriedOnce) {
  std::atomic<int> runs = 0;
  script_.analysis = [&](const auto&, FakeRun& run, const auto& on_event) {
    on_event(ModelEvent());
    if (runs++ == 0) return run.Crash();
    on_event(ResultEvent(10));
    return absl::OkStatus();
  };
  StartDaemon();
  std::string id;
  std::vector<std::string> kinds;
  EXPECT_TRUE(Analyze(GoodRequest(), &kinds, &id).ok());
  EXPECT_THAT(kinds, ElementsAre("accepted", "model", "result"));
  EXPECT_EQ(Get(id).attempts(), 2);
}

TEST_F(StreamTest, WorkerThatDiesTwiceEndsTheJobAndNotTheDaemon) {
  script_.analysis = [](const auto&, FakeRun& run, const auto&) { return run.Crash("signal 9"); };
  StartDaemon();
  std::string id;
  EXPECT_THAT(Analyze(GoodRequest(), nullptr, &id), IsStatus(grpc::INTERNAL, HasSubstr("died twice")));
  EXPECT_EQ(Get(id).state(), v1::JOB_STATE_FAILED);
  EXPECT_EQ(Get(id).attempts(), 2);
}

TEST_F(StreamTest, TrainingStreamsAndItsCheckpointCanBeDownloaded) {
  const std::string bytes = "trained weights";
  script_.training = [&](const worker::v1::RunTrainingRequest& request, FakeRun&, const auto& on_event) {
    const std::string& last = request.last_path();
    std::ofstream(request.output_path()) << bytes;
    std::ofstream(last) << bytes << " and more";
    worker::v1::RunTrainingResponse response;
    response.mutable_event()->mutable_result()->set_steps(5);
    response.set_best_path(request.output_path());
    response.set_last_path(last);
    on_event(response);
    return absl::OkStatus();
  };
  StartDaemon();
  v1::TrainRequest request;
  request.mutable_spec()->mutable_start()->mutable_initializer()->set_family("mamba2");
  request.mutable_spec()->mutable_task()->set_name("mqar");
  grpc::ClientContext context;
  auto stream = trainings_->Train(&context, request);
  v1::TrainResponse response;
  while (stream->Read(&response)) {
  }
  const grpc::Status status = stream->Finish();
  ASSERT_TRUE(status.ok()) << status.error_message();
  ASSERT_TRUE(response.event().has_result());
  EXPECT_NE(response.event().result().best_sha256(), response.event().result().last_sha256());

  grpc::ClientContext downloading;
  v1::DownloadCheckpointRequest download;
  download.set_sha256(response.event().result().best_sha256());
  auto chunks = catalog_->DownloadCheckpoint(&downloading, download);
  v1::DownloadCheckpointResponse chunk;
  std::string got;
  while (chunks->Read(&chunk)) got += chunk.chunk();
  EXPECT_TRUE(chunks->Finish().ok());
  EXPECT_EQ(got, bytes);
}

TEST_F(StreamTest, EigenvaluesStreamInChunksFromAnyOffset) {
  std::string file;
  for (int i = 0; i < 700'000; ++i) file.push_back(static_cast<char>(i * 31 + i / 256));
  script_.analysis = [&](const worker::v1::RunAnalysisRequest& request, FakeRun&, const auto& on_event) {
    std::ofstream(request.export_path(), std::ios::binary) << file;
    on_event(ResultEvent(10));
    return absl::OkStatus();
  };
  StartDaemon();
  v1::AnalyzeRequest request = GoodRequest();
  request.mutable_spec()->set_keep_eigenvalues(true);
  std::string id;
  ASSERT_TRUE(Analyze(request, nullptr, &id).ok());
  for (const int64_t offset : {int64_t{0}, int64_t{262'143}, int64_t{700'000}}) {
    grpc::ClientContext context;
    v1::ReadEigenvaluesRequest read;
    read.set_analysis_id(id);
    read.set_offset_bytes(offset);
    auto stream = analyses_->ReadEigenvalues(&context, read);
    v1::ReadEigenvaluesResponse response;
    std::string got;
    while (stream->Read(&response)) {
      EXPECT_LE(response.chunk().size(), size_t{256} << 10);
      EXPECT_EQ(response.total_bytes(), 700'000);
      got += response.chunk();
    }
    EXPECT_TRUE(stream->Finish().ok());
    EXPECT_TRUE(got == file.substr(static_cast<size_t>(offset)));
  }
}

TEST_F(StreamTest, ManyClientsComeAndGo) {
  script_.analysis = [](const auto&, FakeRun& run, const auto& on_event) -> absl::Status {
    on_event(ModelEvent());
    for (int i = 0; i < 3; ++i) on_event(ProgressEvent(i, 3));
    if (absl::Status status = run.Sleep(absl::Milliseconds(1)); !status.ok()) return status;
    on_event(ResultEvent(1));
    return absl::OkStatus();
  };
  config_.queue_capacity = 1000;
  config_.devices = {"cpu", "cuda:0"};
  StartDaemon();
  std::atomic<int> odd = 0;
  std::vector<std::thread> clients;
  for (int c = 0; c < 8; ++c) {
    clients.emplace_back([&, c] {
      for (int i = 0; i < 15; ++i) {
        grpc::ClientContext context;
        auto stream = analyses_->Analyze(&context, GoodRequest());
        v1::AnalyzeResponse response;
        const int leave_after = (i + c) % 5;
        for (int n = 0; stream->Read(&response); ++n) {
          if (n == leave_after) context.TryCancel();
        }
        const grpc::Status status = stream->Finish();
        if (!status.ok() && status.error_code() != grpc::CANCELLED) ++odd;
      }
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(odd, 0);
  EXPECT_TRUE(Analyze(GoodRequest()).ok());
}

}  // namespace
}  // namespace eigsvc::testing
