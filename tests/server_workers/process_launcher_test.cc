// The real launcher and transport against fake_worker_main.cc.
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "server/workers/worker.h"
#include "spdlog/sinks/ostream_sink.h"
#include "spdlog/spdlog.h"
#include "tests/testing/paths.h"
#include "tests/testing/status_matchers.h"

namespace eigsvc {
namespace {

namespace fs = std::filesystem;
using ::eigsvc::testing::StatusIs;
using ::testing::_;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
constexpr absl::StatusCode kUnavailable = absl::StatusCode::kUnavailable;

class ProcessLauncherTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "/eigsvc_w_XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    directory_ = pattern;
    launcher_options_ = {.binary = testing::BinaryPath("bin/fake_worker"),
                         .socket_dir = directory_ + "/sockets"};
    logger_before_ = spdlog::default_logger();
    spdlog::set_default_logger(
        std::make_shared<spdlog::logger>("test", std::make_shared<spdlog::sinks::ostream_sink_mt>(log_)));
  }
  void TearDown() override {
    spdlog::set_default_logger(logger_before_);
    fs::remove_all(directory_);
  }

  std::unique_ptr<Worker> Start() {
    return std::make_unique<Worker>(options_, ProcessLauncher(launcher_options_), &metrics_);
  }
  std::unique_ptr<Worker> StartReady() {
    auto worker = Start();
    EXPECT_TRUE(worker->WaitUntilReady(absl::Seconds(30))) << worker->snapshot().problem;
    return worker;
  }
  static absl::Status Run(
      Worker& worker, const std::string& script, CallControl& control,
      const std::function<void(worker::v1::RunAnalysisResponse)>& on_event = [](auto) {}) {
    worker::v1::RunAnalysisRequest request;
    request.set_analysis_id(script);
    return worker.RunAnalysis(request, control, on_event);
  }
  static absl::Status Run(Worker& worker, const std::string& script) {
    CallControl control;
    return Run(worker, script, control);
  }
  static std::string DeathCause(const absl::Status& status) {
    const auto payload = status.GetPayload(kWorkerDiedUrl);
    return payload.has_value() ? std::string(*payload) : "no payload";
  }
  // Of the log, once the workers are gone.
  std::string Log() const { return log_.str(); }

  WorkerOptions options_{
      .device = "cuda:7", .cancel_grace = absl::Milliseconds(300), .start_timeout = absl::Seconds(30)};
  ProcessLauncherOptions launcher_options_;
  Metrics metrics_;
  std::string directory_;

 private:
  std::ostringstream log_;
  std::shared_ptr<spdlog::logger> logger_before_;
};

