// Three threads a worker, each with one duty: one starts the process, waits for its end and starts it again;
// one keeps the times by which stopped calls must be over, and tells of changes; one asks for signs of life.
// They and the callers meet in one mutex and one condition variable, which is notified on every change.
// Nothing that can block is called under the mutex.
#include "server/workers/worker.h"

#include <algorithm>
#include <chrono>
#include <optional>
#include <set>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/cord.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "models/base/status_macros.h"
#include "spdlog/spdlog.h"

namespace eigsvc {
namespace {

constexpr absl::Duration kMaxBackoff = absl::Seconds(10);
constexpr absl::Duration kStable = absl::Seconds(10);  // a process that lived so long did not die at once
constexpr absl::Duration kTerminateTimeout = absl::Seconds(1);
constexpr absl::Duration kProbeTimeout = absl::Seconds(1);
constexpr absl::Duration kIdlePoll = absl::Milliseconds(2);
constexpr absl::string_view kStickyCudaExit = "exit 70";  // as server/worker/main.cc has it
constexpr int kHopelessStarts = 3;
constexpr int kMissedHeartbeats = 3;

// Intervals are measured on a clock that nobody sets. A year stands for ever.
using Steady = std::chrono::steady_clock::time_point;
Steady In(absl::Duration duration) {
  return std::chrono::steady_clock::now() +
         absl::ToChronoNanoseconds(std::min(duration, absl::Hours(24 * 365)));
}

// Why a process was killed, or how it ended by itself: the metric's label.
absl::string_view CauseLabel(const std::string& killed_for, const std::string& cause) {
  if (!killed_for.empty()) return killed_for;
  return absl::StartsWith(cause, "signal") ? "signal" : "exit";
}

}  // namespace

struct Worker::Impl {
  // One run of the process. Its flags are guarded by `mutex`.
  struct Incarnation {
    LaunchedWorker launched;
    bool dead = false;
    std::string killed_for;  // why we killed it; empty: we did not
    std::string cause;       // how it ended

    WorkerTransport& transport() { return *launched.transport; }
    WorkerProcess& process() { return *launched.process; }
    bool doomed() const { return dead || !killed_for.empty(); }
  };

  // One call in progress, on its caller's stack. Guarded by `mutex`.
  struct Call {
    std::shared_ptr<CallControl> inner;  // what the transport sees; also cancelled when the process dies
    std::shared_ptr<Incarnation> on;     // once it runs
    Steady give_up;                      // the caller's deadline
    Steady kill_at;                      // when the process must have stopped
    int64_t side_id = 0;                 // of an inspection or a load; 0: a job
    bool cancelled = false;
  };

  Impl(WorkerOptions options, WorkerLauncher launcher, Metrics* metrics);
  ~Impl();

  void Supervise();
  absl::Status RunOnce();
  absl::Status AwaitReady(Incarnation& incarnation);
  void Bury(const std::shared_ptr<Incarnation>& incarnation, const std::string& cause);
  absl::Duration NextBackoff();
  void KeepTime();
  void ListenForHeartbeats();
  void ReportPool(WorkerTransport& transport);

  void Kill(const std::shared_ptr<Incarnation>& incarnation, absl::string_view why);
  void PublishLocked();

  template <typename Run>
  absl::Status Perform(CallControl& control, int64_t side_id, const Run& run);
  template <typename Response, typename Request, typename Method>
  absl::StatusOr<Response> PerformSide(CallControl& control, Request request, Method method);
  template <typename Response, typename Run>
  absl::StatusOr<Response> Ask(const Run& run);
  absl::Status WaitForProcess(Call& call);
  absl::Status Settle(Call& call, absl::Status status);
  void AwaitIdle(const Call& call);
  absl::Status CheckAlive(const Call& call, absl::Status status);
  absl::Status Died(const Incarnation& incarnation) const;

  const WorkerOptions options;
  const WorkerLauncher launcher;
  Metrics* const metrics;

