// A worker process and its wire, in memory: the real Worker supervises it, so daemon tests need no process,
// no gRPC and no LibTorch. What a job does is a script chosen by the test.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "server/workers/worker.h"

namespace eigsvc::testing {

class FakeProcess : public WorkerProcess {
 public:
  explicit FakeProcess(int64_t pid) : pid_(pid) {}
  int64_t pid() const override { return pid_; }
  void Kill() override { Die("signal 9"); }
  void Terminate() override { Die("exit 0"); }
  void Die(const std::string& cause) {
    const std::lock_guard lock(mutex_);
    if (cause_.empty()) cause_ = cause;
    died_.notify_all();
  }
  bool dead() const {
    const std::lock_guard lock(mutex_);
    return !cause_.empty();
  }
  bool WaitForExit(absl::Duration timeout, std::string* cause) override {
    std::unique_lock lock(mutex_);
    const auto gone = [&] { return !cause_.empty(); };
    if (timeout == absl::InfiniteDuration()) {
      died_.wait(lock, gone);
    } else if (!died_.wait_for(lock, absl::ToChronoNanoseconds(timeout), gone)) {
      return false;
    }
    if (cause != nullptr) *cause = cause_;
    return true;
  }

 private:
  const int64_t pid_;
  mutable std::mutex mutex_;
  std::condition_variable died_;
  std::string cause_;
};

// One run of a job on a fake worker, as its script sees it.
class FakeRun {
 public:
  FakeRun(CallControl& control, FakeProcess& process) : control_(control), process_(process) {}
  // OK after `duration`; CANCELLED or UNAVAILABLE at once when the job is stopped or the process dies.
  absl::Status Sleep(absl::Duration duration) {
    for (const absl::Time until = absl::Now() + duration;;) {
      if (process_.dead()) return absl::UnavailableError("connection lost");
      if (control_.cancelled()) return absl::CancelledError("stopped");
      if (absl::Now() >= control_.deadline()) return absl::DeadlineExceededError("deadline");
      if (absl::Now() >= until) return absl::OkStatus();
      absl::SleepFor(absl::Milliseconds(1));
    }
  }
  absl::Status Crash(const std::string& cause = "signal 11") {
    process_.Die(cause);
    return absl::UnavailableError("connection lost");
  }

 private:
  CallControl& control_;
  FakeProcess& process_;
};

// The scripts. Set them before the worker starts; they run on the daemon's threads.
struct FakeWorkerScript {
  using AnalysisEvents = std::function<void(worker::v1::RunAnalysisResponse)>;
  using TrainingEvents = std::function<void(worker::v1::RunTrainingResponse)>;
  std::function<absl::Status(const worker::v1::RunAnalysisRequest&, FakeRun&, const AnalysisEvents&)>
      analysis;
  std::function<absl::Status(const worker::v1::RunTrainingRequest&, FakeRun&, const TrainingEvents&)>
      training;
  std::function<absl::Status()> start = [] {
    return absl::OkStatus();
  };  // an error: the process does not come up
  std::atomic<int> starts = 0;
  std::atomic<int64_t> last_pid = 0;

  WorkerLauncher Launcher();
};

// Events as a worker sends them.
inline worker::v1::RunAnalysisResponse ModelEvent() {
  worker::v1::RunAnalysisResponse response;
  v1::Model& model = *response.mutable_event()->mutable_model();
  model.set_family("mamba2");
  model.set_layers(2);
  return response;
}
inline v1::SiteSpectrum FakeSpectrum(int32_t unit, int bins) {
  v1::SiteSpectrum spectrum;
  spectrum.mutable_site()->set_mixer("mamba2");
  spectrum.mutable_site()->set_unit(unit);
  spectrum.mutable_summary()->set_count(bins);
  for (int bin = 0; bin < bins; ++bin) {
    spectrum.mutable_bins()->add_below_1_index(bin);
    spectrum.mutable_bins()->add_below_1_count(1);
  }
  return spectrum;
}
inline worker::v1::RunAnalysisResponse ProgressEvent(int64_t done, int64_t total, int sites = 1,
                                                     int bins = 4) {
  worker::v1::RunAnalysisResponse response;
  v1::AnalysisProgress& progress = *response.mutable_event()->mutable_progress();
  progress.set_examples_done(done);
  progress.set_examples_total(total);
  for (int site = 0; site < sites; ++site) *progress.add_sites() = FakeSpectrum(site, bins);
  return response;
}
inline worker::v1::RunAnalysisResponse ResultEvent(int64_t eigenvalues, int sites = 1, int bins = 4) {
  worker::v1::RunAnalysisResponse response;
  v1::AnalysisResult& result = *response.mutable_event()->mutable_result();
  result.mutable_score()->set_metric("accuracy");
  result.mutable_score()->set_value(0.75);
  result.set_eigenvalues(eigenvalues);
  for (int site = 0; site < sites; ++site) *result.add_sites() = FakeSpectrum(site, bins);
  return response;
}

class FakeTransport : public WorkerTransport {
 public:
  FakeTransport(FakeWorkerScript& script, std::shared_ptr<FakeProcess> process, std::string device)
      : script_(script), process_(std::move(process)), device_(std::move(device)) {}