TEST_F(ProcessLauncherTest, StartsAndSpeaksToAProcess) {
  auto worker = StartReady();
  const Worker::Snapshot snapshot = worker->snapshot();
  EXPECT_EQ(snapshot.description, "fake cuda:7");
  EXPECT_EQ(snapshot.status.versions().at("fake"), "1");
  EXPECT_EQ(kill(static_cast<pid_t>(snapshot.pid), 0), 0);
  EIGSVC_ASSERT_OK_AND_ASSIGN(auto catalog, worker->GetCatalog());
  EXPECT_EQ(catalog.models(0).name(), "mamba2");
  EXPECT_THAT(metrics_.Serialize(), HasSubstr("eigsvc_worker_resident_memory_bytes{device=\"cuda:7\"}"));
  struct stat info {};
  ASSERT_EQ(stat(launcher_options_.socket_dir.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0700u);
  worker.reset();
  EXPECT_NE(kill(static_cast<pid_t>(snapshot.pid), 0), 0);
  EXPECT_TRUE(fs::is_empty(launcher_options_.socket_dir));
}

TEST_F(ProcessLauncherTest, CarriesEventsErrorsAndLargeMessages) {
  auto worker = StartReady();
  CallControl control;
  size_t bytes = 0;
  EIGSVC_EXPECT_OK(Run(*worker, "big", control,
                       [&](worker::v1::RunAnalysisResponse response) { bytes += response.ByteSizeLong(); }));
  EXPECT_GT(bytes, size_t{20} << 20);
  const absl::Status failed = Run(*worker, "fail");
  EXPECT_THAT(failed, StatusIs(absl::StatusCode::kFailedPrecondition, "shapes [3] and [4] differ"));
  worker::v1::InspectRequest request;
  EXPECT_THAT(worker->Inspect(request, control), StatusIs(absl::StatusCode::kInvalidArgument, "no path"));
  request.mutable_checkpoint()->set_path("llama");
  EIGSVC_ASSERT_OK_AND_ASSIGN(auto inspected, worker->Inspect(request, control));
  EXPECT_EQ(inspected.inspection().family(), "llama");
  EXPECT_THAT(worker->Load({}, control), StatusIs(absl::StatusCode::kUnimplemented, _));
  EXPECT_THAT(worker->Unload({}), StatusIs(absl::StatusCode::kUnimplemented, _));
  EIGSVC_ASSERT_OK_AND_ASSIGN(auto loaded, worker->ListLoaded());
  EXPECT_EQ(loaded.models_size(), 1);
  EXPECT_EQ(worker->snapshot().restart_count, 0);
}

TEST_F(ProcessLauncherTest, ACrashIsTrueToItsCauseAndFollowedByANewProcess) {
  auto worker = StartReady();
  EXPECT_EQ(DeathCause(Run(*worker, "crash")), "signal 11");
  EXPECT_EQ(DeathCause(Run(*worker, "exit 70")), "exit 70");
  EIGSVC_EXPECT_OK(Run(*worker, "fine"));
  EXPECT_EQ(worker->snapshot().restart_count, 2);
}

TEST_F(ProcessLauncherTest, SigkillFromOutsideIsNoticedWithinASecond) {
  auto worker = StartReady();
  CallControl control;
  absl::Time killed_at;
  const absl::Status status = Run(*worker, "hang", control, [&](worker::v1::RunAnalysisResponse) {
    killed_at = absl::Now();
    kill(static_cast<pid_t>(worker->snapshot().pid), SIGKILL);
  });
  EXPECT_LT(absl::Now() - killed_at, absl::Seconds(1));
  EXPECT_EQ(DeathCause(status), "signal 9") << status;
}

TEST_F(ProcessLauncherTest, ACancelWaitsForAnObedientWorker) {
  auto worker = StartReady();
  CallControl control;
  absl::Time cancelled_at;
  const absl::Status status = Run(*worker, "obey", control, [&](worker::v1::RunAnalysisResponse) {
    cancelled_at = absl::Now();
    control.Cancel();
  });
  const absl::Duration took = absl::Now() - cancelled_at;
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kCancelled, Not(HasSubstr("killed"))));
  EXPECT_GE(took, absl::Milliseconds(30));
  EXPECT_EQ(worker->snapshot().restart_count, 0);
}

TEST_F(ProcessLauncherTest, ACancelKillsAWorkerThatHangs) {
  auto worker = StartReady();
  for (const char* script : {"hang", "freeze"}) {
    SCOPED_TRACE(script);
    EXPECT_TRUE(worker->WaitUntilReady(absl::Seconds(30)));
    const int64_t pid = worker->snapshot().pid;
    CallControl control;
    absl::Time cancelled_at;
    const absl::Status status = Run(*worker, script, control, [&](worker::v1::RunAnalysisResponse) {
      cancelled_at = absl::Now();
      control.Cancel();
    });
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kCancelled, HasSubstr("was killed")));
    EXPECT_LT(absl::Now() - cancelled_at, absl::Seconds(2));
    EXPECT_TRUE(worker->WaitUntilReady(absl::Seconds(30)));
    EXPECT_NE(worker->snapshot().pid, pid);
  }
}

TEST_F(ProcessLauncherTest, ADeadlineReachesTheWorker) {
  auto worker = StartReady();
  CallControl control(absl::Now() + absl::Milliseconds(200));
  EXPECT_THAT(Run(*worker, "obey", control),
              StatusIs(absl::StatusCode::kDeadlineExceeded, Not(HasSubstr("killed"))));
  EXPECT_EQ(worker->snapshot().restart_count, 0);
}

