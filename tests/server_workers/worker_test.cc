// Supervision against scripted fakes (fakes.h). Runs under ThreadSanitizer, so limits of time are generous
// upwards.
#include "server/workers/worker.h"

#include <atomic>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tests/server_workers/fakes.h"
#include "tests/testing/status_matchers.h"

namespace eigsvc {
namespace {

using ::eigsvc::testing::FakeLauncher;
using ::eigsvc::testing::IsOk;
using ::eigsvc::testing::StatusIs;
using ::testing::_;
using ::testing::AllOf;
using ::testing::AnyOf;
using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::Not;
using State = Worker::State;
constexpr absl::StatusCode kCancelled = absl::StatusCode::kCancelled;
constexpr absl::StatusCode kDeadline = absl::StatusCode::kDeadlineExceeded;
constexpr absl::StatusCode kUnavailable = absl::StatusCode::kUnavailable;

std::string DeathCause(const absl::Status& status) {
  const auto payload = status.GetPayload(kWorkerDiedUrl);
  return payload.has_value() ? std::string(*payload) : "no payload";
}

class WorkerTest : public ::testing::Test {
 protected:
  std::unique_ptr<Worker> Start() { return std::make_unique<Worker>(options_, fakes_.launcher(), &metrics_); }
  std::unique_ptr<Worker> StartReady() {
    auto worker = Start();
    EXPECT_TRUE(worker->WaitUntilReady(absl::Seconds(10)));
    return worker;
  }
  static absl::Status Run(Worker& worker, const std::string& script, CallControl& control,
                          int* events = nullptr) {
    worker::v1::RunAnalysisRequest request;
    request.set_analysis_id(script);
    return worker.RunAnalysis(request, control, [&](worker::v1::RunAnalysisResponse) {
      if (events != nullptr) ++*events;
    });
  }
  static absl::Status Run(Worker& worker, const std::string& script) {
    CallControl control;
    return Run(worker, script, control);
  }
  static absl::Status Inspect(Worker& worker, const std::string& script, CallControl& control) {
    worker::v1::InspectRequest request;
    request.mutable_checkpoint()->set_path(script);
    return worker.Inspect(request, control).status();
  }
  static absl::Status Load(Worker& worker, const std::string& script, CallControl& control) {
    worker::v1::LoadRequest request;
    request.mutable_checkpoint()->set_path(script);
    return worker.Load(request, control).status();
  }
  bool SideWorks() {
    auto host = fakes_.host();
    std::lock_guard<std::mutex> lock(host->mutex);
    return host->side.At() != 0;
  }
  // Polls, as the outside would.
  template <typename Condition>
  static bool Eventually(Condition condition) {
    for (int i = 0; i < 5000; ++i) {
      if (condition()) return true;
      absl::SleepFor(absl::Milliseconds(2));
    }
    return false;
  }
  static bool WaitForState(Worker& worker, State state) {
    return Eventually([&] { return worker.snapshot().state == state; });
  }
  std::string Scrape() { return metrics_.Serialize(); }

