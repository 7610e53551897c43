// The daemon's jobs over the real Worker and a fake process. No gRPC, so that ThreadSanitizer sees
// everything.
#include "server/jobs/jobs.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "eigsvc/v1/analysis_service.pb.h"
#include "eigsvc/v1/training_service.pb.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/fake_store.h"
#include "tests/testing/fake_worker.h"
#include "tests/testing/status_matchers.h"

namespace eigsvc {
namespace {

using ::eigsvc::testing::FakeRun;
using ::eigsvc::testing::FakeStore;
using ::eigsvc::testing::FakeWorkerScript;
using ::eigsvc::testing::ModelEvent;
using ::eigsvc::testing::ProgressEvent;
using ::eigsvc::testing::ResultEvent;
using ::eigsvc::testing::StatusIs;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr absl::Duration kLong = absl::Seconds(20);
const std::string kBest(64, 'b'), kLast(64, 'a');  // as the fake store names them

v1::AnalysisSpec GoodSpec() {
  v1::AnalysisSpec spec;
  spec.mutable_checkpoint()->set_name("known.safetensors");
  spec.mutable_task()->set_name("mqar");
  return spec;
}

// Reads a stream to its end as a client would, waiting on on_ready.
class Reader {
 public:
  std::function<void()> on_ready() {
    return [this] {
      const std::lock_guard lock(mutex_);
      ready_ = true;
      wake_.notify_all();
    };
  }
  // Appends what each event is; the job's status at the end.
  absl::Status ReadAll(EventStream& stream, std::vector<std::string>* kinds) {
    while (true) {
      bool ended = false;
      absl::Status status;
      WireEvent event;
      while ((event = stream.Next(&ended, &status)) != nullptr) {
        v1::AnalyzeResponse response;
        EXPECT_TRUE(response.ParseFromString(*event));
        kinds->push_back(Name(response.event()));
        ++seen_;
      }
      if (ended) return status;
      std::unique_lock lock(mutex_);
      if (!wake_.wait_for(lock, std::chrono::seconds(20), [&] { return ready_; })) {
        return absl::UnknownError("no event came");
      }
      ready_ = false;
    }
  }
  bool WaitUntilSeen(int count) const {
    for (const absl::Time until = absl::Now() + kLong; absl::Now() < until;
         absl::SleepFor(absl::Milliseconds(1))) {
      if (seen_ >= count) return true;
    }
    return false;
  }
  static std::string Name(const v1::AnalysisEvent& event) {
    if (event.has_accepted()) return absl::StrCat("accepted ", event.accepted().queue_position());
    if (event.has_model()) return absl::StrCat("model ", event.model().family());
    if (event.has_progress()) return absl::StrCat("progress ", event.progress().examples_done());
    if (event.has_result()) return absl::StrCat("result ", event.result().eigenvalues());
    return "nothing";
  }

 private:
  std::mutex mutex_;
  std::condition_variable wake_;
  bool ready_ = false;
  std::atomic<int> seen_ = 0;
};

class JobsTest : public ::testing::Test {
 protected:
  JobsTest() {
    script_.analysis = [](const auto&, FakeRun&, const auto& on_event) {
      on_event(ModelEvent());
      on_event(ProgressEvent(1, 2));
      on_event(ResultEvent(10));
      return absl::OkStatus();
    };
    script_.training = [this](const worker::v1::RunTrainingRequest& request, FakeRun&, const auto& on_event) {
      worker::v1::RunTrainingResponse response;
      response.mutable_event()->mutable_result()->set_steps(5);
      for (const std::string& path : {request.output_path(), request.last_path()}) store_.Write(path);
      response.set_best_path(request.output_path());
      response.set_last_path(request.last_path());
      on_event(response);
      return absl::OkStatus();
    };
  }

  void Start(std::vector<std::string> devices = {"cpu"}) {
    for (const std::string& device : devices) {
      WorkerOptions options;
      options.device = device;
      options.first_backoff = absl::Milliseconds(5);
      workers_.push_back(std::make_unique<Worker>(options, script_.Launcher(), &metrics_));
    }
    std::vector<Worker*> pointers;
    for (const auto& worker : workers_) pointers.push_back(worker.get());
    jobs_ = std::make_unique<Jobs>(options_, pointers, &store_, &metrics_);
  }