TEST_F(ProcessLauncherTest, AFrozenProcessIsReplacedByHeartbeat) {
  options_.heartbeat = absl::Milliseconds(100);
  auto worker = StartReady();
  EXPECT_EQ(DeathCause(Run(*worker, "freeze")), "unresponsive");
  EIGSVC_EXPECT_OK(Run(*worker, "fine"));
}

TEST_F(ProcessLauncherTest, AProcessThatFailsToStartSaysWhyInTheLog) {
  launcher_options_.extra_flags = {"--start-exit", "70"};
  auto worker = Start();
  EXPECT_THAT(Run(*worker, "fine"), StatusIs(kUnavailable, HasSubstr("ended while starting (exit 70)")));
  worker.reset();
  EXPECT_THAT(Log(), HasSubstr("worker cuda:7: no CUDA driver"));
}

TEST_F(ProcessLauncherTest, AProcessThatHangsAtStartIsKilled) {
  launcher_options_.extra_flags = {"--start-hang"};
  options_.start_timeout = absl::Milliseconds(100);
  auto worker = Start();
  EXPECT_THAT(Run(*worker, "fine"), StatusIs(kUnavailable, HasSubstr("did not answer within 100ms")));
}

TEST_F(ProcessLauncherTest, AMissingBinaryIsNamed) {
  launcher_options_.binary = "/no/such/worker";
  auto worker = Start();
  EXPECT_THAT(Run(*worker, "fine"),
              StatusIs(kUnavailable, AllOf(HasSubstr("/no/such/worker"), HasSubstr("No such file"))));
}

TEST_F(ProcessLauncherTest, OutputGoesToTheLogBoundedAndTame) {
  launcher_options_.extra_flags = {"--chatter", "5000"};
  auto worker = StartReady();
  absl::SleepFor(absl::Milliseconds(1100));  // past the second in which it wrote too much
  EIGSVC_EXPECT_OK(Run(*worker, "report"));
  worker.reset();
  EXPECT_THAT(Log(), HasSubstr("term blocked 0, group leader 1"));
  EXPECT_THAT(Log(), HasSubstr("worker cuda:7: line 0\n"));
  EXPECT_THAT(Log(), HasSubstr("more lines dropped"));
  EXPECT_THAT(Log(), Not(HasSubstr("\033")));
  EXPECT_LT(Log().size(), size_t{100} << 10);
}

TEST_F(ProcessLauncherTest, ASocketDirectoryOpenToOthersIsRefused) {
  fs::create_directory(launcher_options_.socket_dir);
  ASSERT_EQ(chmod(launcher_options_.socket_dir.c_str(), 0755), 0);
  auto worker = Start();
  EXPECT_THAT(Run(*worker, "fine"), StatusIs(kUnavailable, HasSubstr("mode 0700")));
}

TEST_F(ProcessLauncherTest, ASocketPathThatIsTooLongIsSaid) {
  launcher_options_.socket_dir = directory_ + "/" + std::string(100, 'd');
  auto worker = Start();
  EXPECT_THAT(Run(*worker, "fine"), StatusIs(kUnavailable, HasSubstr("shorter --state-dir")));
}

TEST_F(ProcessLauncherTest, AWorkerThatIgnoresSigtermIsKilledAtTheEnd) {
  launcher_options_.extra_flags = {"--ignore-term"};
  auto worker = StartReady();
  const auto pid = static_cast<pid_t>(worker->snapshot().pid);
  const absl::Time start = absl::Now();
  worker.reset();
  EXPECT_NE(kill(pid, 0), 0);
  EXPECT_LT(absl::Now() - start, absl::Seconds(5));
}

TEST_F(ProcessLauncherTest, DevicesAreListedByTheWorkerProgram) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(auto devices, ListDevices(launcher_options_.binary));
  EXPECT_THAT(devices, ElementsAre("cuda:0", "cuda:1"));
  EXPECT_THAT(ListDevices("/bin/true"),
              StatusIs(kUnavailable, AllOf(HasSubstr("no device"), HasSubstr("--devices"))));
  EXPECT_THAT(ListDevices("/bin/false"), StatusIs(kUnavailable, HasSubstr("exit 1")));
  EXPECT_THAT(ListDevices("/no/such"), StatusIs(kUnavailable, HasSubstr("No such file")));
}

}  // namespace
}  // namespace eigsvc