  WorkerOptions options_{.device = "fake",
                         .cancel_grace = absl::Milliseconds(200),
                         .start_timeout = absl::Seconds(10),
                         .first_backoff = absl::Milliseconds(5),
                         .heartbeat = absl::Seconds(60)};
  FakeLauncher fakes_;
  Metrics metrics_;
};

TEST_F(WorkerTest, ComesUpAndDescribesItself) {
  auto worker = StartReady();
  const Worker::Snapshot snapshot = worker->snapshot();
  EXPECT_EQ(snapshot.state, State::kIdle);
  EXPECT_EQ(snapshot.pid, 1001);
  EXPECT_EQ(snapshot.restart_count, 0);
  EXPECT_EQ(snapshot.description, "a fake device");
  EXPECT_EQ(snapshot.problem, "");
  EXPECT_EQ(worker->device(), "fake");
  EIGSVC_ASSERT_OK_AND_ASSIGN(auto catalog, worker->GetCatalog());
  EXPECT_EQ(catalog.models(0).name(), "mamba2");
  EXPECT_THAT(Scrape(), HasSubstr("eigsvc_worker_up{device=\"fake\"} 1"));
}

TEST_F(WorkerTest, DeliversEventsOnTheCallersThread) {
  auto worker = StartReady();
  worker::v1::RunAnalysisRequest request;
  request.set_analysis_id("events 5");
  CallControl control;
  int events = 0;
  const auto caller = std::this_thread::get_id();
  EIGSVC_EXPECT_OK(worker->RunAnalysis(request, control, [&](worker::v1::RunAnalysisResponse response) {
    EXPECT_EQ(std::this_thread::get_id(), caller);
    EXPECT_TRUE(response.event().has_progress());
    EXPECT_EQ(worker->snapshot().state, State::kBusy);
    EXPECT_THAT(Scrape(), HasSubstr("eigsvc_worker_busy{device=\"fake\"} 1"));
    ++events;
  }));
  EXPECT_EQ(events, 5);
  EXPECT_EQ(worker->snapshot().state, State::kIdle);
  EXPECT_THAT(Scrape(), HasSubstr("eigsvc_worker_busy{device=\"fake\"} 0"));
}

TEST_F(WorkerTest, TheWorkersOwnErrorsPassThrough) {
  auto worker = StartReady();
  for (absl::StatusCode code :
       {absl::StatusCode::kInvalidArgument, absl::StatusCode::kNotFound, absl::StatusCode::kDataLoss,
        absl::StatusCode::kResourceExhausted, absl::StatusCode::kInternal, kUnavailable,
        absl::StatusCode::kUnknown, kCancelled, kDeadline}) {
    const absl::Status status = Run(*worker, absl::StrCat("error ", static_cast<int>(code)));
    EXPECT_THAT(status, StatusIs(code, HasSubstr("as scripted")));
    EXPECT_EQ(DeathCause(status), "no payload");
  }
  EXPECT_EQ(worker->snapshot().restart_count, 0);
}

TEST_F(WorkerTest, AllKindsOfCallsReachTheTransport) {
  auto worker = StartReady();
  CallControl control;
  worker::v1::RunTrainingRequest training;
  training.set_training_id("events 1");
  int events = 0;
  EIGSVC_EXPECT_OK(
      worker->RunTraining(training, control, [&](worker::v1::RunTrainingResponse) { ++events; }));
  EXPECT_EQ(events, 1);
  EIGSVC_ASSERT_OK_AND_ASSIGN(auto inspected, worker->Inspect({}, control));
  EXPECT_EQ(inspected.inspection().family(), "mamba2");
  EIGSVC_ASSERT_OK_AND_ASSIGN(auto loaded, worker->Load({}, control));
  EXPECT_EQ(loaded.model().model_id(), "loaded");
  EIGSVC_ASSERT_OK_AND_ASSIGN(auto list, worker->ListLoaded());
  EXPECT_EQ(list.models_size(), 1);
  worker::v1::UnloadRequest unload;
  unload.set_model_id("loaded");
  EIGSVC_EXPECT_OK(worker->Unload(unload));
  unload.set_model_id("other");
  EXPECT_THAT(worker->Unload(unload), StatusIs(absl::StatusCode::kNotFound, _));
}

TEST_F(WorkerTest, ACancelledCallReturnsWhenTheDeviceIsIdle) {
  fakes_.options.stop_delay = absl::Milliseconds(60);
  auto worker = StartReady();
  CallControl control;
  std::thread canceller([&] {
    EXPECT_TRUE(WaitForState(*worker, State::kBusy));
    absl::SleepFor(absl::Milliseconds(20));
    control.Cancel();
  });
  EXPECT_THAT(Run(*worker, "wait", control), StatusIs(kCancelled, Not(HasSubstr("killed"))));
  {
    auto host = fakes_.host();
    std::lock_guard<std::mutex> lock(host->mutex);
    EXPECT_EQ(host->job.At(), 0) << "it came back while the device was busy";
    EXPECT_FALSE(host->exited);
  }
  canceller.join();
  EXPECT_EQ(worker->snapshot().restart_count, 0);
  EIGSVC_EXPECT_OK(Run(*worker, "events 1"));
}

TEST_F(WorkerTest, AnAlreadyCancelledCallDoesNotRun) {
  auto worker = StartReady();
  CallControl control;
  control.Cancel();
  EXPECT_THAT(Run(*worker, "crash", control), StatusIs(kCancelled, _));
  EXPECT_EQ(worker->snapshot().restart_count, 0);
}

// gRPC answers a cancel by itself; the device may go on. And a transport may not even answer.
TEST_F(WorkerTest, AWorkerThatDoesNotStopIsKilledAndReplacedAtOnce) {
  int restarts = 0;
  for (const char* script : {"busy", "deaf"}) {
    SCOPED_TRACE(script);
    auto worker = StartReady();
    CallControl control;
    absl::Time cancelled_at;
    std::thread canceller([&] {
      EXPECT_TRUE(WaitForState(*worker, State::kBusy));
      absl::SleepFor(absl::Milliseconds(20));
      cancelled_at = absl::Now();
      control.Cancel();
    });
    const absl::Status status = Run(*worker, script, control);
    canceller.join();
    const absl::Duration took = absl::Now() - cancelled_at;
    EXPECT_THAT(status,
                StatusIs(kCancelled, AllOf(HasSubstr("did not stop within 200ms"), HasSubstr("killed"))));
    EXPECT_EQ(DeathCause(status), "no payload") << "a cancelled job must not be retried";
    EXPECT_GE(took, options_.cancel_grace);
    EXPECT_LT(took, options_.cancel_grace + absl::Seconds(2));
    EIGSVC_EXPECT_OK(Run(*worker, "events 1"));
    EXPECT_EQ(worker->snapshot().restart_count, 1);
    EXPECT_THAT(Scrape(),
                HasSubstr(absl::StrCat(
                    "eigsvc_worker_restarts_total{cause=\"cancel_ignored\",device=\"fake\"} ", ++restarts)));
  }
}

TEST_F(WorkerTest, ADeadlineStopsLikeACancel) {
  fakes_.options.stop_delay = absl::Milliseconds(30);
  auto worker = StartReady();
  {
    CallControl control(absl::Now() + absl::Milliseconds(50));
    EXPECT_THAT(Run(*worker, "wait", control), StatusIs(kDeadline, Not(HasSubstr("killed"))));
    EXPECT_EQ(worker->snapshot().restart_count, 0);
  }
  for (const char* script : {"busy", "deaf"}) {
    CallControl control(absl::Now() + absl::Milliseconds(50));
    EXPECT_THAT(Run(*worker, script, control), StatusIs(kDeadline, HasSubstr("killed"))) << script;
    EXPECT_TRUE(worker->WaitUntilReady(absl::Seconds(10)));
  }
}

TEST_F(WorkerTest, ADeathUnderTheCallIsToldWithItsCause) {
  auto worker = StartReady();
  const absl::Status status = Run(*worker, "crash");
  EXPECT_THAT(status,
              StatusIs(kUnavailable, AllOf(HasSubstr("worker on fake died"), HasSubstr("signal 11"))));
  EXPECT_EQ(DeathCause(status), "signal 11");
  // The next call waits for the next process.
  EIGSVC_EXPECT_OK(Run(*worker, "events 1"));
  EXPECT_EQ(worker->snapshot().restart_count, 1);
  EXPECT_EQ(worker->snapshot().pid, 1002);
  EXPECT_THAT(Scrape(), HasSubstr("eigsvc_worker_restarts_total{cause=\"signal\",device=\"fake\"} 1"));
}

TEST_F(WorkerTest, ADeathIsNoticedByCallsThatHearNothing) {
  auto worker = StartReady();
  for (const char* script : {"wait", "deaf", "mute"}) {
    EXPECT_TRUE(worker->WaitUntilReady(absl::Seconds(10)));
    std::thread killer([&] {
      EXPECT_TRUE(WaitForState(*worker, State::kBusy));
      fakes_.host()->End("exit 70");
    });
    const absl::Status status = Run(*worker, script);
    killer.join();
    EXPECT_EQ(DeathCause(status), "exit 70") << status;
    EXPECT_THAT(status, StatusIs(kUnavailable, HasSubstr("exit 70, a CUDA error")));
  }
}

TEST_F(WorkerTest, ALostConnectionEndsTheProcess) {
  auto worker = StartReady();
  const absl::Status status = Run(*worker, "hang up");
  EXPECT_THAT(status, StatusIs(kUnavailable, HasSubstr("died")));
  EXPECT_EQ(DeathCause(status), "connection_lost");
  EIGSVC_EXPECT_OK(Run(*worker, "events 1"));
  EXPECT_THAT(Scrape(), HasSubstr("cause=\"connection_lost\""));
}

TEST_F(WorkerTest, CallsWaitForASlowStart) {
  fakes_.options.start_delay = absl::Milliseconds(150);
  auto worker = Start();
  EXPECT_EQ(worker->snapshot().state, State::kStarting);
  {
    CallControl control(absl::Now() + absl::Milliseconds(20));
    EXPECT_THAT(Run(*worker, "events 1", control),
                StatusIs(kDeadline, HasSubstr("before the worker on fake was up")));
  }
  {
    CallControl control;
    std::thread canceller([&] { control.Cancel(); });
    EXPECT_THAT(Run(*worker, "crash", control), StatusIs(kCancelled, _));
    canceller.join();
  }
  EIGSVC_EXPECT_OK(Run(*worker, "events 1"));
  EIGSVC_EXPECT_OK(worker->GetCatalog());
  EXPECT_EQ(worker->snapshot().restart_count, 0);
}

TEST_F(WorkerTest, ABinaryThatCannotRunIsSaidAndTriedAgainWithGrowingPauses) {
  fakes_.failures = 5;
  auto worker = Start();
  EXPECT_THAT(Run(*worker, "events 1"),
              StatusIs(kUnavailable, AllOf(HasSubstr("does not start"), HasSubstr("/no/such/worker"))));
  EXPECT_THAT(worker->snapshot().problem, HasSubstr("/no/such/worker"));
  EXPECT_THAT(worker->GetCatalog(), StatusIs(kUnavailable, HasSubstr("/no/such/worker")));
  EXPECT_THAT(worker->ListLoaded(), StatusIs(kUnavailable, HasSubstr("/no/such/worker")));
  EXPECT_TRUE(worker->WaitUntilReady(absl::Seconds(10)));
  EXPECT_EQ(worker->snapshot().problem, "");
  const std::vector<absl::Time> times = fakes_.launch_times();
  ASSERT_EQ(times.size(), 6u);
  for (int i = 1; i < 6; ++i)
    EXPECT_GE(times[i] - times[i - 1], options_.first_backoff * (1 << (i - 1))) << i;
  EXPECT_THAT(Scrape(), HasSubstr("eigsvc_worker_restarts_total{cause=\"launch_failed\",device=\"fake\"} 5"));
}

TEST_F(WorkerTest, AProcessThatEndsWhileStartingIsAFailedStart) {
  fakes_.options.exits_at_start = "exit 70";
  auto worker = Start();
  EXPECT_THAT(Run(*worker, "events 1"), StatusIs(kUnavailable, HasSubstr("ended while starting (exit 70)")));
}

TEST_F(WorkerTest, AProcessThatNeverAnswersIsKilled) {
  options_.start_timeout = absl::Milliseconds(100);
  fakes_.options.start_delay = absl::Hours(1);
  auto worker = Start();
  EXPECT_THAT(Run(*worker, "events 1"), StatusIs(kUnavailable, HasSubstr("did not answer within 100ms")));
  EXPECT_THAT(Scrape(), HasSubstr("cause=\"start_failed\""));
}

TEST_F(WorkerTest, AnUnresponsiveProcessIsKilledAndItsCallTold) {
  options_.heartbeat = absl::Milliseconds(20);
  auto worker = StartReady();
  std::thread silencer([&] {
    EXPECT_TRUE(WaitForState(*worker, State::kBusy));
    fakes_.answers = false;
    EXPECT_TRUE(Eventually([&] { return worker->snapshot().restart_count > 0; }));
    fakes_.answers = true;
  });
  const absl::Status status = Run(*worker, "deaf");
  silencer.join();
  EXPECT_EQ(DeathCause(status), "unresponsive") << status;
  EIGSVC_EXPECT_OK(Run(*worker, "events 1"));
}

TEST_F(WorkerTest, HeartbeatsLeaveAHealthyProcessAlone) {
  options_.heartbeat = absl::Milliseconds(2);
  auto worker = StartReady();
  absl::SleepFor(absl::Milliseconds(200));
  EXPECT_EQ(worker->snapshot().restart_count, 0);
}

TEST_F(WorkerTest, CancellingAnInspectionLeavesTheRunningJobAlone) {
  auto worker = StartReady();
  CallControl job;
  std::thread runner(
      [&] { EXPECT_THAT(Run(*worker, "wait", job), StatusIs(kCancelled, Not(HasSubstr("killed")))); });
  EXPECT_TRUE(WaitForState(*worker, State::kBusy));
  CallControl control(absl::Now() + absl::Milliseconds(20));
  EXPECT_THAT(Inspect(*worker, "wait", control), StatusIs(kDeadline, Not(HasSubstr("killed"))));
  EXPECT_EQ(worker->snapshot().restart_count, 0);
  EXPECT_EQ(worker->snapshot().state, State::kBusy);
  job.Cancel();
  runner.join();
}

// The worker takes one job at a time: the next one must not come before it has left this one.
TEST_F(WorkerTest, ACancelledJobReturnsWhenTheDeviceIsIdleWhateverRunsBeside) {
  fakes_.options.stop_delay = absl::Milliseconds(60);
  auto worker = StartReady();
  CallControl load, job;
  std::thread loader([&] { EXPECT_THAT(Load(*worker, "wait", load), StatusIs(kCancelled, _)); });
  EXPECT_TRUE(Eventually([&] { return SideWorks(); }));
  std::thread canceller([&] {
    EXPECT_TRUE(WaitForState(*worker, State::kBusy));
    job.Cancel();
  });
  EXPECT_THAT(Run(*worker, "wait", job), StatusIs(kCancelled, Not(HasSubstr("killed"))));
  EIGSVC_EXPECT_OK(Run(*worker, "events 1"));
  canceller.join();
  EXPECT_TRUE(SideWorks()) << "the load is none of the job's business";
  load.Cancel();
  loader.join();
  EXPECT_EQ(worker->snapshot().restart_count, 0);
}

TEST_F(WorkerTest, AJobThatDoesNotStopIsKilledWhateverRunsBeside) {
  auto worker = StartReady();
  CallControl inspection, job;
  absl::Status inspected;
  std::thread inspector([&] { inspected = Inspect(*worker, "wait", inspection); });
  EXPECT_TRUE(Eventually([&] { return SideWorks(); }));
  std::thread canceller([&] {
    EXPECT_TRUE(WaitForState(*worker, State::kBusy));
    job.Cancel();
  });
  EXPECT_THAT(Run(*worker, "busy", job), StatusIs(kCancelled, HasSubstr("killed")));
  canceller.join();
  inspector.join();
  EXPECT_EQ(DeathCause(inspected), "cancel_ignored") << inspected;
}

TEST_F(WorkerTest, AnInspectionOrLoadThatHangsIsEnded) {
  auto worker = StartReady();
  for (auto* call : {&Inspect, &Load}) {
    for (const char* script : {"busy", "deaf"}) {
      CallControl control(absl::Now() + absl::Milliseconds(20));
      EXPECT_THAT((*call)(*worker, script, control), StatusIs(kDeadline, HasSubstr("killed")));
      EIGSVC_EXPECT_OK(Run(*worker, "events 1"));
    }
  }
  EXPECT_EQ(worker->snapshot().restart_count, 4);
}

TEST_F(WorkerTest, AHungLoadIsEndedUnderAJobWhichIsToldWhy) {
  auto worker = StartReady();
  absl::Status status;
  std::thread runner([&] { status = Run(*worker, "wait"); });
  EXPECT_TRUE(WaitForState(*worker, State::kBusy));
  CallControl control(absl::Now() + absl::Milliseconds(20));
  EXPECT_THAT(Load(*worker, "busy", control), StatusIs(kDeadline, HasSubstr("killed")));
  runner.join();
  EXPECT_EQ(DeathCause(status), "cancel_ignored") << "so that it is tried again: " << status;
}

TEST_F(WorkerTest, ACallThatWaitsForItsTurnIsCancelledWithoutAKill) {
  auto worker = StartReady();
  CallControl first;
  std::thread loader([&] { EXPECT_THAT(Load(*worker, "wait", first), StatusIs(kCancelled, _)); });
  EXPECT_TRUE(Eventually([&] { return SideWorks(); }));
  CallControl second(absl::Now() + absl::Milliseconds(20));
  EXPECT_THAT(Inspect(*worker, "wait", second), StatusIs(kDeadline, Not(HasSubstr("killed"))));
  EXPECT_TRUE(SideWorks());
  first.Cancel();
  loader.join();
  EXPECT_EQ(worker->snapshot().restart_count, 0);
}

TEST_F(WorkerTest, EndsItsProcessPolitelyAndThenNot) {
  {
    auto worker = StartReady();
    auto host = fakes_.host();
    worker.reset();
    EXPECT_EQ(host->cause, "exit 0");
  }
  fakes_.options.ignores_terminate = true;
  auto worker = StartReady();
  auto host = fakes_.host();
  const absl::Time start = absl::Now();
  worker.reset();
  EXPECT_EQ(host->cause, "signal 9");
  EXPECT_GE(absl::Now() - start, absl::Seconds(1));
  EXPECT_THAT(Scrape(), HasSubstr("eigsvc_worker_up{device=\"fake\"} 0"));
  EXPECT_THAT(Scrape(), Not(ContainsRegex("eigsvc_worker_restarts_total\\{[^}]*\\} [1-9]")));
}

TEST_F(WorkerTest, CanBeDestroyedAtAnyTime) {
  for (int i = 0; i < 30; ++i) {
    fakes_.options.start_delay = absl::Milliseconds(i % 3 == 0 ? 0 : i);
    fakes_.failures = i % 4;
    auto worker = Start();
    absl::SleepFor(absl::Milliseconds(i % 7));
  }
}

TEST_F(WorkerTest, TellsOfChanges) {
  auto worker = Start();
  std::atomic<bool> idle{false}, restarting{false};
  worker->OnStateChange([&] {
    const State state = worker->snapshot().state;
    if (state == State::kIdle) idle = true;
    if (state == State::kRestarting) restarting = true;
  });
  EXPECT_TRUE(Eventually([&] { return idle.load(); }));
  fakes_.failures = 2;
  fakes_.host()->End("signal 9");
  EXPECT_TRUE(Eventually([&] { return restarting.load(); }));
  EXPECT_TRUE(worker->WaitUntilReady(absl::Seconds(10)));
  worker->OnStateChange({});
  worker.reset();
}

// What a hook refers to may go once it was taken away.
TEST_F(WorkerTest, AHookThatWasTakenAwayIsOver) {
  auto worker = Start();
  EXPECT_TRUE(worker->WaitUntilReady(absl::Seconds(10)));
  std::atomic<bool> running{false};
  worker->OnStateChange([&] {
    running = true;
    absl::SleepFor(absl::Milliseconds(50));
    running = false;
  });
  EXPECT_TRUE(Eventually([&] { return running.load(); }));
  worker->OnStateChange({});
  EXPECT_FALSE(running);
}

// Crashes, cancels and deadlines of jobs, inspections and loads at once: every call ends in one of its
// defined states, no job meets another, and the worker is well afterwards.
TEST_F(WorkerTest, SurvivesChaos) {
  options_.cancel_grace = absl::Milliseconds(10);
  options_.first_backoff = absl::Milliseconds(1);
  options_.heartbeat = absl::Milliseconds(5);
  auto worker = StartReady();
  std::atomic<int> succeeded{0}, cancelled{0}, died{0};
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937 random(t);
      for (int i = 0; i < 40; ++i) {
        const char* const scripts[] = {
            "events 3", "events 3", "events 3", "wait", "busy", "deaf", i % 8 == 0 ? "crash" : "wait"};
        const char* script = scripts[random() % 7];
        CallControl control(absl::Now() + absl::Milliseconds(20 + random() % 20));
        std::thread canceller;
        if (random() % 2 == 0) canceller = std::thread([&control] { control.Cancel(); });
        const absl::Status status = t == 0   ? Run(*worker, script, control)
                                    : t == 1 ? Inspect(*worker, script, control)
                                             : Load(*worker, script, control);
        if (canceller.joinable()) canceller.join();
        if (status.ok()) {
          ++succeeded;
        } else if (absl::IsUnavailable(status)) {
          EXPECT_NE(DeathCause(status), "no payload") << status;
          ++died;
        } else {
          EXPECT_THAT(status.code(), AnyOf(kCancelled, kDeadline)) << status;
          ++cancelled;
        }
        worker->snapshot();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(succeeded + cancelled + died, 160);
  EXPECT_GT(cancelled, 0);
  EIGSVC_EXPECT_OK(Run(*worker, "events 1"));
}

}  // namespace
}  // namespace eigsvc