  std::string Submit(const v1::AnalysisSpec& spec = GoodSpec(),
                     absl::Time deadline = absl::InfiniteFuture()) {
    absl::StatusOr<std::string> id = jobs_->SubmitAnalysis(spec, deadline);
    EXPECT_THAT(id, ::eigsvc::testing::IsOk());
    return id.value_or("");
  }
  absl::Status Wait(const std::string& id, std::vector<std::string>* kinds = nullptr) {
    std::vector<std::string> ignored;
    Reader reader;
    absl::StatusOr<std::unique_ptr<EventStream>> stream = jobs_->WatchAnalysis(id, reader.on_ready());
    if (!stream.ok()) return stream.status();
    return reader.ReadAll(**stream, kinds != nullptr ? kinds : &ignored);
  }
  bool WaitForState(const std::string& id, v1::JobState state) {
    for (const absl::Time until = absl::Now() + kLong; absl::Now() < until;) {
      if (jobs_->GetAnalysis(id)->state() == state) return true;
      absl::SleepFor(absl::Milliseconds(1));
    }
    return false;
  }
  absl::Status Cancel(const std::string& id) {
    return jobs_->CancelAnalysis(id, absl::CancelledError("cancelled on request"));
  }
  std::string SubmitTraining() {
    v1::TrainingSpec spec;
    spec.mutable_start()->mutable_initializer()->set_family("mamba2");
    spec.mutable_task()->set_name("mqar");
    absl::StatusOr<std::string> id = jobs_->SubmitTraining(spec, absl::InfiniteFuture());
    EXPECT_THAT(id, ::eigsvc::testing::IsOk());
    return id.value_or("");
  }
  v1::Training WaitForTraining(const std::string& id, v1::JobState state) {
    for (const absl::Time until = absl::Now() + kLong;
         jobs_->GetTraining(id)->state() != state && absl::Now() < until;) {
      absl::SleepFor(absl::Milliseconds(1));
    }
    v1::Training training = *jobs_->GetTraining(id);
    EXPECT_EQ(training.state(), state);
    return training;
  }
  // A job that runs until it is stopped.
  void RunUntilStopped() {
    script_.analysis = [](const auto&, FakeRun& run, const auto& on_event) {
      on_event(ModelEvent());
      return run.Sleep(absl::Seconds(60));
    };
  }

