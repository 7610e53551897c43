#include "tests/server_worker/worker_fixture.h"

#include <stdlib.h>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "models/zoo/registry.h"
#include "tests/testing/status_matchers.h"

namespace eigsvc::testing {

TempDir::TempDir() {
  std::string pattern = (std::filesystem::temp_directory_path() / "eigsvc-worker-XXXXXX").string();
  path_ = mkdtemp(pattern.data());
}
TempDir::~TempDir() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::string SmallMqar(const std::string& extra) {
  return absl::StrCat(R"({"vocab_size":64,"input_seq_len":32,"num_kv_pairs":4)", extra, "}");
}

void SaveMamba2(const std::string& path, uint64_t seed, const std::string& settings,
                const std::string& extra_settings) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(const FamilyEntry* family, FindFamily("mamba2"));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Settings parsed, Settings::Parse(settings, "test"));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Settings extra, Settings::Parse(extra_settings, "test"));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto model, InitializeModel(*family, parsed, seed, {}));
  EIGSVC_ASSERT_OK(SaveModel(*model, model->weights(), extra, path));
}

worker::v1::ResolvedCheckpoint CheckpointAt(const std::string& path) {
  worker::v1::ResolvedCheckpoint checkpoint;
  checkpoint.set_path(path);
  checkpoint.mutable_ref()->set_local_path(path);
  return checkpoint;
}

worker::v1::RunAnalysisRequest AnalysisRequest(const std::string& path, int64_t examples) {
  worker::v1::RunAnalysisRequest request;
  request.set_analysis_id("analysis-1");
  *request.mutable_checkpoint() = CheckpointAt(path);
  request.mutable_spec()->mutable_task()->set_name("mqar");
  request.mutable_spec()->mutable_task()->set_parameters_json(SmallMqar(R"(,"test_examples":10000000)"));
  request.mutable_spec()->mutable_task()->set_seed(7);
  request.mutable_spec()->set_examples(examples);
  request.mutable_spec()->set_batch_size(8);  // chosen by the clock otherwise, and with it the last bits
  return request;
}

RunningWorker::RunningWorker(WorkerServiceOptions options) : service_(std::move(options)) {
  const std::string address = absl::StrCat("unix:", dir_.Path("w"));
  grpc::ServerBuilder builder;
  builder.AddListeningPort(address, grpc::InsecureServerCredentials());
  builder.RegisterService(&service_);
  server_ = builder.BuildAndStart();
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  stub_ = worker::v1::WorkerService::NewStub(
      grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments));
}

RunningWorker::~RunningWorker() {
  server_->Shutdown(std::chrono::system_clock::now());
  server_->Wait();
}

RunningWorker::Outcome RunningWorker::Analyze(const worker::v1::RunAnalysisRequest& request) {
  grpc::ClientContext context;
  const auto reader = stub_->RunAnalysis(&context, request);
  Outcome outcome;
  for (worker::v1::RunAnalysisResponse event; reader->Read(&event);) outcome.events.push_back(event);
  outcome.status = reader->Finish();
  return outcome;
}

worker::v1::GetStatusResponse RunningWorker::Status() {
  grpc::ClientContext context;
  worker::v1::GetStatusResponse response;
  const grpc::Status status = stub_->GetStatus(&context, {}, &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
  return response;
}

absl::Duration RunningWorker::WaitUntilIdle() {
  const absl::Time start = absl::Now();
  while (Busy() && absl::Now() < start + absl::Seconds(30)) absl::SleepFor(absl::Milliseconds(1));
  return absl::Now() - start;
}

}  // namespace eigsvc::testing
