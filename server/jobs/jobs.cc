#include "server/jobs/jobs.h"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <random>
#include <thread>
#include <unordered_map>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "models/base/status_macros.h"
#include "server/jobs/job.h"
#include "server/jobs/page_token.h"
#include "server/jobs/spec_checks.h"

namespace eigsvc {
namespace {

constexpr int kMaxAttempts = 2;
// How often a runner looks whether its worker came up, and the clock whether queued jobs still have a worker
// to hope for.
constexpr absl::Duration kWorkerPoll = absl::Milliseconds(50);
constexpr absl::Duration kClockPoll = absl::Milliseconds(500);

std::string NewId(absl::string_view prefix) {
  std::random_device entropy;
  return absl::StrCat(prefix, absl::Hex(entropy(), absl::kZeroPad8), absl::Hex(entropy(), absl::kZeroPad8));
}

bool WorkerDied(const absl::Status& status) { return status.GetPayload(kWorkerDiedUrl).has_value(); }

absl::string_view Outcome(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return "succeeded";
    case absl::StatusCode::kCancelled:
      return "cancelled";
    case absl::StatusCode::kDeadlineExceeded:
      return "deadline_exceeded";
    default:
      return "failed";
  }
}

absl::Status ShuttingDown() {
  return absl::UnavailableError("the server is shutting down; submit the job to another one or retry later");
}

// What a worker's answer means for the job: a stop that we asked for is reported as what we asked it for.
absl::Status EndStatus(const Job& job, CallControl& control, const absl::Status& status) {
  if (status.ok()) return status;
  if (absl::Status reason = job.cancel_reason(); !reason.ok()) return reason;
  if (absl::Now() >= control.deadline() &&
      (WorkerDied(status) || absl::IsCancelled(status) || absl::IsDeadlineExceeded(status))) {
    return absl::DeadlineExceededError(
        "the deadline passed while the job ran; ask for less or allow more time");
  }
  if (WorkerDied(status)) {
    return absl::InternalError(
        absl::StrCat("the worker process died twice under this job (", status.message(),
                     "); the input may be more than the device can hold; the server's log "
                     "tells how it ended"));
  }
  return status;
}

// The jobs of one kind that are not forgotten. Not thread-safe.
template <typename Kind>
class JobTable {
 public:
  using TheJob = TypedJob<Kind>;
  void Add(std::shared_ptr<TheJob> job) {
    const int64_t number = ++last_number_;
    numbers_.emplace(job->id(), number);
    by_number_.emplace(number, std::move(job));
  }
  void Forget(const std::string& id) {
    const auto found = numbers_.find(id);
    if (found == numbers_.end()) return;
    by_number_.erase(found->second);
    numbers_.erase(found);
  }
  absl::StatusOr<std::shared_ptr<TheJob>> Find(const std::string& id) const {
    if (id.empty()) return absl::InvalidArgumentError(absl::StrCat(Kind::kName, "_id is required"));
    const auto found = numbers_.find(id);
    if (found != numbers_.end()) return by_number_.at(found->second);
    return absl::NotFoundError(absl::StrCat("no ", Kind::kName, " \"", absl::string_view(id).substr(0, 64),
                                            "\": it never was, or it was forgotten to make room; list them"));
  }
  // The newest `count` with a number below `before`, and the lowest number given when there are more.
  std::vector<std::shared_ptr<TheJob>> NewestBelow(int64_t before, size_t count, int64_t* more_below) const {
    std::vector<std::shared_ptr<TheJob>> jobs;
    *more_below = 0;
    int64_t lowest = 0;
    for (auto it = by_number_.upper_bound(before); it != by_number_.end(); ++it) {
      if (jobs.size() == count) {
        *more_below = lowest;
        break;
      }
      lowest = it->first;
      jobs.push_back(it->second);
    }
    return jobs;
  }

 private:
  int64_t last_number_ = 0;
  std::unordered_map<std::string, int64_t> numbers_;
  std::map<int64_t, std::shared_ptr<TheJob>, std::greater<>> by_number_;
};

}  // namespace

// Who ends a job: whoever takes it out of `queue`. So each ends once, and `mutex` is never held while a job
// tells its watchers.
struct Jobs::Impl {
  Impl(JobsOptions job_options, std::vector<Worker*> job_workers, Store* job_store, Metrics* job_metrics);
  ~Impl();

  template <typename Kind>
  JobTable<Kind>& Table() {
    if constexpr (std::is_same_v<Kind, AnalysisKind>) {
      return analyses;
    } else {
      return trainings;
    }
  }