  FakeWorkerScript script_;
  FakeStore store_;
  Metrics metrics_;
  JobsOptions options_;
  std::vector<std::unique_ptr<Worker>> workers_;
  std::unique_ptr<Jobs> jobs_;  // ends before the workers
};

TEST_F(JobsTest, StreamIsAcceptedModelProgressResult) {
  Reader reader;
  script_.analysis = [&](const auto&, FakeRun&, const auto& on_event) {
    // Each event once the one before was read: a reader that is late would rightly be spared the progress.
    EXPECT_TRUE(reader.WaitUntilSeen(1));
    on_event(ModelEvent());
    EXPECT_TRUE(reader.WaitUntilSeen(2));
    on_event(ProgressEvent(1, 2));
    EXPECT_TRUE(reader.WaitUntilSeen(3));
    on_event(ResultEvent(10));
    return absl::OkStatus();
  };
  Start();
  const std::string id = Submit();
  EIGSVC_ASSERT_OK_AND_ASSIGN(auto stream, jobs_->WatchAnalysis(id, reader.on_ready()));
  std::vector<std::string> kinds;
  EIGSVC_EXPECT_OK(reader.ReadAll(*stream, &kinds));
  EXPECT_THAT(kinds, ElementsAre("accepted 0", "model mamba2", "progress 1", "result 10"));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const v1::Analysis analysis, jobs_->GetAnalysis(id));
  EXPECT_EQ(analysis.state(), v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(analysis.attempts(), 1);
  EXPECT_EQ(analysis.result().sites_size(), 1);
  EXPECT_EQ(analysis.progress().examples_done(), 1);
  EXPECT_TRUE(analysis.has_end_time() && analysis.has_start_time() && analysis.has_create_time());
}

TEST_F(JobsTest, LateWatcherGetsPastEventsCondensed) {
  Start();
  const std::string id = Submit();
  EIGSVC_ASSERT_OK(Wait(id));
  std::vector<std::string> kinds;
  EIGSVC_EXPECT_OK(Wait(id, &kinds));
  EXPECT_THAT(kinds, ElementsAre("accepted 0", "model mamba2", "result 10"));
}

TEST_F(JobsTest, SlowReaderSkipsToTheNewestSnapshot) {
  script_.analysis = [](const auto&, FakeRun&, const auto& on_event) {
    on_event(ModelEvent());
    for (int i = 1; i <= 100; ++i) on_event(ProgressEvent(i, 100));
    return absl::InternalError("stop here, so that the snapshot stays");
  };
  Start();
  const std::string id = Submit();
  ASSERT_TRUE(WaitForState(id, v1::JOB_STATE_FAILED));
  std::vector<std::string> kinds;
  EXPECT_THAT(Wait(id, &kinds), StatusIs(absl::StatusCode::kInternal, HasSubstr("stop here")));
  EXPECT_THAT(kinds, ElementsAre("accepted 0", "model mamba2", "progress 100"));
}

TEST_F(JobsTest, NoCallbackAfterTheStreamIsGone) {
  script_.analysis = [](const auto&, FakeRun& run, const auto& on_event) {
    for (int i = 0; run.Sleep(absl::ZeroDuration()).ok(); ++i) on_event(ProgressEvent(i, 0));
    return absl::CancelledError("stopped");
  };
  Start();
  const std::string id = Submit();
  for (int i = 0; i < 200; ++i) {
    auto alive = std::make_unique<std::atomic<int>>(0);
    auto stream = jobs_->WatchAnalysis(id, [&counter = *alive] { ++counter; });
    EIGSVC_ASSERT_OK(stream);
    stream->reset();
    alive.reset();  // a late callback would be a use after free, which the sanitizers see
  }
  EIGSVC_EXPECT_OK(Cancel(id));
  EXPECT_THAT(Wait(id), StatusIs(absl::StatusCode::kCancelled, HasSubstr("cancelled on request")));
}

TEST_F(JobsTest, EqualWatchersShareOneBuffer) {
  Start();
  const std::string id = Submit();
  EIGSVC_ASSERT_OK(Wait(id));
  bool ended = false;
  absl::Status status;
  std::vector<WireEvent> first;
  for (int i = 0; i < 2; ++i) {
    EIGSVC_ASSERT_OK_AND_ASSIGN(auto stream, jobs_->WatchAnalysis(id, [] {}));
    std::vector<WireEvent> events;
    while (WireEvent event = stream->Next(&ended, &status)) events.push_back(event);
    if (i == 0) first = events;
    EXPECT_EQ(events, first);  // pointers, not contents
  }
}

TEST_F(JobsTest, QueuedJobIsCancelledAtOnce) {
  RunUntilStopped();
  Start();
  const std::string running = Submit(), queued = Submit();
  ASSERT_TRUE(WaitForState(running, v1::JOB_STATE_RUNNING));
  EXPECT_EQ(jobs_->queue_depth(), 1);
  EIGSVC_EXPECT_OK(Cancel(queued));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const v1::Analysis analysis, jobs_->GetAnalysis(queued));
  EXPECT_EQ(analysis.state(), v1::JOB_STATE_CANCELLED);
  EXPECT_EQ(analysis.error().code(), static_cast<int>(absl::StatusCode::kCancelled));
  EXPECT_EQ(analysis.attempts(), 0);
  EXPECT_EQ(jobs_->queue_depth(), 0);
}

TEST_F(JobsTest, RunningJobIsCancelledWithin250Milliseconds) {
  RunUntilStopped();
  Start();
  const std::string id = Submit();
  ASSERT_TRUE(WaitForState(id, v1::JOB_STATE_RUNNING));
  const absl::Time asked = absl::Now();
  EIGSVC_EXPECT_OK(Cancel(id));
  EXPECT_THAT(Wait(id), StatusIs(absl::StatusCode::kCancelled, HasSubstr("on request")));
  EXPECT_LT(absl::Now() - asked, absl::Milliseconds(250));
  EXPECT_EQ(jobs_->GetAnalysis(id)->state(), v1::JOB_STATE_CANCELLED);
}

TEST_F(JobsTest, JobThatIgnoresACancelIsKilledAndTheNextOneRuns) {
  std::atomic<int> runs = 0;
  script_.analysis = [&](const auto&, FakeRun& run, const auto& on_event) -> absl::Status {
    if (runs++ > 0) {
      on_event(ResultEvent(1));
      return absl::OkStatus();
    }
    absl::Status status;
    do {  // deaf: only the death of its process ends it
      status = run.Sleep(absl::Milliseconds(1));
    } while (!absl::IsUnavailable(status));
    return status;
  };
  Start();
  const std::string id = Submit();
  // Until the script runs: the state says RUNNING a moment before.
  for (const absl::Time until = absl::Now() + kLong; runs == 0 && absl::Now() < until;) {
    absl::SleepFor(absl::Milliseconds(1));
  }
  ASSERT_EQ(runs, 1);
  EIGSVC_EXPECT_OK(Cancel(id));
  EXPECT_THAT(Wait(id), StatusIs(absl::StatusCode::kCancelled, HasSubstr("on request")));
  EIGSVC_EXPECT_OK(Wait(Submit()));
  EXPECT_EQ(script_.starts, 2);
}

TEST_F(JobsTest, CancelOfAFinishedJobLeavesItAlone) {
  Start();
  const std::string id = Submit();
  EIGSVC_ASSERT_OK(Wait(id));
  EIGSVC_EXPECT_OK(Cancel(id));
  EXPECT_EQ(jobs_->GetAnalysis(id)->state(), v1::JOB_STATE_SUCCEEDED);
}

TEST_F(JobsTest, DeadlineEndsARunningJob) {
  RunUntilStopped();
  Start();
  const std::string id = Submit(GoodSpec(), absl::Now() + absl::Milliseconds(300));
  EXPECT_THAT(Wait(id), StatusIs(absl::StatusCode::kDeadlineExceeded, HasSubstr("deadline passed")));
  EXPECT_EQ(jobs_->GetAnalysis(id)->state(), v1::JOB_STATE_CANCELLED);
}

TEST_F(JobsTest, DeadlineEndsAQueuedJob) {
  RunUntilStopped();
  Start();
  const std::string running = Submit();
  ASSERT_TRUE(WaitForState(running, v1::JOB_STATE_RUNNING));
  const std::string queued = Submit(GoodSpec(), absl::Now() + absl::Milliseconds(30));
  EXPECT_THAT(Wait(queued), StatusIs(absl::StatusCode::kDeadlineExceeded, HasSubstr("waited in the queue")));
  EXPECT_EQ(jobs_->GetAnalysis(queued)->attempts(), 0);
}

TEST_F(JobsTest, FullQueueRefuses) {
  options_.queue_capacity = 2;
  RunUntilStopped();
  Start();
  const std::string running = Submit();
  ASSERT_TRUE(WaitForState(running, v1::JOB_STATE_RUNNING));
  Submit();
  Submit();
  EXPECT_THAT(jobs_->SubmitAnalysis(GoodSpec(), absl::InfiniteFuture()),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("queue is full: 2")));
  EXPECT_EQ(jobs_->queue_depth(), 2);
}

