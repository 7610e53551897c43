// A worker process and its connection without either: scripted by the analysis id, training id or checkpoint
// path of the request. As the real process does, it refuses a second job, runs inspections and loads one at a
// time beside the job, and tells of both in its status. Thread-safe.
//
//   "events N"      sends N progress events, answers OK
//   "error CODE"    answers with that absl code
//   "wait"          runs until it is stopped; the process is done with it `stop_delay` after the cancel
//   "busy"          answers the cancel, as gRPC does, and the process is never done with it
//   "deaf"          does not even answer; only the end of the process does
//   "mute"          hears of a cancel, but not of the process's end
//   "crash"         the process ends with "signal 11" under the call
//   "hang up"       the connection breaks, the process lives on
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "server/workers/worker.h"

namespace eigsvc::testing {

// What process and connection share. Guarded by its mutex.
struct FakeHost {
  // One call at a time: the job, or an inspection or load.
  struct Lane {
    int64_t call = 0;  // 0: none, once `until` has passed
    absl::Time until = absl::InfinitePast();
    int64_t At() const { return until > absl::Now() ? call : 0; }
  };
  std::mutex mutex;
  std::condition_variable changed;
  bool exited = false;
  std::string cause;
  bool connected = true;
  int64_t pid = 0;
  Lane job, side;

  void End(const std::string& why) {
    std::lock_guard<std::mutex> lock(mutex);
    if (exited) return;
    exited = true;
    cause = why;
    changed.notify_all();
  }
};

struct FakeOptions {
  bool answers = true;  // GetStatus
  bool ignores_terminate = false;
  absl::Duration stop_delay = absl::ZeroDuration();
  std::string exits_at_start;  // the cause, when it does
  absl::Duration start_delay = absl::ZeroDuration();
};

class FakeProcess : public WorkerProcess {
 public:
  FakeProcess(std::shared_ptr<FakeHost> host, bool ignores_terminate)
      : host_(std::move(host)), ignores_terminate_(ignores_terminate) {}
  int64_t pid() const override { return host_->pid; }
  void Kill() override { host_->End("signal 9"); }
  void Terminate() override {
    if (!ignores_terminate_) host_->End("exit 0");
  }
  bool WaitForExit(absl::Duration timeout, std::string* cause) override {
    std::unique_lock<std::mutex> lock(host_->mutex);
    const auto limit = absl::ToChronoNanoseconds(std::min(timeout, absl::Hours(1)));
    if (!host_->changed.wait_for(lock, limit, [this] { return host_->exited; })) return false;
    if (cause != nullptr) *cause = host_->cause;
    return true;
  }

 private:
  const std::shared_ptr<FakeHost> host_;
  const bool ignores_terminate_;
};

class FakeTransport : public WorkerTransport {
 public:
  FakeTransport(std::shared_ptr<FakeHost> host, const FakeOptions& options, std::atomic<bool>* answers)
      : host_(std::move(host)),
        options_(options),
        answers_(answers),
        up_at_(absl::Now() + options.start_delay) {}

  absl::StatusOr<worker::v1::GetStatusResponse> GetStatus(absl::Duration timeout) override {
    std::unique_lock<std::mutex> lock(host_->mutex);
    if (host_->exited || !host_->connected || absl::Now() < up_at_) return Lost();
    if (!*answers_) {
      host_->changed.wait_for(lock, absl::ToChronoNanoseconds(timeout), [this] { return host_->exited; });
      return absl::DeadlineExceededError("no answer");
    }
    worker::v1::GetStatusResponse response;
    response.set_device("fake");
    response.set_device_description("a fake device");
    response.set_busy(host_->job.At() != 0);
    response.set_side_call_id(host_->side.At());
    return response;
  }

  absl::StatusOr<worker::v1::GetCatalogResponse> GetCatalog() override {
    worker::v1::GetCatalogResponse response;
    response.add_models()->set_name("mamba2");
    return response;
  }

  absl::Status RunAnalysis(const worker::v1::RunAnalysisRequest& request, CallControl& control,
                           const std::function<void(worker::v1::RunAnalysisResponse)>& on_event) override {
    return RunJob(request.analysis_id(), control, [&] {
      worker::v1::RunAnalysisResponse response;
      response.mutable_event()->mutable_progress();
      on_event(std::move(response));
    });
  }

  absl::Status RunTraining(const worker::v1::RunTrainingRequest& request, CallControl& control,
                           const std::function<void(worker::v1::RunTrainingResponse)>& on_event) override {
    return RunJob(request.training_id(), control, [&] { on_event({}); });
  }

  absl::StatusOr<worker::v1::InspectResponse> Inspect(const worker::v1::InspectRequest& request,
                                                      CallControl& control) override {
    if (absl::Status status = RunSide(request, control); !status.ok()) return status;
    worker::v1::InspectResponse response;
    response.mutable_inspection()->set_family("mamba2");
    return response;
  }

  absl::StatusOr<worker::v1::LoadResponse> Load(const worker::v1::LoadRequest& request,
                                                CallControl& control) override {
    if (absl::Status status = RunSide(request, control); !status.ok()) return status;
    worker::v1::LoadResponse response;
    response.mutable_model()->set_model_id("loaded");
    return response;
  }
  absl::Status Unload(const worker::v1::UnloadRequest& request) override {
    return request.model_id() == "loaded" ? absl::OkStatus() : absl::NotFoundError("not loaded");
  }
  absl::StatusOr<worker::v1::ListLoadedResponse> ListLoaded() override {
    std::lock_guard<std::mutex> lock(host_->mutex);
    if (host_->exited) return Lost();
    worker::v1::ListLoadedResponse response;
    response.add_models()->set_model_id("loaded");
    return response;
  }