  template <typename Kind>
  absl::StatusOr<std::string> Submit(typename Kind::WorkerRequest request,
                                     const v1::CheckpointRef& checkpoint, absl::Time deadline);
  template <typename Kind>
  absl::StatusOr<std::shared_ptr<TypedJob<Kind>>> Find(const std::string& id);
  template <typename Kind>
  absl::StatusOr<Page<typename Kind::Record>> List(int32_t page_size, const std::string& page_token);

  Known KnownNames(worker::v1::GetCatalogResponse* catalog);
  void Cancel(const std::shared_ptr<Job>& job, const absl::Status& reason);
  void Execute(const std::shared_ptr<Job>& job, Worker& worker);
  void Finish(const std::shared_ptr<Job>& job, const absl::Status& status);
  void RunnerLoop(Worker* worker);
  void ClockLoop();
  void StopAdmission();
  void Shutdown(absl::Time finish_by);

  std::deque<std::shared_ptr<Job>>::iterator FirstFor(const Worker& worker);
  std::shared_ptr<Job> TakeFromQueue(
      const std::shared_ptr<Job>& job);  // mutex held; null when it is not there

  const JobsOptions options;
  const std::vector<Worker*> workers;
  Store& store;
  Metrics& metrics;
  const PageTokens tokens;

  mutable std::mutex mutex;
  std::condition_variable changed;
  // Guarded by mutex.
  bool admitting = true, stopping = false;
  std::deque<std::shared_ptr<Job>> queue;
  std::vector<std::shared_ptr<Job>> running;
  std::deque<std::shared_ptr<Job>> finished;  // oldest first
  int64_t finished_bytes = 0;
  JobTable<AnalysisKind> analyses;
  JobTable<TrainingKind> trainings;

  std::vector<std::thread> threads;
};

Jobs::Impl::Impl(JobsOptions job_options, std::vector<Worker*> job_workers, Store* job_store,
                 Metrics* job_metrics)
    : options(job_options), workers(std::move(job_workers)), store(*job_store), metrics(*job_metrics) {
  metrics.SetQueueCapacity(options.queue_capacity);
  metrics.SetQueueDepth(0);
  for (Worker* worker : workers) threads.emplace_back([this, worker] { RunnerLoop(worker); });
  threads.emplace_back([this] { ClockLoop(); });
}

Jobs::Impl::~Impl() {
  Shutdown(absl::InfinitePast());
  {
    const std::lock_guard lock(mutex);
    stopping = true;
  }
  changed.notify_all();
  for (std::thread& thread : threads) thread.join();
}

Known Jobs::Impl::KnownNames(worker::v1::GetCatalogResponse* catalog) {
  Known known;
  for (Worker* worker : workers) {
    known.devices.push_back(worker->device());
    // Only a worker that has been up answers without waiting; all are the same program.
    if (known.catalog != nullptr || worker->snapshot().status.device().empty()) continue;
    if (absl::StatusOr<worker::v1::GetCatalogResponse> answer = worker->GetCatalog(); answer.ok()) {
      *catalog = *std::move(answer);
      known.catalog = catalog;
    }
  }
  return known;
}

template <typename Kind>
absl::StatusOr<std::string> Jobs::Impl::Submit(typename Kind::WorkerRequest request,
                                               const v1::CheckpointRef& checkpoint, absl::Time deadline) {
  const auto check = [&]() -> absl::StatusOr<std::shared_ptr<TypedJob<Kind>>> {
    worker::v1::GetCatalogResponse catalog;
    const Known known = KnownNames(&catalog);
    ChooseData(*request.mutable_spec()->mutable_task(), known, store);
    EIGSVC_RETURN_IF_ERROR(CheckSpec(request.spec(), known));
    EIGSVC_ASSIGN_OR_RETURN(worker::v1::ResolvedCheckpoint resolved, ResolveCheckpoint(checkpoint, store));
    if constexpr (std::is_same_v<Kind, AnalysisKind>) {
      *request.mutable_checkpoint() = std::move(resolved);
    } else {
      *request.mutable_start() = std::move(resolved);
    }
    EIGSVC_ASSIGN_OR_RETURN(*request.mutable_data_path(), ResolveData(request.spec().task().data(), store));
    return std::make_shared<TypedJob<Kind>>(NewId(Kind::kIdPrefix), std::move(request), deadline);
  };
  absl::StatusOr<std::shared_ptr<TypedJob<Kind>>> job = check();
  if (!job.ok()) {
    metrics.JobRejected("invalid");
    return job.status();
  }
  {
    const std::lock_guard lock(mutex);
    if (!admitting) {
      metrics.JobRejected("draining");
      return ShuttingDown();
    }
    if (static_cast<int64_t>(queue.size()) >= options.queue_capacity) {
      metrics.JobRejected("queue_full");
      return absl::ResourceExhaustedError(
          absl::StrCat("the queue is full: ", queue.size(), " jobs wait; retry later or cancel one"));
    }
    (*job)->Accept(static_cast<int32_t>(queue.size()));
    Table<Kind>().Add(*job);
    queue.push_back(*job);
    metrics.SetQueueDepth(static_cast<int64_t>(queue.size()));
  }
  changed.notify_all();
  return (*job)->id();
}