TEST_F(JobsTest, DeathOfTheWorkerIsRetriedOnce) {
  std::atomic<int> runs = 0;
  script_.analysis = [&](const auto&, FakeRun& run, const auto& on_event) {
    on_event(ModelEvent());
    if (runs++ == 0) return run.Crash();
    on_event(ResultEvent(10));
    return absl::OkStatus();
  };
  Start();
  const std::string id = Submit();
  std::vector<std::string> kinds;
  EIGSVC_EXPECT_OK(Wait(id, &kinds));
  EXPECT_THAT(kinds, ElementsAre("accepted 0", "model mamba2", "result 10"));
  EXPECT_EQ(jobs_->GetAnalysis(id)->attempts(), 2);
}

TEST_F(JobsTest, SecondDeathIsTheEnd) {
  std::atomic<int> runs = 0;
  script_.analysis = [&](const auto&, FakeRun& run, const auto&) {
    ++runs;
    return run.Crash("signal 9");
  };
  Start();
  const std::string id = Submit();
  EXPECT_THAT(Wait(id), StatusIs(absl::StatusCode::kInternal, HasSubstr("died twice")));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const v1::Analysis analysis, jobs_->GetAnalysis(id));
  EXPECT_EQ(analysis.state(), v1::JOB_STATE_FAILED);
  EXPECT_EQ(analysis.attempts(), 2);
  EXPECT_EQ(runs, 2);
  script_.analysis = nullptr;  // never called again
}