 private:
  static absl::Status Lost() { return absl::UnavailableError("connection lost"); }

  absl::Status RunJob(const std::string& script, CallControl& control, const std::function<void()>& tell) {
    {
      std::lock_guard<std::mutex> lock(host_->mutex);
      if (host_->job.At() != 0) return absl::InternalError("this worker runs a job already");
      host_->job = {1, absl::InfiniteFuture()};
    }
    absl::string_view count_text = script;
    if (int count = 0; absl::ConsumePrefix(&count_text, "events ") && absl::SimpleAtoi(count_text, &count)) {
      for (int i = 0; i < count; ++i) tell();
    }
    return Script(script, host_->job, control);
  }

  template <typename Request>
  absl::Status RunSide(const Request& request, CallControl& control) {
    {
      std::unique_lock<std::mutex> lock(host_->mutex);
      while (host_->side.At() != 0) {
        if (control.cancelled()) return absl::CancelledError("cancelled");
        if (absl::Now() >= control.deadline()) return absl::DeadlineExceededError("deadline");
        if (host_->exited) return Lost();
        host_->changed.wait_for(lock, std::chrono::milliseconds(1));
      }
      host_->side = {request.call_id(), absl::InfiniteFuture()};
    }
    return Script(request.checkpoint().path(), host_->side, control);
  }

  // Frees the lane when it returns, or later, as the script says.
  absl::Status Script(const std::string& script, FakeHost::Lane& lane, CallControl& control) {
    if (script == "wait" || script == "busy" || script == "deaf" || script == "mute")
      return WaitForStop(script, lane, control);
    {
      std::lock_guard<std::mutex> lock(host_->mutex);
      lane.until = absl::Now();
    }
    absl::string_view code_text = script;
    if (int code = 0; absl::ConsumePrefix(&code_text, "error ") && absl::SimpleAtoi(code_text, &code)) {
      return absl::Status(static_cast<absl::StatusCode>(code), "as scripted");
    }
    if (script == "crash") {
      host_->End("signal 11");
      return Lost();
    }
    if (script == "hang up") {
      std::lock_guard<std::mutex> lock(host_->mutex);
      host_->connected = false;
      return Lost();
    }
    return absl::OkStatus();
  }

  absl::Status WaitForStop(const std::string& script, FakeHost::Lane& lane, CallControl& control) {
    bool stopped = false;  // guarded by the host's mutex
    control.OnCancel([&] {
      std::lock_guard<std::mutex> lock(host_->mutex);
      stopped = true;
      host_->changed.notify_all();
    });
    absl::Status status;
    {
      std::unique_lock<std::mutex> lock(host_->mutex);
      auto over = [&] { return (host_->exited && script != "mute") || (stopped && script != "deaf"); };
      const auto limit = absl::ToChronoTime(std::min(control.deadline(), absl::Now() + absl::Hours(1)));
      if (script == "deaf") {
        host_->changed.wait(lock, over);
      } else if (!host_->changed.wait_until(lock, limit, over)) {
        status = absl::DeadlineExceededError("deadline");
      }
      if (host_->exited) {
        status = Lost();
      } else if (status.ok()) {
        status = absl::CancelledError("cancelled");
      }
      if (script != "busy") lane.until = absl::Now() + options_.stop_delay;
    }
    control.OnCancel({});
    return status;
  }

  const std::shared_ptr<FakeHost> host_;
  const FakeOptions options_;
  std::atomic<bool>* const answers_;
  const absl::Time up_at_;
};

// Launches fakes and keeps count.
class FakeLauncher {
 public:
  WorkerLauncher launcher() {
    return [this](const std::string&) { return Launch(); };
  }
  FakeOptions options;              // set before the worker is made
  std::atomic<bool> answers{true};  // GetStatus
  std::atomic<int> failures{0};     // so many launches fail

  std::vector<absl::Time> launch_times() {
    std::lock_guard<std::mutex> lock(mutex_);
    return times_;
  }
  std::shared_ptr<FakeHost> host() {
    std::lock_guard<std::mutex> lock(mutex_);
    return host_;
  }

 private:
  absl::StatusOr<LaunchedWorker> Launch() {
    std::lock_guard<std::mutex> lock(mutex_);
    times_.push_back(absl::Now());
    if (failures > 0) {
      --failures;
      return absl::UnavailableError("cannot run /no/such/worker");
    }
    host_ = std::make_shared<FakeHost>();
    host_->pid = 1000 + static_cast<int64_t>(times_.size());
    LaunchedWorker launched;
    launched.process = std::make_unique<FakeProcess>(host_, options.ignores_terminate);
    launched.transport = std::make_unique<FakeTransport>(host_, options, &answers);
    if (!options.exits_at_start.empty()) {
      host_->connected = false;
      host_->End(options.exits_at_start);
    }
    return launched;
  }

  std::mutex mutex_;
  std::vector<absl::Time> times_;
  std::shared_ptr<FakeHost> host_;
};

}  // namespace eigsvc::testing