template <typename Kind>
absl::StatusOr<std::shared_ptr<TypedJob<Kind>>> Jobs::Impl::Find(const std::string& id) {
  const std::lock_guard lock(mutex);
  return Table<Kind>().Find(id);
}

template <typename Kind>
absl::StatusOr<Page<typename Kind::Record>> Jobs::Impl::List(int32_t page_size,
                                                             const std::string& page_token) {
  EIGSVC_ASSIGN_OR_RETURN(const int32_t count, PageSize(page_size));
  int64_t before = std::numeric_limits<int64_t>::max();
  if (!page_token.empty()) {
    EIGSVC_ASSIGN_OR_RETURN(const std::string position, tokens.Read(Kind::kName, page_token));
    if (!absl::SimpleAtoi(position, &before))
      return absl::InternalError("a page token of ours holds no number");
  }
  std::vector<std::shared_ptr<TypedJob<Kind>>> jobs;
  int64_t more_below = 0;
  {
    const std::lock_guard lock(mutex);
    jobs = Table<Kind>().NewestBelow(before, static_cast<size_t>(count), &more_below);
  }
  Page<typename Kind::Record> page;
  for (const auto& job : jobs) page.records.push_back(job->Brief());
  if (more_below > 0) page.next_page_token = tokens.Make(Kind::kName, absl::StrCat(more_below));
  return page;
}

std::shared_ptr<Job> Jobs::Impl::TakeFromQueue(const std::shared_ptr<Job>& job) {
  const auto found = std::find(queue.begin(), queue.end(), job);
  if (found == queue.end()) return nullptr;
  queue.erase(found);
  metrics.SetQueueDepth(static_cast<int64_t>(queue.size()));
  return job;
}

void Jobs::Impl::Cancel(const std::shared_ptr<Job>& job, const absl::Status& reason) {
  // The flag first, then the queue; a requeue does it the other way round. So one of the two sees the other.
  job->Cancel(reason);
  std::shared_ptr<Job> queued;
  {
    const std::lock_guard lock(mutex);
    queued = TakeFromQueue(job);
  }
  if (queued != nullptr) Finish(queued, reason);
}

void Jobs::Impl::Finish(const std::shared_ptr<Job>& job, const absl::Status& status) {
  const absl::Time now = absl::Now();
  const bool ran = job->started() != absl::InfinitePast();
  if (!status.ok()) store.RemoveSpool(job->id());
  if (const absl::Time asked = job->cancelled_at(); ran && asked <= now) metrics.CancelTook(now - asked);
  // A job that never ran has waited all the same.
  if (!ran) metrics.JobStarted(job->kind(), now - job->created());
  metrics.JobFinished(job->kind(), Outcome(status), ran ? now - job->started() : absl::ZeroDuration());
  if (status.ok()) metrics.AddEigenvalues(job->task(), job->eigenvalues());
  job->Finish(status);

  std::vector<std::shared_ptr<Job>> forgotten;
  {
    const std::lock_guard lock(mutex);
    std::erase(running, job);
    finished.push_back(job);
    finished_bytes += job->memory_bytes();
    while (finished.size() > 1 && finished_bytes > options.result_memory_bytes) {
      finished_bytes -= finished.front()->memory_bytes();
      analyses.Forget(finished.front()->id());
      trainings.Forget(finished.front()->id());
      forgotten.push_back(std::move(finished.front()));
      finished.pop_front();
    }
    metrics.SetResultBytes(finished_bytes);
  }
  changed.notify_all();
  for (const auto& old : forgotten) store.RemoveSpool(old->id());
}

std::deque<std::shared_ptr<Job>>::iterator Jobs::Impl::FirstFor(const Worker& worker) {
  return std::find_if(queue.begin(), queue.end(), [&](const std::shared_ptr<Job>& job) {
    return job->device().empty() || job->device() == worker.device();
  });
}