TEST_F(JobsTest, WorkerThatNeverStartsEndsTheJobsThatWait) {
  script_.start = [] { return absl::UnavailableError("no such program"); };
  options_.worker_patience = absl::Milliseconds(100);
  Start();
  EXPECT_THAT(Wait(Submit()), StatusIs(absl::StatusCode::kUnavailable, HasSubstr("no such program")));
}

TEST_F(JobsTest, JobsGoToTheirDevice) {
  script_.analysis = [](const worker::v1::RunAnalysisRequest& request, FakeRun& run, const auto& on_event) {
    if (request.spec().device() == "cuda:0") return run.Sleep(absl::Seconds(60));
    on_event(ResultEvent(1));
    return absl::OkStatus();
  };
  Start({"cpu", "cuda:0"});
  v1::AnalysisSpec on_gpu = GoodSpec(), on_cpu = GoodSpec();
  on_gpu.set_device("cuda:0");
  on_cpu.set_device("cpu");
  const std::string first = Submit(on_gpu), waiting = Submit(on_gpu);
  ASSERT_TRUE(WaitForState(first, v1::JOB_STATE_RUNNING));
  EIGSVC_EXPECT_OK(Wait(Submit(on_cpu)));      // passes the one that waits for the GPU
  EIGSVC_EXPECT_OK(Wait(Submit(GoodSpec())));  // any
  EXPECT_EQ(jobs_->GetAnalysis(waiting)->state(), v1::JOB_STATE_QUEUED);
}

TEST_F(JobsTest, OldestResultsAreForgottenWithTheirFiles) {
  options_.result_memory_bytes = 100'000;
  script_.analysis = [](const auto&, FakeRun&, const auto& on_event) {
    on_event(ResultEvent(1, /*sites=*/4, /*bins=*/1000));  // about 40 kB
    return absl::OkStatus();
  };
  Start();
  v1::AnalysisSpec spec = GoodSpec();
  spec.set_keep_eigenvalues(true);
  std::vector<std::string> ids;
  for (int i = 0; i < 4; ++i) {
    ids.push_back(Submit(spec));
    EIGSVC_ASSERT_OK(Wait(ids.back()));
  }
  // The end is told before the accounts are done.
  for (const absl::Time until = absl::Now() + kLong; store_.spooled().size() > 2 && absl::Now() < until;) {
    absl::SleepFor(absl::Milliseconds(1));
  }
  EXPECT_THAT(jobs_->GetAnalysis(ids[0]), StatusIs(absl::StatusCode::kNotFound, HasSubstr("forgotten")));
  EXPECT_THAT(jobs_->GetAnalysis(ids[1]), StatusIs(absl::StatusCode::kNotFound, HasSubstr("forgotten")));
  EIGSVC_EXPECT_OK(jobs_->GetAnalysis(ids[3]));
  EXPECT_THAT(store_.spooled(), ::testing::UnorderedElementsAre(ids[2], ids[3]));
}

TEST_F(JobsTest, ListPagesNewestFirstWithoutSpectra) {
  Start();
  std::vector<std::string> ids;
  for (int i = 0; i < 5; ++i) {
    ids.push_back(Submit());
    EIGSVC_ASSERT_OK(Wait(ids.back()));
  }
  std::vector<std::string> listed;
  std::string token;
  int pages = 0;
  do {
    EIGSVC_ASSERT_OK_AND_ASSIGN(const Page<v1::Analysis> page, jobs_->ListAnalyses(2, token));
    for (const v1::Analysis& analysis : page.records) {
      listed.push_back(analysis.analysis_id());
      EXPECT_EQ(analysis.result().sites_size(), 0);
      EXPECT_EQ(analysis.result().eigenvalues(), 10);
    }
    token = page.next_page_token;
    ++pages;
  } while (!token.empty());
  EXPECT_EQ(pages, 3);
  EXPECT_THAT(listed, ElementsAre(ids[4], ids[3], ids[2], ids[1], ids[0]));
  EXPECT_THAT(jobs_->ListAnalyses(2, "bogus"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("page_token")));
  EXPECT_THAT(jobs_->ListAnalyses(-1, ""),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("page_size")));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Page<v1::Analysis> page, jobs_->ListAnalyses(2, ""));
  EXPECT_THAT(jobs_->ListTrainings(2, page.next_page_token),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("page_token")));
}

