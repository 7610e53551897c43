// Clients that never read cost the daemon next to nothing, however much is pending for them.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "tests/server_rpc/daemon.h"

namespace eigsvc::testing {
namespace {

// AddressSanitizer keeps what is freed, to see it used again; there the test is about that.
#ifdef __SANITIZE_ADDRESS__
constexpr bool kMeasures = false;
#else
constexpr bool kMeasures = true;
#endif

int64_t ResidentBytes() {
  std::ifstream statm("/proc/self/statm");
  int64_t total = 0, resident = 0;
  statm >> total >> resident;
  return resident * sysconf(_SC_PAGESIZE);
}

// A hundred watchers of one analysis and one reader of another's eigenvalues; none of them reads. They live
// in a process of their own, so that what gRPC buffers for them there does not count: this program again,
// running only the test below.
class StalledClients {
 public:
  StalledClients(const std::string& address, const std::string& watched, const std::string& kept) {
    int ends[2];
    EXPECT_EQ(pipe(ends), 0);
    pid_ = fork();
    if (pid_ == 0) {
      dup2(ends[1], STDOUT_FILENO);
      setenv("EIGSVC_STALLED_CLIENTS", absl::StrCat(address, " ", watched, " ", kept).c_str(), 1);
      execl("/proc/self/exe", "server_rpc_test", "--gtest_filter=StalledClientsTest.*",
            "--gtest_also_run_disabled_tests", nullptr);
      _exit(127);
    }
    close(ends[1]);
    // It says so when every stream is open.
    std::string said;
    char buffer[256];
    for (ssize_t got;
         said.find("holding") == std::string::npos && (got = read(ends[0], buffer, sizeof(buffer))) > 0;) {
      said.append(buffer, static_cast<size_t>(got));
    }
    close(ends[0]);
    opened_ = said.find("holding") != std::string::npos;
  }
  ~StalledClients() {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  bool opened() const { return opened_; }

 private:
  pid_t pid_ = 0;
  bool opened_ = false;
};

// The other end of MemoryTest; no test of its own.
TEST(StalledClientsTest, DISABLED_HoldTheirStreams) {
  const char* arguments = getenv("EIGSVC_STALLED_CLIENTS");
  ASSERT_NE(arguments, nullptr);
  std::string address, watched, kept;
  std::istringstream(arguments) >> address >> watched >> kept;
  const auto channel = grpc::CreateChannel(address, grpc::InsecureChannelCredentials());
  const auto stub = v1::AnalysisService::NewStub(channel);
  std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
  std::vector<std::unique_ptr<grpc::ClientReader<v1::WatchAnalysisResponse>>> watchers;
  v1::WatchAnalysisRequest watch;
  watch.set_analysis_id(watched);
  for (int i = 0; i < 100; ++i) {
    contexts.push_back(std::make_unique<grpc::ClientContext>());
    watchers.push_back(stub->WatchAnalysis(contexts.back().get(), watch));
    watchers.back()->WaitForInitialMetadata();  // the stream is open
  }
  contexts.push_back(std::make_unique<grpc::ClientContext>());
  v1::ReadEigenvaluesRequest request;
  request.set_analysis_id(kept);
  const auto reader = stub->ReadEigenvalues(contexts.back().get(), request);
  reader->WaitForInitialMetadata();
  printf("holding\n");
  fflush(stdout);
  absl::SleepFor(absl::Seconds(60));  // killed before
}

using MemoryTest = DaemonTest;

TEST_F(MemoryTest, HundredWatchersThatNeverReadStayBelow64MiB) {
  constexpr int kSnapshots = 300;
  constexpr int64_t kEigenvalues = 1'000'000;
  std::atomic<bool> go = false;
  std::atomic<int> published = 0;
  script_.analysis = [&](const worker::v1::RunAnalysisRequest& request, FakeRun& run,
                         const auto& on_event) -> absl::Status {
    on_event(ModelEvent());
    if (request.spec().keep_eigenvalues()) {
      std::ofstream(request.export_path(), std::ios::binary) << std::string(kEigenvalues * 8, 'e');
      on_event(ResultEvent(kEigenvalues));
      return absl::OkStatus();
    }
    while (!go) {
      if (absl::Status status = run.Sleep(absl::Milliseconds(1)); !status.ok()) return status;
    }
    const worker::v1::RunAnalysisResponse snapshot =
        ProgressEvent(1, 2, /*sites=*/25, /*bins=*/1000);  // 250 kB
    for (int i = 0; i < kSnapshots; ++i) {
      on_event(snapshot);
      ++published;
      if (absl::Status status = run.Sleep(absl::Milliseconds(2)); !status.ok()) return status;
    }
    return run.Sleep(absl::Seconds(60));
  };
  StartDaemon();
  v1::AnalyzeRequest keep = GoodRequest();
  keep.mutable_spec()->set_keep_eigenvalues(true);
  std::string kept;
  ASSERT_TRUE(Analyze(keep, nullptr, &kept).ok());
  grpc::ClientContext running;
  auto job = analyses_->Analyze(&running, GoodRequest());
  v1::AnalyzeResponse response;
  ASSERT_TRUE(job->Read(&response));
  const std::string watched = response.event().analysis_id();

  const int64_t before = ResidentBytes();
  {
    const StalledClients clients(server_->address(), watched, kept);
    ASSERT_TRUE(clients.opened());
    go = true;
    for (int i = 0; i < 10'000 && published < kSnapshots; ++i) absl::SleepFor(absl::Milliseconds(2));
    ASSERT_EQ(published, kSnapshots);
    const int64_t grown = ResidentBytes() - before;
    RecordProperty("grown_bytes", std::to_string(grown));
    if (kMeasures) {
      EXPECT_LE(grown, int64_t{64} << 20);
    }
    EXPECT_EQ(Get(watched).state(), v1::JOB_STATE_RUNNING);  // the daemon still answers
  }
  EXPECT_EQ(Get(watched).state(), v1::JOB_STATE_RUNNING);  // and has outlived them
  running.TryCancel();
  job->Finish();
  EXPECT_TRUE(WaitForState(watched, v1::JOB_STATE_CANCELLED));
}

// One that starts to read late gets the newest snapshot, not the hundred before.
TEST_F(MemoryTest, LateReaderGetsFewSnapshots) {
  constexpr int kSnapshots = 200;
  std::atomic<bool> published = false;
  script_.analysis = [&](const auto&, FakeRun& run, const auto& on_event) -> absl::Status {
    on_event(ModelEvent());
    for (int i = 1; i <= kSnapshots; ++i) {
      on_event(ProgressEvent(i, kSnapshots, /*sites=*/25, /*bins=*/1000));
      if (absl::Status status = run.Sleep(absl::Milliseconds(1)); !status.ok()) return status;
    }
    published = true;
    return run.Sleep(absl::Seconds(60));
  };
  StartDaemon();
  grpc::ClientContext context;
  auto stream = analyses_->Analyze(&context, GoodRequest());
  for (int i = 0; i < 10'000 && !published; ++i) absl::SleepFor(absl::Milliseconds(2));
  ASSERT_TRUE(published);
  int snapshots = 0;
  v1::AnalyzeResponse response;
  while (stream->Read(&response)) {
    if (!response.event().has_progress()) continue;
    ++snapshots;
    if (response.event().progress().examples_done() == kSnapshots) context.TryCancel();
  }
  EXPECT_THAT(stream->Finish(), IsStatus(grpc::CANCELLED, ::testing::_));
  EXPECT_LT(snapshots, kSnapshots / 2);
  EXPECT_GE(snapshots, 1);
}

}  // namespace
}  // namespace eigsvc::testing