void Jobs::Impl::RunnerLoop(Worker* worker) {
  while (true) {
    {
      std::unique_lock lock(mutex);
      changed.wait(lock, [&] { return stopping || FirstFor(*worker) != queue.end(); });
      if (stopping) return;
    }
    // Before a job is taken: while this worker restarts, another may take it.
    if (!worker->WaitUntilReady(kWorkerPoll)) continue;
    std::shared_ptr<Job> job;
    {
      const std::lock_guard lock(mutex);
      const auto first = FirstFor(*worker);
      if (first == queue.end()) continue;
      job = *first;
      queue.erase(first);
      running.push_back(job);
      metrics.SetQueueDepth(static_cast<int64_t>(queue.size()));
    }
    Execute(job, *worker);
  }
}

void Jobs::Impl::Execute(const std::shared_ptr<Job>& job, Worker& worker) {
  job->Start();
  if (job->attempts() == 1) {
    metrics.JobStarted(job->kind(), job->started() - job->created());
  } else {
    metrics.JobRetried(job->kind());
  }
  const absl::Status status = job->Run(worker, store, metrics, options.max_export_bytes);
  const bool again = WorkerDied(status) && job->attempts() < kMaxAttempts && !job->control().cancelled() &&
                     absl::Now() < job->control().deadline();
  if (!again) {
    Finish(job, EndStatus(*job, job->control(), status));
    return;
  }
  store.RemoveSpool(job->id());
  job->Requeue();
  {
    const std::lock_guard lock(mutex);
    std::erase(running, job);
    queue.push_front(job);
    metrics.SetQueueDepth(static_cast<int64_t>(queue.size()));
  }
  changed.notify_all();
  if (absl::Status reason = job->cancel_reason(); !reason.ok()) Cancel(job, reason);
}

// Ends queued jobs whose deadline passed, or that no worker will come for.
void Jobs::Impl::ClockLoop() {
  std::unordered_map<const Worker*, absl::Time> broken_since;
  while (true) {
    {
      std::unique_lock lock(mutex);
      changed.wait(lock, [&] { return stopping || !queue.empty(); });
      absl::Time wake = absl::Now() + kClockPoll;
      for (const auto& job : queue) wake = std::min(wake, job->control().deadline());
      changed.wait_until(lock, absl::ToChronoTime(wake), [&] { return stopping; });
      if (stopping) return;
    }
    const absl::Time now = absl::Now();
    std::vector<std::string> problems;
    std::unordered_map<std::string, std::string> hopeless;  // device -> problem
    for (const Worker* worker : workers) {
      const Worker::Snapshot snapshot = worker->snapshot();
      const bool up = snapshot.state == Worker::State::kIdle || snapshot.state == Worker::State::kBusy;
      if (up || snapshot.problem.empty()) {
        broken_since.erase(worker);
      } else if (now - broken_since.try_emplace(worker, now).first->second >= options.worker_patience) {
        hopeless[worker->device()] = snapshot.problem;
        problems.push_back(absl::StrCat(worker->device(), ": ", snapshot.problem));
      }
    }
    std::vector<std::pair<std::shared_ptr<Job>, absl::Status>> ended;
    {
      const std::lock_guard lock(mutex);
      for (const auto& job : queue) {
        if (job->control().deadline() <= now) {
          ended.emplace_back(job,
                             absl::DeadlineExceededError(
                                 "the deadline passed while the job waited in the queue; allow more time"));
        } else if (job->device().empty() ? hopeless.size() == workers.size()
                                         : hopeless.contains(job->device())) {
          ended.emplace_back(job, absl::UnavailableError(
                                      absl::StrCat("no worker that could run the job starts (",
                                                   absl::StrJoin(problems, "; "), "); mend it, then retry")));
        }
      }
      for (const auto& [job, status] : ended) TakeFromQueue(job);
    }
    for (const auto& [job, status] : ended) Finish(job, status);
  }
}

void Jobs::Impl::StopAdmission() {
  std::deque<std::shared_ptr<Job>> queued;
  {
    const std::lock_guard lock(mutex);
    if (!std::exchange(admitting, false)) return;  // what waits now is a retry of a job that ran
    queued.swap(queue);
    metrics.SetQueueDepth(0);
  }
  for (const auto& job : queued) Finish(job, ShuttingDown());
}