TEST_F(JobsTest, EigenvaluesNeedAFinishedAnalysisThatKeptThem) {
  std::atomic<bool> stop = true;
  script_.analysis = [&](const worker::v1::RunAnalysisRequest& request, FakeRun& run, const auto& on_event) {
    EXPECT_EQ(request.export_path().empty(), !request.spec().keep_eigenvalues());
    EXPECT_EQ(request.max_export_bytes(), request.spec().keep_eigenvalues() ? 1000 : 0);  // the spool's rest
    if (stop) return run.Sleep(absl::Seconds(60));
    on_event(ResultEvent(1));
    return absl::OkStatus();
  };
  Start();
  v1::AnalysisSpec keep = GoodSpec();
  keep.set_keep_eigenvalues(true);
  const std::string running = Submit(keep);
  ASSERT_TRUE(WaitForState(running, v1::JOB_STATE_RUNNING));
  EXPECT_THAT(jobs_->EigenvaluesPath(running),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("not finished")));
  EIGSVC_EXPECT_OK(Cancel(running));
  EXPECT_THAT(Wait(running), StatusIs(absl::StatusCode::kCancelled, HasSubstr("")));
  EXPECT_TRUE(store_.spooled().empty());  // a job that failed leaves no file
  stop = false;
  const std::string kept = Submit(keep), none = Submit();
  EIGSVC_ASSERT_OK(Wait(kept));
  EIGSVC_ASSERT_OK(Wait(none));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const std::string path, jobs_->EigenvaluesPath(kept));
  EXPECT_EQ(path, absl::StrCat("/spool/", kept, "/eigenvalues.safetensors"));
  EXPECT_THAT(jobs_->EigenvaluesPath(none),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("keep_eigenvalues")));
  EXPECT_THAT(jobs_->EigenvaluesPath("an-0"), StatusIs(absl::StatusCode::kNotFound, HasSubstr("an-0")));
}

