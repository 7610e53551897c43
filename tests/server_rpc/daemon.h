// A whole daemon in this process, on a free port, with a disk store in a directory of its own and fake
// workers; and the generated client to speak to it.
#pragma once

#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "eigsvc/v1/analysis_service.grpc.pb.h"
#include "eigsvc/v1/catalog_service.grpc.pb.h"
#include "eigsvc/v1/training_service.grpc.pb.h"
#include "grpcpp/channel.h"
#include "grpcpp/client_context.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"
#include "gtest/gtest.h"
#include "server/server.h"
#include "tests/testing/fake_worker.h"
#include "tests/testing/status_matchers.h"

namespace eigsvc::testing {

inline constexpr absl::Duration kLong = absl::Seconds(20);

class DaemonTest : public ::testing::Test {
 protected:
  DaemonTest() {
    std::string name = ::testing::TempDir() + "/eigsvcd.XXXXXX";
    directory_ = mkdtemp(name.data());
    std::filesystem::create_directory(directory_ + "/checkpoints");
    std::ofstream(directory_ + "/checkpoints/known.safetensors") << "weights";
    config_.listen = "127.0.0.1:0";
    config_.http_listen = "127.0.0.1:0";
    config_.state_dir = directory_ + "/state";
    config_.checkpoint_root = directory_ + "/checkpoints";
    config_.devices = {"cpu"};
    config_.lame_duck = absl::ZeroDuration();
    config_.drain_timeout = absl::Seconds(5);
    script_.analysis = [](const auto&, FakeRun&, const auto& on_event) {
      on_event(ModelEvent());
      on_event(ProgressEvent(1, 2));
      on_event(ResultEvent(10));
      return absl::OkStatus();
    };
  }
  ~DaemonTest() override {
    channel_.reset();
    server_.reset();
    std::filesystem::remove_all(directory_);
  }

  void StartDaemon() {
    ServerHooks hooks;
    hooks.launcher = script_.Launcher();
    EIGSVC_ASSERT_OK_AND_ASSIGN(server_, Server::Start(config_, hooks));
    grpc::ChannelArguments arguments;
    arguments.SetMaxReceiveMessageSize(-1);
    channel_ = grpc::CreateCustomChannel(server_->address(), grpc::InsecureChannelCredentials(), arguments);
    analyses_ = v1::AnalysisService::NewStub(channel_);
    catalog_ = v1::CatalogService::NewStub(channel_);
    trainings_ = v1::TrainingService::NewStub(channel_);
  }
  // Until a worker is up, so that names can be checked.
  void AwaitWorker() {
    grpc::ClientContext context;
    v1::ListTasksResponse response;
    ASSERT_TRUE(catalog_->ListTasks(&context, {}, &response).ok());
  }

  static v1::AnalyzeRequest GoodRequest() {
    v1::AnalyzeRequest request;
    request.mutable_spec()->mutable_checkpoint()->set_name("known.safetensors");
    request.mutable_spec()->mutable_task()->set_name("mqar");
    return request;
  }
  // A job that runs until it is stopped.
  void RunUntilStopped() {
    script_.analysis = [](const auto&, FakeRun& run, const auto& on_event) {
      on_event(ModelEvent());
      return run.Sleep(absl::Seconds(60));
    };
  }
  static std::string Kind(const v1::AnalysisEvent& event) {
    if (event.has_accepted()) return "accepted";
    if (event.has_model()) return "model";
    if (event.has_progress()) return "progress";
    return event.has_result() ? "result" : "nothing";
  }
  // Runs an analysis to its end; what came, and the id.
  grpc::Status Analyze(const v1::AnalyzeRequest& request, std::vector<std::string>* kinds = nullptr,
                       std::string* id = nullptr) {
    grpc::ClientContext context;
    context.set_deadline(absl::ToChronoTime(absl::Now() + kLong));
    auto stream = analyses_->Analyze(&context, request);
    v1::AnalyzeResponse response;
    while (stream->Read(&response)) {
      if (kinds != nullptr) kinds->push_back(Kind(response.event()));
      if (id != nullptr) *id = response.event().analysis_id();
    }
    return stream->Finish();
  }
  v1::Analysis Get(const std::string& id) {
    grpc::ClientContext context;
    v1::GetAnalysisRequest request;
    request.set_analysis_id(id);
    v1::GetAnalysisResponse response;
    const grpc::Status status = analyses_->GetAnalysis(&context, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response.analysis();
  }
  bool WaitForState(const std::string& id, v1::JobState state) {
    for (const absl::Time until = absl::Now() + kLong; absl::Now() < until;
         absl::SleepFor(absl::Milliseconds(2))) {
      if (Get(id).state() == state) return true;
    }
    return false;
  }

  std::string directory_;
  ServerConfig config_;
  FakeWorkerScript script_;
  std::unique_ptr<Server> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::AnalysisService::Stub> analyses_;
  std::unique_ptr<v1::CatalogService::Stub> catalog_;
  std::unique_ptr<v1::TrainingService::Stub> trainings_;
};

// EXPECT_THAT(status, IsStatus(grpc::NOT_FOUND, HasSubstr("...")));
MATCHER_P2(IsStatus, code, message, "") {
  *result_listener << "which is " << arg.error_code() << ": " << arg.error_message();
  return arg.error_code() == code &&
         ::testing::ExplainMatchResult(message, arg.error_message(), result_listener);
}

}  // namespace eigsvc::testing
