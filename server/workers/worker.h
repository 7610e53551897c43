// Worker: one device and the process that owns it, started, watched and restarted. Calls are blocking;
// server/jobs gives each worker a thread. The wire is behind WorkerTransport, so that tests (and TSan) run
// without gRPC. Locks are std::mutex, not absl::Mutex: ThreadSanitizer does not see inside Debian's
// uninstrumented Abseil and reports false races.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "eigsvc/worker/v1/worker_service.pb.h"
#include "server/metrics/metrics.h"

namespace eigsvc {

// How a caller stops a call that another thread is in. Thread-safe; Cancel may come before, during or after
// the call.
class CallControl {
 public:
  explicit CallControl(absl::Time deadline = absl::InfiniteFuture()) : deadline_(deadline) {}
  absl::Time deadline() const { return deadline_; }
  void Cancel();
  bool cancelled() const;
  // Registers what Cancel() runs (once, on the cancelling thread; at once when already cancelled); empty:
  // nothing. After it returns no earlier hook is running. A hook must not call OnCancel or Cancel of its own
  // control.
  void OnCancel(std::function<void()> hook);

 private:
  const absl::Time deadline_;
  mutable std::mutex mutex_;
  std::condition_variable hook_done_;
  bool cancelled_ = false;  // guarded by mutex_, as are the two below
  bool hook_running_ = false;
  std::function<void()> hook_;
};

// The RPCs of one running worker process. Thread-safe. UNAVAILABLE when the connection is lost. A call that
// takes a control ends soon after the control is cancelled or its deadline has passed, whether or not the
// process has stopped.
class WorkerTransport {
 public:
  virtual ~WorkerTransport() = default;
  virtual absl::StatusOr<worker::v1::GetStatusResponse> GetStatus(absl::Duration timeout) = 0;
  virtual absl::StatusOr<worker::v1::GetCatalogResponse> GetCatalog() = 0;
  // Events come on the calling thread. Returns the job's status.
  virtual absl::Status RunAnalysis(const worker::v1::RunAnalysisRequest& request, CallControl& control,
                                   const std::function<void(worker::v1::RunAnalysisResponse)>& on_event) = 0;
  virtual absl::Status RunTraining(const worker::v1::RunTrainingRequest& request, CallControl& control,
                                   const std::function<void(worker::v1::RunTrainingResponse)>& on_event) = 0;
  virtual absl::StatusOr<worker::v1::InspectResponse> Inspect(const worker::v1::InspectRequest& request,
                                                              CallControl& control) = 0;
  virtual absl::StatusOr<worker::v1::LoadResponse> Load(const worker::v1::LoadRequest& request,
                                                        CallControl& control) = 0;
  virtual absl::Status Unload(const worker::v1::UnloadRequest& request) = 0;
  virtual absl::StatusOr<worker::v1::ListLoadedResponse> ListLoaded() = 0;
};

// A process that can be ended and waited for. Thread-safe. Real: fork/exec of eigsvc-worker. Tests: a fake.
class WorkerProcess {
 public:
  virtual ~WorkerProcess() = default;
  virtual int64_t pid() const = 0;
  virtual void Kill() = 0;       // SIGKILL; idempotent
  virtual void Terminate() = 0;  // SIGTERM; idempotent
  // Whether it has ended within the timeout, and how: "exit 70", "signal 9". Once it has, the answer stays.
  virtual bool WaitForExit(absl::Duration timeout, std::string* cause) = 0;
};

struct LaunchedWorker {
  std::unique_ptr<WorkerProcess> process;
  std::unique_ptr<WorkerTransport> transport;
};
// Starts a process for `device` and connects. Called again after each death.
using WorkerLauncher = std::function<absl::StatusOr<LaunchedWorker>(const std::string& device)>;

struct WorkerOptions {
  std::string device = "cpu";
  absl::Duration cancel_grace = absl::Milliseconds(150);
  absl::Duration start_timeout = absl::Seconds(60);
  absl::Duration first_backoff =
      absl::Milliseconds(100);  // doubles up to 10 s while starts fail or die at once
  // GetStatus this often; a worker that fails to answer three times in a row within as long is killed.
  absl::Duration heartbeat = absl::Seconds(5);
};

// Payload (the cause: "signal 9") of the status of a call whose process died; server/jobs retries such a job
// once.
inline constexpr absl::string_view kWorkerDiedUrl = "eigsvc/worker-died";

class Worker {
 public:
  // Starts supervising at once; returns before the process is up. `metrics` and `launcher` outlive it.
  Worker(WorkerOptions options, WorkerLauncher launcher, Metrics* metrics);
  ~Worker();  // SIGTERM, then SIGKILL after a second. No call may be in progress.

  const std::string& device() const;
  enum class State { kStarting, kIdle, kBusy, kRestarting };
  struct Snapshot {
    State state = State::kStarting;
    int64_t pid = 0, restart_count = 0;
    std::string description;               // device in words
    std::string problem;                   // why it does not start, or empty
    worker::v1::GetStatusResponse status;  // of the last start
  };
  Snapshot snapshot() const;
  bool WaitUntilReady(absl::Duration timeout);
  // Called (on a thread of the worker's own) after changes of state, several of which may come as one. It
  // may call snapshot() and must not block. The hook before is over when this returns; not to be called by a
  // hook.
  void OnStateChange(std::function<void()> hook);

  // Each waits for the process to be up, until the control's deadline or cancel; UNAVAILABLE with the reason
  // when it failed to start three times in a row. A call that is cancelled (CANCELLED) or past its deadline
  // (DEADLINE_EXCEEDED) returns when the process has stopped working at it; when that takes longer than
  // cancel_grace, the process is killed, and with it whatever else it was doing. If the process dies under
  // the call: UNAVAILABLE with payload kWorkerDiedUrl. One analysis or training at a time, and beside it any
  // number of inspections and loads.
  absl::Status RunAnalysis(const worker::v1::RunAnalysisRequest& request, CallControl& control,
                           const std::function<void(worker::v1::RunAnalysisResponse)>& on_event);
  absl::Status RunTraining(const worker::v1::RunTrainingRequest& request, CallControl& control,
                           const std::function<void(worker::v1::RunTrainingResponse)>& on_event);
  absl::StatusOr<worker::v1::InspectResponse> Inspect(const worker::v1::InspectRequest& request,
                                                      CallControl& control);
  absl::StatusOr<worker::v1::LoadResponse> Load(const worker::v1::LoadRequest& request, CallControl& control);
  absl::Status Unload(const worker::v1::UnloadRequest& request);
  absl::StatusOr<worker::v1::ListLoadedResponse> ListLoaded();
  // Kept from the first start. UNAVAILABLE with the reason when there has been none.
  absl::StatusOr<worker::v1::GetCatalogResponse> GetCatalog();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// The real launcher: executes `binary --socket SOCKET_DIR/NAME --device DEVICE ...` so that it ends with this
// process, and connects over gRPC. `extra_flags` go to the worker as they are. What the worker writes to
// stdout and stderr goes to the log. The launcher is thread-safe.
struct ProcessLauncherOptions {
  std::string binary;
  std::string socket_dir;  // made with mode 0700; must be this user's own
  std::vector<std::string> extra_flags;
};
WorkerLauncher ProcessLauncher(ProcessLauncherOptions options);

// Devices for "auto": what `binary --list-devices` prints, a line each.
absl::StatusOr<std::vector<std::string>> ListDevices(const std::string& binary);

}  // namespace eigsvc
