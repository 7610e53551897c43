#include "server/worker/headless.h"

#include <google/protobuf/util/json_util.h>
#include <google/protobuf/util/message_differencer.h>

#include <filesystem>
#include <fstream>
#include <iterator>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "models/archive/archive.h"
#include "tests/server_worker/worker_fixture.h"
#include "tests/testing/status_matchers.h"

namespace eigsvc {
namespace {

using ::eigsvc::testing::AnalysisRequest;
using ::eigsvc::testing::RunningWorker;
using ::eigsvc::testing::SaveMamba2;
using ::eigsvc::testing::StatusIs;
using ::eigsvc::testing::TempDir;
using ::testing::AllOf;
using ::testing::HasSubstr;

std::string ToJson(const google::protobuf::Message& message) {
  std::string json;
  EXPECT_TRUE(google::protobuf::util::MessageToJsonString(message, &json).ok());
  return json;
}

class HeadlessTest : public ::testing::Test {
 protected:
  HeadlessTest() { SaveMamba2(model_, 1); }

  absl::Status Run(const std::string& json, const std::string& export_path = "") {
    std::ofstream(dir_.Path("request.json")) << json;
    ModelPool pool({c10::Device(c10::kCPU)}, "cpu", int64_t{1} << 30);
    return RunHeadless(
        {dir_.Path("request.json"), dir_.Path("result.json"), export_path}, pool,
        [](const v1::AnalysisEvent&) {}, StopToken());
  }
  v1::Analysis Result() {
    std::ifstream file(dir_.Path("result.json"));
    const std::string json{std::istreambuf_iterator<char>(file), {}};
    v1::Analysis analysis;
    EXPECT_TRUE(google::protobuf::util::JsonStringToMessage(json, &analysis).ok()) << json;
    return analysis;
  }

  TempDir dir_;
  const std::string model_ = dir_.Path("model.safetensors");
};

TEST_F(HeadlessTest, GivesWhatTheServiceGives) {
  const worker::v1::RunAnalysisRequest request = AnalysisRequest(model_, 32);
  EIGSVC_ASSERT_OK(Run(ToJson(request)));
  const v1::Analysis analysis = Result();
  EXPECT_EQ(analysis.state(), v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(analysis.analysis_id(), "analysis-1");
  EXPECT_EQ(analysis.attempts(), 1);
  EXPECT_EQ(analysis.model().family(), "mamba2");
  EXPECT_FALSE(analysis.has_error());

  RunningWorker worker;
  const auto outcome = worker.Analyze(request);
  ASSERT_TRUE(outcome.status.ok()) << outcome.status.error_message();
  v1::AnalysisResult served = outcome.events.back().event().result(), headless = analysis.result();
  for (v1::AnalysisResult* result : {&served, &headless}) {
    result->clear_forward_time();
    result->clear_analysis_time();
    result->clear_total_time();
  }
  EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(served, headless));
}

TEST_F(HeadlessTest, TakesAClientsRequestWithLocalPaths) {
  const std::string json =
      R"({"spec": {"checkpoint": {"localPath": ")" + model_ +
      R"("}, "task": {"name": "mqar", "seed": "7", "parametersJson": "{\"vocab_size\": 64, \"input_seq_len\": 32}"}, "examples": "16"}})";
  const std::string export_path = dir_.Path("export.safetensors");
  EIGSVC_ASSERT_OK(Run(json, export_path));
  EXPECT_EQ(Result().result().examples(), 16);
  EIGSVC_EXPECT_OK(Archive::Open(export_path));
}

TEST_F(HeadlessTest, AFailureIsInTheResultToo) {
  worker::v1::RunAnalysisRequest request = AnalysisRequest(dir_.Path("absent"), 8);
  EXPECT_THAT(Run(ToJson(request)), StatusIs(absl::StatusCode::kNotFound, HasSubstr("absent")));
  const v1::Analysis analysis = Result();
  EXPECT_EQ(analysis.state(), v1::JOB_STATE_FAILED);
  EXPECT_EQ(analysis.error().code(), 5);
  EXPECT_THAT(analysis.error().message(), HasSubstr("absent"));
}

TEST_F(HeadlessTest, BadRequestsAreNamed) {
  EXPECT_THAT(Run("{"), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("request.json")));
  EXPECT_THAT(
      Run(R"({"spec": {"exmples": 3}})"),
      StatusIs(absl::StatusCode::kInvalidArgument, AllOf(HasSubstr("AnalyzeRequest"), HasSubstr("exmples"))));
  EXPECT_THAT(Run(R"({"spec": {"checkpoint": {"name": "m"}, "task": {"name": "mqar"}}})"),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr("spec.checkpoint"), HasSubstr("local_path"))));
  EXPECT_THAT(
      Run(R"({"spec": {"checkpoint": {"localPath": "m"}, "task": {"name": "next-token", "data": {"name": "d"}}}})"),
      StatusIs(absl::StatusCode::kInvalidArgument,
               AllOf(HasSubstr("spec.task.data"), HasSubstr("local_path"))));
  EXPECT_FALSE(std::filesystem::exists(dir_.Path("result.json")));
}

TEST_F(HeadlessTest, UnreadableAndUnwritablePathsAreNamed) {
  ModelPool pool({c10::Device(c10::kCPU)}, "cpu", int64_t{1} << 30);
  const auto ignore = [](const v1::AnalysisEvent&) {};
  EXPECT_THAT(RunHeadless({dir_.Path("none.json"), dir_.Path("out.json"), ""}, pool, ignore, StopToken()),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("none.json")));
  std::ofstream(dir_.Path("request.json")) << ToJson(AnalysisRequest(model_, 8));
  EXPECT_THAT(
      RunHeadless({dir_.Path("request.json"), dir_.Path("none/out.json"), ""}, pool, ignore, StopToken()),
      StatusIs(absl::StatusCode::kUnavailable, HasSubstr("none/out.json")));
}

}  // namespace
}  // namespace eigsvc