TEST_F(JobsTest, TrainedCheckpointsEnterTheStore) {
  Start();
  const v1::Training training = WaitForTraining(SubmitTraining(), v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(training.result().best_sha256(), kBest);
  EXPECT_EQ(training.result().last_sha256(), kLast);
  EXPECT_EQ(training.last_sha256(), "") << "that is for those that did not succeed";
}

TEST_F(JobsTest, ACancelledTrainingLeavesItsLastCheckpoint) {
  script_.training = [this](const worker::v1::RunTrainingRequest& request, FakeRun& run, const auto&) {
    const absl::Status stopped = run.Sleep(absl::Seconds(60));
    store_.Write(request.last_path());
    return stopped;
  };
  Start();
  const std::string id = SubmitTraining();
  WaitForTraining(id, v1::JOB_STATE_RUNNING);
  EIGSVC_EXPECT_OK(jobs_->CancelTraining(id, absl::CancelledError("cancelled on request")));
  const v1::Training training = WaitForTraining(id, v1::JOB_STATE_CANCELLED);
  EXPECT_EQ(training.last_sha256(), kLast);
  EXPECT_EQ(training.best_sha256(), "") << "it was not evaluated";
  EXPECT_FALSE(training.has_result());
  EXPECT_EQ(training.error().message(), "cancelled on request");
  EIGSVC_EXPECT_OK(store_.ResolveDigest(StoreKind::kCheckpoint, training.last_sha256()));
  EXPECT_TRUE(store_.spooled().empty());
}

TEST_F(JobsTest, AFailedTrainingLeavesWhatItsLastEvaluationWrote) {
  script_.training = [this](const worker::v1::RunTrainingRequest& request, FakeRun&, const auto&) {
    for (const std::string& path : {request.output_path(), request.last_path()}) store_.Write(path);
    return absl::AbortedError("step 7: the loss is nan");
  };
  Start();
  const v1::Training training = WaitForTraining(SubmitTraining(), v1::JOB_STATE_FAILED);
  EXPECT_EQ(training.last_sha256(), kLast);
  EXPECT_EQ(training.best_sha256(), kBest);
}

TEST_F(JobsTest, ADeadWorkersCheckpointOutlivesTheRetry) {
  std::atomic<int> runs = 0;
  script_.training = [&](const worker::v1::RunTrainingRequest& request, FakeRun& run, const auto&) {
    if (runs++ == 0) store_.Write(request.last_path());
    return run.Crash();  // the second time before its first evaluation
  };
  Start();
  const v1::Training training = WaitForTraining(SubmitTraining(), v1::JOB_STATE_FAILED);
  EXPECT_EQ(runs, 2);
  EXPECT_EQ(training.last_sha256(), kLast);
}

TEST_F(JobsTest, ARetryThatSucceedsNamesItsOwnCheckpointsOnly) {
  std::atomic<int> runs = 0;
  const auto succeed = script_.training;
  script_.training = [&](const worker::v1::RunTrainingRequest& request, FakeRun& run, const auto& on_event) {
    if (runs++ > 0) return succeed(request, run, on_event);
    store_.Write(request.last_path());
    return run.Crash();
  };
  Start();
  const v1::Training training = WaitForTraining(SubmitTraining(), v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(training.result().last_sha256(), kLast);
  EXPECT_EQ(training.last_sha256(), "");
}

TEST_F(JobsTest, ACheckpointThatCannotBeKeptIsSaid) {
  store_.full = true;
  script_.training = [this](const worker::v1::RunTrainingRequest& request, FakeRun&, const auto&) {
    store_.Write(request.last_path());
    return absl::AbortedError("step 7: the loss is nan");
  };
  Start();
  const v1::Training training = WaitForTraining(SubmitTraining(), v1::JOB_STATE_FAILED);
  EXPECT_EQ(training.last_sha256(), "");
  EXPECT_THAT(training.error().message(),
              HasSubstr("the loss is nan; its checkpoints were not kept: no room"));
}

TEST_F(JobsTest, WorkerThatEndsWithoutAResultIsAnError) {
  script_.analysis = [](const auto&, FakeRun&, const auto&) { return absl::OkStatus(); };
  Start();
  EXPECT_THAT(Wait(Submit()), StatusIs(absl::StatusCode::kInternal, HasSubstr("without a result")));
}

TEST_F(JobsTest, AnErrorAfterAResultIsAnError) {
  script_.analysis = [](const auto&, FakeRun&, const auto& on_event) {
    on_event(ResultEvent(1));
    return absl::DataLossError("damaged after all");
  };
  Start();
  const std::string id = Submit();
  std::vector<std::string> kinds;
  EXPECT_THAT(Wait(id, &kinds), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("damaged")));
  EXPECT_THAT(kinds, ElementsAre("accepted 0"));
  EXPECT_FALSE(jobs_->GetAnalysis(id)->has_result());
}

TEST_F(JobsTest, MessagesNameWhatTheClientNamedAndNoPathOfTheServer) {
  script_.analysis = [](const worker::v1::RunAnalysisRequest& request, FakeRun&, const auto&) {
    return absl::InvalidArgumentError(absl::StrCat(request.data_path(), ", line 3: no id; ",
                                                   request.checkpoint().path(), " and ",
                                                   request.export_path()));
  };
  Start();
  v1::AnalysisSpec spec = GoodSpec();
  spec.mutable_task()->set_name("next-token");
  spec.mutable_task()->mutable_data()->set_name("sub/ids.npy");
  spec.set_keep_eigenvalues(true);
  EXPECT_THAT(Wait(Submit(spec)), StatusIs(absl::StatusCode::kInvalidArgument,
                                           "sub/ids.npy, line 3: no id; known.safetensors and the file of "
                                           "kept eigenvalues"));
  // A private server's client named the path itself.
  store_.allow_local = true;
  spec.mutable_task()->mutable_data()->set_local_path("/home/me/ids.npy");
  EXPECT_THAT(Wait(Submit(spec)),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("/home/me/ids.npy, line 3")));
}

TEST_F(JobsTest, MessagesThatAreNotUtf8AreMended) {
  script_.analysis = [](const auto&, FakeRun&, const auto&) {
    return absl::DataLossError("key \xFF is damaged");
  };
  Start();
  const std::string id = Submit();
  EXPECT_THAT(Wait(id), StatusIs(absl::StatusCode::kDataLoss, "key \xEF\xBF\xBD is damaged"));
}