  absl::StatusOr<worker::v1::GetStatusResponse> GetStatus(absl::Duration) override {
    if (process_->dead()) return absl::UnavailableError("connection lost");
    worker::v1::GetStatusResponse response;
    response.set_device(device_);
    response.set_device_description("a fake");
    response.set_busy(busy_);
    (*response.mutable_versions())["eigsvc-worker"] = "test";
    return response;
  }
  absl::StatusOr<worker::v1::GetCatalogResponse> GetCatalog() override {
    worker::v1::GetCatalogResponse catalog;
    for (const char* family : {"llama", "mamba2"}) {
      v1::ModelFamily& model = *catalog.add_models();
      model.set_name(family);
      model.set_trainable(std::string(family) == "mamba2");
    }
    catalog.add_tasks()->set_name("mqar");
    catalog.add_tasks()->set_name("next-token");
    catalog.mutable_tasks(1)->set_needs_data(true);
    catalog.mutable_tasks(1)->mutable_data()->add_names("ids.txt");
    return catalog;
  }
  absl::Status RunAnalysis(const worker::v1::RunAnalysisRequest& request, CallControl& control,
                           const std::function<void(worker::v1::RunAnalysisResponse)>& on_event) override {
    return RunJob([&] {
      FakeRun run(control, *process_);
      return script_.analysis(request, run, on_event);
    });
  }
  absl::Status RunTraining(const worker::v1::RunTrainingRequest& request, CallControl& control,
                           const std::function<void(worker::v1::RunTrainingResponse)>& on_event) override {
    return RunJob([&] {
      FakeRun run(control, *process_);
      return script_.training(request, run, on_event);
    });
  }
  absl::StatusOr<worker::v1::InspectResponse> Inspect(const worker::v1::InspectRequest& request,
                                                      CallControl&) override {
    worker::v1::InspectResponse response;
    response.mutable_inspection()->set_family("mamba2");
    response.mutable_inspection()->mutable_model()->set_dtype(request.dtype());
    response.mutable_inspection()->mutable_model()->set_steps(request.steps());
    response.mutable_inspection()->set_settings_json(request.checkpoint().ref().settings_json());
    return response;
  }
  absl::StatusOr<worker::v1::LoadResponse> Load(const worker::v1::LoadRequest& request,
                                                CallControl&) override {
    worker::v1::LoadResponse response;
    response.mutable_model()->set_model_id("m1");
    response.mutable_model()->mutable_model()->set_dtype(request.dtype());
    const std::lock_guard lock(mutex_);
    loaded_ = response.model();
    return response;
  }
  absl::Status Unload(const worker::v1::UnloadRequest& request) override {
    const std::lock_guard lock(mutex_);
    if (loaded_.model_id() != request.model_id())
      return absl::NotFoundError("it is not loaded; list the loaded ones");
    loaded_.Clear();
    return absl::OkStatus();
  }
  absl::StatusOr<worker::v1::ListLoadedResponse> ListLoaded() override {
    worker::v1::ListLoadedResponse response;
    const std::lock_guard lock(mutex_);
    if (!loaded_.model_id().empty()) *response.add_models() = loaded_;
    return response;
  }

 private:
  template <typename Job>
  absl::Status RunJob(const Job& job) {
    if (busy_.exchange(true)) return absl::InternalError("this worker runs a job already");
    const absl::Status status = job();
    busy_ = false;
    return status;
  }

  FakeWorkerScript& script_;
  const std::shared_ptr<FakeProcess> process_;
  const std::string device_;
  std::atomic<bool> busy_ = false;
  std::mutex mutex_;
  v1::LoadedModel loaded_;
};

inline WorkerLauncher FakeWorkerScript::Launcher() {
  // The process is shared: a transport may be in a call while its process is being replaced.
  class Handle : public WorkerProcess {
   public:
    explicit Handle(std::shared_ptr<FakeProcess> process) : process_(std::move(process)) {}
    int64_t pid() const override { return process_->pid(); }
    void Kill() override { process_->Kill(); }
    void Terminate() override { process_->Terminate(); }
    bool WaitForExit(absl::Duration timeout, std::string* cause) override {
      return process_->WaitForExit(timeout, cause);
    }

   private:
    const std::shared_ptr<FakeProcess> process_;
  };
  return [this](const std::string& device) -> absl::StatusOr<LaunchedWorker> {
    if (absl::Status status = start(); !status.ok()) return status;
    auto process = std::make_shared<FakeProcess>(1000 + ++starts);
    last_pid = process->pid();
    LaunchedWorker launched;
    launched.process = std::make_unique<Handle>(process);
    launched.transport = std::make_unique<FakeTransport>(*this, process, device);
    return launched;
  };
}

}  // namespace eigsvc::testing