void Jobs::Impl::Shutdown(absl::Time finish_by) {
  StopAdmission();
  std::vector<std::shared_ptr<Job>> left;
  {
    std::unique_lock lock(mutex);
    const auto idle = [&] { return running.empty() && queue.empty(); };
    if (finish_by == absl::InfiniteFuture()) {
      changed.wait(lock, idle);
    } else {
      changed.wait_until(lock, absl::ToChronoTime(std::max(finish_by, absl::UnixEpoch())), idle);
    }
    left = running;
    left.insert(left.end(), queue.begin(), queue.end());  // waits to be retried
  }
  for (const auto& job : left) {
    Cancel(job,
           absl::UnavailableError("the server shut down before the job ended; run it again on another one"));
  }
  std::unique_lock lock(mutex);
  changed.wait(lock, [&] { return running.empty() && queue.empty(); });
}

Jobs::Jobs(JobsOptions options, std::vector<Worker*> workers, Store* store, Metrics* metrics)
    : impl_(std::make_unique<Impl>(options, std::move(workers), store, metrics)) {}

Jobs::~Jobs() = default;

absl::StatusOr<std::string> Jobs::SubmitAnalysis(const v1::AnalysisSpec& spec, absl::Time deadline) {
  worker::v1::RunAnalysisRequest request;
  *request.mutable_spec() = spec;
  return impl_->Submit<AnalysisKind>(std::move(request), spec.checkpoint(), deadline);
}

absl::StatusOr<std::string> Jobs::SubmitTraining(const v1::TrainingSpec& spec, absl::Time deadline) {
  worker::v1::RunTrainingRequest request;
  *request.mutable_spec() = spec;
  return impl_->Submit<TrainingKind>(std::move(request), spec.start(), deadline);
}

absl::StatusOr<v1::Analysis> Jobs::GetAnalysis(const std::string& id) const {
  EIGSVC_ASSIGN_OR_RETURN(const std::shared_ptr<AnalysisJob> job, impl_->Find<AnalysisKind>(id));
  return job->Whole();
}

absl::StatusOr<v1::Training> Jobs::GetTraining(const std::string& id) const {
  EIGSVC_ASSIGN_OR_RETURN(const std::shared_ptr<TrainingJob> job, impl_->Find<TrainingKind>(id));
  return job->Whole();
}

absl::StatusOr<Page<v1::Analysis>> Jobs::ListAnalyses(int32_t page_size,
                                                      const std::string& page_token) const {
  return impl_->List<AnalysisKind>(page_size, page_token);
}

absl::StatusOr<Page<v1::Training>> Jobs::ListTrainings(int32_t page_size,
                                                       const std::string& page_token) const {
  return impl_->List<TrainingKind>(page_size, page_token);
}

absl::Status Jobs::CancelAnalysis(const std::string& id, const absl::Status& reason) {
  EIGSVC_ASSIGN_OR_RETURN(const std::shared_ptr<AnalysisJob> job, impl_->Find<AnalysisKind>(id));
  impl_->Cancel(job, reason);
  return absl::OkStatus();
}

absl::Status Jobs::CancelTraining(const std::string& id, const absl::Status& reason) {
  EIGSVC_ASSIGN_OR_RETURN(const std::shared_ptr<TrainingJob> job, impl_->Find<TrainingKind>(id));
  impl_->Cancel(job, reason);
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<EventStream>> Jobs::WatchAnalysis(const std::string& id,
                                                                 std::function<void()> on_ready) {
  EIGSVC_ASSIGN_OR_RETURN(std::shared_ptr<AnalysisJob> job, impl_->Find<AnalysisKind>(id));
  return Job::Watch(std::move(job), std::move(on_ready));
}

absl::StatusOr<std::unique_ptr<EventStream>> Jobs::WatchTraining(const std::string& id,
                                                                 std::function<void()> on_ready) {
  EIGSVC_ASSIGN_OR_RETURN(std::shared_ptr<TrainingJob> job, impl_->Find<TrainingKind>(id));
  return Job::Watch(std::move(job), std::move(on_ready));
}

absl::StatusOr<std::string> Jobs::EigenvaluesPath(const std::string& id) const {
  EIGSVC_ASSIGN_OR_RETURN(const std::shared_ptr<AnalysisJob> job, impl_->Find<AnalysisKind>(id));
  return job->KeptPath();
}

int64_t Jobs::queue_depth() const {
  const std::lock_guard lock(impl_->mutex);
  return static_cast<int64_t>(impl_->queue.size());
}

void Jobs::StopAdmission() { impl_->StopAdmission(); }
void Jobs::Shutdown(absl::Time finish_by) { impl_->Shutdown(finish_by); }

}  // namespace eigsvc