TEST_F(JobsTest, RefusalsNameWhatIsKnown) {
  Start();
  ASSERT_TRUE(workers_[0]->WaitUntilReady(kLong));
  v1::AnalysisSpec spec = GoodSpec();
  spec.mutable_task()->set_name("listops");
  EXPECT_THAT(jobs_->SubmitAnalysis(spec, absl::InfiniteFuture()),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("known: mqar, next-token")));
  spec = GoodSpec();
  spec.mutable_checkpoint()->set_name("other");
  EXPECT_THAT(jobs_->SubmitAnalysis(spec, absl::InfiniteFuture()),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("known.safetensors")));
  spec.mutable_checkpoint()->set_local_path("/etc/passwd");
  EXPECT_THAT(jobs_->SubmitAnalysis(spec, absl::InfiniteFuture()),
              StatusIs(absl::StatusCode::kPermissionDenied, HasSubstr("private")));
  EXPECT_THAT(jobs_->GetAnalysis("an-nope"), StatusIs(absl::StatusCode::kNotFound, HasSubstr("an-nope")));
  EXPECT_THAT(Cancel("an-nope"), StatusIs(absl::StatusCode::kNotFound, HasSubstr("list them")));
  EXPECT_THAT(jobs_->GetTraining(""), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("training_id")));
}

TEST_F(JobsTest, ShutdownLetsARunningJobFinish) {
  script_.analysis = [](const auto&, FakeRun& run, const auto& on_event) {
    EIGSVC_EXPECT_OK(run.Sleep(absl::Milliseconds(100)));
    on_event(ResultEvent(1));
    return absl::OkStatus();
  };
  Start();
  const std::string running = Submit();
  ASSERT_TRUE(WaitForState(running, v1::JOB_STATE_RUNNING));
  const std::string queued = Submit();
  jobs_->Shutdown(absl::Now() + kLong);
  EXPECT_EQ(jobs_->GetAnalysis(running)->state(), v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(jobs_->GetAnalysis(queued)->error().code(), static_cast<int>(absl::StatusCode::kUnavailable));
  EXPECT_THAT(jobs_->SubmitAnalysis(GoodSpec(), absl::InfiniteFuture()),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("shutting down")));
}

TEST_F(JobsTest, ShutdownCancelsWhatDoesNotFinish) {
  RunUntilStopped();
  Start();
  const std::string id = Submit();
  ASSERT_TRUE(WaitForState(id, v1::JOB_STATE_RUNNING));
  const absl::Time start = absl::Now();
  jobs_->Shutdown(start + absl::Milliseconds(50));
  EXPECT_LT(absl::Now() - start, absl::Seconds(2));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const v1::Analysis analysis, jobs_->GetAnalysis(id));
  EXPECT_EQ(analysis.error().code(), static_cast<int>(absl::StatusCode::kUnavailable));
  EXPECT_THAT(analysis.error().message(), HasSubstr("shut down"));
}

TEST_F(JobsTest, StreamsOutliveJobs) {
  RunUntilStopped();
  Start();
  const std::string id = Submit();
  EIGSVC_ASSERT_OK_AND_ASSIGN(auto stream, jobs_->WatchAnalysis(id, [] {}));
  jobs_.reset();
  bool ended = false;
  absl::Status status;
  while (stream->Next(&ended, &status) != nullptr) {
  }
  EXPECT_TRUE(ended);
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kUnavailable, HasSubstr("shut")));
}

TEST_F(JobsTest, SurvivesManyClientsAtOnce) {
  std::atomic<int> runs = 0;
  script_.analysis = [&](const auto&, FakeRun& run, const auto& on_event) -> absl::Status {
    const int n = runs++;
    on_event(ModelEvent());
    for (int i = 0; i < 5; ++i) on_event(ProgressEvent(i, 5));
    if (n % 7 == 3) return run.Crash();
    if (n % 3 == 1) return run.Sleep(absl::Milliseconds(2));
    on_event(ResultEvent(1));
    return absl::OkStatus();
  };
  options_.queue_capacity = 1000;
  options_.result_memory_bytes = 200'000;
  Start({"cpu", "cuda:0"});
  std::vector<std::thread> clients;
  std::atomic<int> ended = 0;
  for (int c = 0; c < 8; ++c) {
    clients.emplace_back([&, c] {
      for (int i = 0; i < 10; ++i) {
        const std::string id = Submit();
        if ((i + c) % 4 == 0) (void)Cancel(id);
        (void)jobs_->ListAnalyses(3, "");
        const absl::Status status = Wait(id);
        if (status.code() != absl::StatusCode::kUnknown) ++ended;
      }
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(ended, 80);
  EXPECT_EQ(jobs_->queue_depth(), 0);
}

}  // namespace
}  // namespace eigsvc