  mutable std::mutex mutex;
  mutable std::condition_variable changed;
  // All guarded by mutex:
  std::shared_ptr<Incarnation> live;  // from its launch to its burial
  bool up = false;                    // `live` has answered and is not doomed
  Steady up_since;
  int short_lives = 0;    // in a row, for the back-off
  int failed_starts = 0;  // in a row
  std::set<Call*> calls;
  int64_t last_side_id = 0;
  Snapshot state;
  std::optional<worker::v1::GetCatalogResponse> catalog;
  std::function<void()> hook;
  std::tuple<State, int64_t, int64_t, std::string> published;  // what of `state` makes a version
  int64_t version = 0, told_version = 0;
  bool telling = false;  // the hook runs
  bool stopping = false, finished = false;
  Steady terminate_by;

  std::thread supervisor, timekeeper, listener;
};

Worker::Impl::Impl(WorkerOptions worker_options, WorkerLauncher worker_launcher, Metrics* worker_metrics)
    : options(std::move(worker_options)), launcher(std::move(worker_launcher)), metrics(worker_metrics) {
  metrics->SetWorker(options.device, false, false);
  supervisor = std::thread([this] { Supervise(); });
  timekeeper = std::thread([this] { KeepTime(); });
  listener = std::thread([this] { ListenForHeartbeats(); });
}

Worker::Impl::~Impl() {
  std::shared_ptr<Incarnation> ending;
  {
    std::lock_guard<std::mutex> lock(mutex);
    stopping = true;
    terminate_by = In(kTerminateTimeout);
    ending = live;
    changed.notify_all();
  }
  if (ending != nullptr) ending->process().Terminate();
  supervisor.join();
  {
    std::lock_guard<std::mutex> lock(mutex);
    finished = true;
    changed.notify_all();
  }
  timekeeper.join();
  listener.join();
  metrics->SetWorkerProcess(options.device, 0);
}

// --- The process
// --------------------------------------------------------------------------------------------------------

void Worker::Impl::Supervise() {
  while (true) {
    const absl::Status problem = RunOnce();
    {
      std::lock_guard<std::mutex> lock(mutex);
      if (stopping) return;
      ++state.restart_count;
      state.state = State::kRestarting;
      if (!problem.ok()) {
        ++failed_starts;
        state.problem = std::string(problem.message());
      }
      PublishLocked();
    }
    if (!problem.ok())
      spdlog::warn("worker {} does not start: {}", options.device, std::string(problem.message()));
    std::unique_lock<std::mutex> lock(mutex);
    if (changed.wait_until(lock, In(NextBackoff()), [this] { return stopping; })) return;
  }
}

// Starts the process and stays until it has ended. OK when it was up.
absl::Status Worker::Impl::RunOnce() {
  absl::StatusOr<LaunchedWorker> launched = launcher(options.device);
  if (!launched.ok()) {
    std::lock_guard<std::mutex> lock(mutex);
    ++short_lives;
    metrics->WorkerRestarted(options.device, "launch_failed");
    return launched.status();
  }
  auto incarnation = std::make_shared<Incarnation>();
  incarnation->launched = *std::move(launched);
  bool too_late;
  {
    std::lock_guard<std::mutex> lock(mutex);
    live = incarnation;
    too_late = stopping;
    state.pid = incarnation->process().pid();
    PublishLocked();
  }
  if (too_late) incarnation->process().Terminate();
  absl::Status ready = AwaitReady(*incarnation);
  if (!ready.ok()) Kill(incarnation, "start_failed");
  std::string cause;
  incarnation->process().WaitForExit(absl::InfiniteDuration(), &cause);
  Bury(incarnation, cause);
  return ready;
}

absl::Status Worker::Impl::AwaitReady(Incarnation& incarnation) {
  const Steady deadline = In(options.start_timeout);
  absl::StatusOr<worker::v1::GetStatusResponse> status;
  while (true) {
    status = incarnation.transport().GetStatus(kProbeTimeout);
    if (status.ok()) break;
    if (std::string cause; incarnation.process().WaitForExit(absl::Milliseconds(20), &cause)) {
      return absl::UnavailableError(
          absl::StrCat("the process ended while starting (", cause, "); see its messages in the log"));
    }
    std::lock_guard<std::mutex> lock(mutex);
    if (stopping) return absl::CancelledError("shutting down");
    if (In(absl::ZeroDuration()) >= deadline) {
      return absl::DeadlineExceededError(absl::StrCat("the process did not answer within ",
                                                      absl::FormatDuration(options.start_timeout), ": ",
                                                      status.status().message()));
    }
  }
  bool have_catalog;
  {
    std::lock_guard<std::mutex> lock(mutex);
    have_catalog = catalog.has_value();
  }
  std::optional<worker::v1::GetCatalogResponse> fetched;
  if (!have_catalog) {
    EIGSVC_ASSIGN_OR_RETURN(fetched, incarnation.transport().GetCatalog());
  }
  ReportPool(incarnation.transport());
  std::lock_guard<std::mutex> lock(mutex);
  if (fetched.has_value()) catalog = std::move(fetched);
  failed_starts = 0;
  up = true;
  up_since = In(absl::ZeroDuration());
  state.problem.clear();
  state.description = status->device_description();
  state.status = *std::move(status);
  PublishLocked();
  return absl::OkStatus();
}

void Worker::Impl::Bury(const std::shared_ptr<Incarnation>& incarnation, const std::string& cause) {
  std::vector<std::shared_ptr<CallControl>> orphans;
  bool expected;
  {
    std::lock_guard<std::mutex> lock(mutex);
    incarnation->dead = true;
    incarnation->cause = cause;
    for (Call* call : calls) {
      if (call->on == incarnation) orphans.push_back(call->inner);
    }
    const bool was_up = up_since != Steady();
    const bool lived_long = was_up && up_since <= In(-kStable);
    // A process that we killed because a call did not stop was well otherwise: the next one may come at once.
    const bool was_well = incarnation->killed_for == "cancel_ignored";
    short_lives = was_well ? 0 : lived_long ? 1 : short_lives + 1;
    live = nullptr;
    up = false;
    up_since = Steady();
    state.pid = 0;
    PublishLocked();
    expected = stopping;
  }
  metrics->SetPool(options.device, {}, absl::Now());  // it went with the process
  if (!expected) {
    const std::string label(CauseLabel(incarnation->killed_for, cause));
    metrics->WorkerRestarted(options.device, label);
    spdlog::warn("worker {} ended: {} ({})", options.device, cause, label);
  }
  for (const std::shared_ptr<CallControl>& orphan : orphans) orphan->Cancel();
}

// Under the mutex.
absl::Duration Worker::Impl::NextBackoff() {
  if (short_lives == 0) return absl::ZeroDuration();
  return std::min(kMaxBackoff, options.first_backoff * (int64_t{1} << std::min(short_lives - 1, 20)));
}

void Worker::Impl::Kill(const std::shared_ptr<Incarnation>& incarnation, absl::string_view why) {
  {
    std::lock_guard<std::mutex> lock(mutex);
    if (incarnation->doomed()) return;
    incarnation->killed_for = std::string(why);
    if (live == incarnation) up = false;
    PublishLocked();
  }
  incarnation->process().Kill();
}

// --- Times and signs of life
// --------------------------------------------------------------------------------------------

void Worker::Impl::KeepTime() {
  std::unique_lock<std::mutex> lock(mutex);
  while (!finished) {
    if (told_version != version) {
      told_version = version;
      const std::function<void()> tell = hook;
      telling = true;
      lock.unlock();
      if (tell) tell();
      lock.lock();
      telling = false;
      changed.notify_all();
      continue;
    }
    const Steady now = In(absl::ZeroDuration());
    Steady next = In(absl::InfiniteDuration());
    std::shared_ptr<Incarnation> expired;
    absl::string_view why;
    auto consider = [&](const std::shared_ptr<Incarnation>& incarnation, Steady when,
                        absl::string_view reason) {
      if (incarnation == nullptr || incarnation->doomed()) return;
      if (when > now) {
        next = std::min(next, when);
      } else {
        expired = incarnation;
        why = reason;
      }
    };
    for (const Call* call : calls) consider(call->on, call->kill_at, "cancel_ignored");
    if (stopping) consider(live, terminate_by, "shutdown");
    if (expired == nullptr) {
      changed.wait_until(lock, next);
      continue;
    }
    lock.unlock();
    Kill(expired, why);
    lock.lock();
  }
}

void Worker::Impl::ListenForHeartbeats() {
  std::shared_ptr<Incarnation> heard;
  int missed = 0;
  while (true) {
    {
      std::unique_lock<std::mutex> lock(mutex);
      if (changed.wait_until(lock, In(options.heartbeat), [this] { return stopping; })) return;
      if (heard != live) missed = 0;
      heard = up ? live : nullptr;
    }
    if (heard == nullptr) continue;
    missed = heard->transport().GetStatus(options.heartbeat).ok() ? 0 : missed + 1;
    if (missed >= kMissedHeartbeats) Kill(heard, "unresponsive");
    if (missed == 0) ReportPool(heard->transport());
  }
}

// What a scrape shows of the pool is what was last heard: a scrape itself asks nobody.
void Worker::Impl::ReportPool(WorkerTransport& transport) {
  const absl::Time asked = absl::Now();
  const absl::StatusOr<worker::v1::ListLoadedResponse> loaded = transport.ListLoaded();
  if (!loaded.ok()) return;
  PoolState pool;
  for (const v1::LoadedModel& model : loaded->models()) {
    pool.model_ids.insert(model.model_id());
    pool.model_bytes += model.size_bytes();
  }
  pool.device_total_bytes = loaded->device_memory_bytes();
  pool.device_free_bytes = loaded->device_free_bytes();
  metrics->SetPool(options.device, pool, asked);
}

// Under the mutex, after any change that a waiter or the outside may care for.
void Worker::Impl::PublishLocked() {
  if (up) {
    const bool busy =
        std::any_of(calls.begin(), calls.end(), [](const Call* call) { return !call->side_id && call->on; });
    state.state = busy ? State::kBusy : State::kIdle;
  } else if (state.state != State::kStarting) {
    state.state = State::kRestarting;
  }
  metrics->SetWorker(options.device, up, state.state == State::kBusy);
  metrics->SetWorkerProcess(options.device, state.pid);
  if (auto now = std::make_tuple(state.state, state.pid, state.restart_count, state.problem);
      now != published) {
    published = std::move(now);
    ++version;
  }
  changed.notify_all();
}

// --- Calls
// --------------------------------------------------------------------------------------------------------------

template <typename Run>
absl::Status Worker::Impl::Perform(CallControl& control, int64_t side_id, const Run& run) {
  const absl::Duration left = control.deadline() - absl::Now();
  Call call;
  call.inner = std::make_shared<CallControl>(control.deadline());
  call.give_up = In(left);
  call.kill_at = In(left + options.cancel_grace);
  call.side_id = side_id;
  {
    std::lock_guard<std::mutex> lock(mutex);
    calls.insert(&call);
  }
  control.OnCancel([this, &call] {
    {
      std::lock_guard<std::mutex> lock(mutex);
      call.cancelled = true;
      call.kill_at = std::min(call.kill_at, In(options.cancel_grace));
      changed.notify_all();
    }
    call.inner->Cancel();
  });
  absl::Status status = WaitForProcess(call);
  if (status.ok()) status = Settle(call, run(call.on->transport(), *call.inner));
  control.OnCancel({});
  std::lock_guard<std::mutex> lock(mutex);
  calls.erase(&call);
  PublishLocked();
  return status;
}

// An inspection or a load: named, so that the worker can tell that it still works at this very call.
template <typename Response, typename Request, typename Method>
absl::StatusOr<Response> Worker::Impl::PerformSide(CallControl& control, Request request, Method method) {
  {
    std::lock_guard<std::mutex> lock(mutex);
    request.set_call_id(++last_side_id);
  }
  absl::StatusOr<Response> response = absl::UnknownError("not asked");
  const absl::Status status =
      Perform(control, request.call_id(), [&](WorkerTransport& transport, CallControl& inner) {
        response = (transport.*method)(request, inner);
        return response.status();
      });
  if (!status.ok()) return status;
  return response;
}

absl::Status Worker::Impl::WaitForProcess(Call& call) {
  std::unique_lock<std::mutex> lock(mutex);
  const bool in_time = changed.wait_until(lock, call.give_up, [&] {
    return call.cancelled || stopping || up || failed_starts >= kHopelessStarts;
  });
  if (call.cancelled) return absl::CancelledError("cancelled before it started");
  if (!in_time) {
    return absl::DeadlineExceededError(
        absl::StrCat("the deadline passed before the worker on ", options.device, " was up"));
  }
  if (stopping) return absl::UnavailableError("the server is shutting down; try again later");
  if (!up) {
    return absl::UnavailableError(
        absl::StrCat("the worker on ", options.device, " does not start: ", state.problem));
  }
  call.on = live;
  PublishLocked();
  return absl::OkStatus();
}

// What a call that came back with `status` returns, and when.
absl::Status Worker::Impl::Settle(Call& call, absl::Status status) {
  bool cancelled, overdue;
  {
    std::lock_guard<std::mutex> lock(mutex);
    cancelled = call.cancelled;
    // gRPC's clock may be a little ahead of ours.
    overdue = call.give_up <= In(absl::IsDeadlineExceeded(status) ? absl::Seconds(1) : absl::ZeroDuration());
    const bool own_answer = !absl::IsCancelled(status) && !absl::IsDeadlineExceeded(status) &&
                            !absl::IsUnavailable(status) && !absl::IsInternal(status) &&
                            !absl::IsUnknown(status);
    if (own_answer) {  // the worker's own word, so it is done with the call
      call.on = nullptr;
      return status;
    }
  }
  if (!cancelled && !overdue) {
    status = CheckAlive(call, std::move(status));
    std::lock_guard<std::mutex> lock(mutex);
    call.on = nullptr;
    return status;
  }
  AwaitIdle(call);
  std::lock_guard<std::mutex> lock(mutex);
  const std::string note = call.on->killed_for == "cancel_ignored"
                               ? absl::StrCat("; the worker did not stop within ",
                                              absl::FormatDuration(options.cancel_grace), " and was killed")
                               : "";
  call.on = nullptr;
  if (cancelled) return absl::CancelledError(absl::StrCat("cancelled", note));
  return absl::DeadlineExceededError(absl::StrCat("the deadline passed", note));
}

// gRPC answers a cancelled or late call by itself, whatever the worker does. Stays until the worker says that
// it works at the call no more, or is doomed (the timekeeper sees to it).
void Worker::Impl::AwaitIdle(const Call& call) {
  const std::shared_ptr<Incarnation> incarnation = call.on;
  // Asked twice: the first question may overtake a call that was stopped as soon as it was sent.
  for (int idle_answers = 0; idle_answers < 2;) {
    {
      std::lock_guard<std::mutex> lock(mutex);
      if (incarnation->doomed()) return;
    }
    const auto status = incarnation->transport().GetStatus(options.cancel_grace);
    const bool at_it =
        !status.ok() || (call.side_id == 0 ? status->busy() : status->side_call_id() == call.side_id);
    idle_answers = at_it ? 0 : idle_answers + 1;
    std::unique_lock<std::mutex> lock(mutex);
    changed.wait_until(lock, In(kIdlePoll), [&] { return incarnation->doomed(); });
  }
}

// A lost connection shows in several codes, which a worker can use for its own errors, too: ask whether it
// lives.
absl::Status Worker::Impl::CheckAlive(const Call& call, absl::Status status) {
  const std::shared_ptr<Incarnation> incarnation = call.on;
  bool doomed;
  {
    std::lock_guard<std::mutex> lock(mutex);
    doomed = incarnation->doomed();
  }
  if (!doomed && incarnation->transport().GetStatus(kProbeTimeout).ok()) return status;
  {
    // Most likely it has just died and is not buried yet.
    std::unique_lock<std::mutex> lock(mutex);
    if (changed.wait_until(lock, In(kProbeTimeout), [&] { return incarnation->dead; }))
      return Died(*incarnation);
  }
  Kill(incarnation, "connection_lost");
  std::lock_guard<std::mutex> lock(mutex);
  return Died(*incarnation);
}

// Under the mutex.
absl::Status Worker::Impl::Died(const Incarnation& incarnation) const {
  const std::string& cause = incarnation.killed_for.empty() ? incarnation.cause : incarnation.killed_for;
  absl::Status status = absl::UnavailableError(
      absl::StrCat("the worker on ", options.device, " died under the call (", cause,
                   cause == kStickyCudaExit ? ", a CUDA error that only a new process ends; see the log" : "",
                   "); try again"));
  status.SetPayload(kWorkerDiedUrl, absl::Cord(cause));
  return status;
}

// A short question outside of any job: bounded by the transport's own time-out.
template <typename Response, typename Run>
absl::StatusOr<Response> Worker::Impl::Ask(const Run& run) {
  Call call;
  call.give_up = In(options.start_timeout);
  EIGSVC_RETURN_IF_ERROR(WaitForProcess(call));
  absl::StatusOr<Response> response = run(call.on->transport());
  if (response.ok() || !absl::IsUnavailable(response.status())) return response;
  return CheckAlive(call, response.status());
}

// --- Worker
// -------------------------------------------------------------------------------------------------------------

Worker::Worker(WorkerOptions options, WorkerLauncher launcher, Metrics* metrics)
    : impl_(std::make_unique<Impl>(std::move(options), std::move(launcher), metrics)) {}
Worker::~Worker() = default;

const std::string& Worker::device() const { return impl_->options.device; }

Worker::Snapshot Worker::snapshot() const {
  std::lock_guard<std::mutex> lock(impl_->mutex);
  return impl_->state;
}

bool Worker::WaitUntilReady(absl::Duration timeout) {
  std::unique_lock<std::mutex> lock(impl_->mutex);
  return impl_->changed.wait_until(lock, In(timeout), [this] { return impl_->up; });
}

void Worker::OnStateChange(std::function<void()> hook) {
  std::unique_lock<std::mutex> lock(impl_->mutex);
  impl_->changed.wait(lock, [this] { return !impl_->telling; });
  impl_->hook = std::move(hook);
  ++impl_->version;  // what changed before is told at once
  impl_->changed.notify_all();
}

absl::Status Worker::RunAnalysis(const worker::v1::RunAnalysisRequest& request, CallControl& control,
                                 const std::function<void(worker::v1::RunAnalysisResponse)>& on_event) {
  return impl_->Perform(control, /*side_id=*/0, [&](WorkerTransport& transport, CallControl& inner) {
    return transport.RunAnalysis(request, inner, on_event);
  });
}

absl::Status Worker::RunTraining(const worker::v1::RunTrainingRequest& request, CallControl& control,
                                 const std::function<void(worker::v1::RunTrainingResponse)>& on_event) {
  return impl_->Perform(control, /*side_id=*/0, [&](WorkerTransport& transport, CallControl& inner) {
    return transport.RunTraining(request, inner, on_event);
  });
}

absl::StatusOr<worker::v1::InspectResponse> Worker::Inspect(const worker::v1::InspectRequest& request,
                                                            CallControl& control) {
  return impl_->PerformSide<worker::v1::InspectResponse>(control, request, &WorkerTransport::Inspect);
}

absl::StatusOr<worker::v1::LoadResponse> Worker::Load(const worker::v1::LoadRequest& request,
                                                      CallControl& control) {
  return impl_->PerformSide<worker::v1::LoadResponse>(control, request, &WorkerTransport::Load);
}

absl::Status Worker::Unload(const worker::v1::UnloadRequest& request) {
  return impl_
      ->Ask<worker::v1::UnloadResponse>(
          [&](WorkerTransport& transport) -> absl::StatusOr<worker::v1::UnloadResponse> {
            EIGSVC_RETURN_IF_ERROR(transport.Unload(request));
            impl_->ReportPool(transport);
            return worker::v1::UnloadResponse();
          })
      .status();
}

absl::StatusOr<worker::v1::ListLoadedResponse> Worker::ListLoaded() {
  return impl_->Ask<worker::v1::ListLoadedResponse>(
      [](WorkerTransport& transport) { return transport.ListLoaded(); });
}

absl::StatusOr<worker::v1::GetCatalogResponse> Worker::GetCatalog() {
  std::unique_lock<std::mutex> lock(impl_->mutex);
  impl_->changed.wait_until(lock, In(impl_->options.start_timeout), [this] {
    return impl_->catalog.has_value() || !impl_->state.problem.empty() || impl_->stopping;
  });
  if (impl_->catalog.has_value()) return *impl_->catalog;
  return absl::UnavailableError(
      absl::StrCat("the worker on ", impl_->options.device,
                   " has not started: ", impl_->state.problem.empty() ? "not yet" : impl_->state.problem));
}

}  // namespace eigsvc
