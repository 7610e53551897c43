#include "server/jobs/job.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "google/protobuf/timestamp.pb.h"
#include "models/base/status_macros.h"
#include "models/base/status_util.h"
#include "models/base/utf8.h"
#include "server/jobs/metrics_feed.h"
#include "server/jobs/spec_checks.h"

namespace eigsvc {
namespace {

constexpr size_t kMaxMessageBytes = 4096;
// What a job takes beside its encoded events and its request, roughly; keeps the number of tiny results
// bounded too.
constexpr int64_t kJobBytes = 4096;

google::protobuf::Timestamp ToTimestamp(absl::Time time) {
  google::protobuf::Timestamp stamp;
  const absl::Duration since_epoch = time - absl::UnixEpoch();
  absl::Duration rest;
  stamp.set_seconds(absl::IDivDuration(since_epoch, absl::Seconds(1), &rest));
  stamp.set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(rest)));
  return stamp;
}

v1::JobState EndState(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return v1::JOB_STATE_SUCCEEDED;
    case absl::StatusCode::kCancelled:
    case absl::StatusCode::kDeadlineExceeded:
      return v1::JOB_STATE_CANCELLED;
    default:
      return v1::JOB_STATE_FAILED;
  }
}

// Both kinds' messages differ in the name of their id only.
void SetId(v1::Analysis* record, const std::string& id) { record->set_analysis_id(id); }
void SetId(v1::Training* record, const std::string& id) { record->set_training_id(id); }
void SetId(v1::AnalysisEvent* event, const std::string& id) { event->set_analysis_id(id); }
void SetId(v1::TrainingEvent* event, const std::string& id) { event->set_training_id(id); }
void SetId(worker::v1::RunAnalysisRequest* request, const std::string& id) { request->set_analysis_id(id); }
void SetId(worker::v1::RunTrainingRequest* request, const std::string& id) { request->set_training_id(id); }

template <typename Request>
Request WithId(Request request, const std::string& id) {
  SetId(&request, id);
  return request;
}

// A job that was accepted before any worker had said which tasks read data gets the data root's now.
template <typename Request>
absl::Status AddData(Request* request, Worker& worker, Store& store) {
  v1::TaskSpec& task = *request->mutable_spec()->mutable_task();
  if (task.has_data()) return absl::OkStatus();
  EIGSVC_ASSIGN_OR_RETURN(const worker::v1::GetCatalogResponse catalog, worker.GetCatalog());
  Known known;
  known.catalog = &catalog;
  ChooseData(task, known, store);
  EIGSVC_ASSIGN_OR_RETURN(*request->mutable_data_path(), ResolveData(task.data(), store));
  return absl::OkStatus();
}

// Where the job's files go. What is not taken into the store lives in the spool until the job fails or is
// forgotten.
absl::Status AddOutputs(worker::v1::RunAnalysisRequest* request, Store& store, int64_t max_export_bytes,
                        const CallControl& control) {
  if (!request->spec().keep_eigenvalues()) return absl::OkStatus();
  EIGSVC_ASSIGN_OR_RETURN(std::string path,
                          store.NewSpoolPath(request->analysis_id(), "eigenvalues.safetensors"));
  request->set_export_path(path);
  const auto stopped = [&] { return control.cancelled() || absl::Now() >= control.deadline(); };
  EIGSVC_ASSIGN_OR_RETURN(const int64_t granted,
                          store.ReserveSpool(request->analysis_id(), max_export_bytes, stopped));
  request->set_max_export_bytes(granted);
  return absl::OkStatus();
}
absl::Status AddOutputs(worker::v1::RunTrainingRequest* request, Store& store, int64_t, const CallControl&) {
  EIGSVC_ASSIGN_OR_RETURN(*request->mutable_output_path(),
                          store.NewSpoolPath(request->training_id(), "best.safetensors"));
  EIGSVC_ASSIGN_OR_RETURN(*request->mutable_last_path(),
                          store.NewSpoolPath(request->training_id(), "last.safetensors"));
  return absl::OkStatus();
}

// Takes the files into the store and puts their digests into the result. Returns the path that stays in the
// spool.
absl::StatusOr<std::string> TakeOutputs(const worker::v1::RunAnalysisRequest& request,
                                        worker::v1::RunAnalysisResponse*, Store&) {
  return request.export_path();
}
absl::StatusOr<std::string> TakeOutputs(const worker::v1::RunTrainingRequest&,
                                        worker::v1::RunTrainingResponse* response, Store& store) {
  v1::TrainingResult& result = *response->mutable_event()->mutable_result();
  if (response->last_path().empty()) {
    return absl::InternalError("the worker ended a training without naming its checkpoint; report it");
  }
  if (!response->best_path().empty()) {  // a resumed run may not beat the earlier best
    EIGSVC_ASSIGN_OR_RETURN(*result.mutable_best_sha256(),
                            store.Adopt(StoreKind::kCheckpoint, response->best_path()));
  }
  EIGSVC_ASSIGN_OR_RETURN(*result.mutable_last_sha256(),
                          store.Adopt(StoreKind::kCheckpoint, response->last_path()));
  return std::string();
}

// Takes into the store what an attempt that did not end well has left and is of use, and names it in the
// record.
absl::Status TakeLeftovers(const worker::v1::RunAnalysisRequest&, v1::Analysis*, Store&) {
  return absl::OkStatus();
}
absl::Status TakeLeftovers(const worker::v1::RunTrainingRequest& request, v1::Training* record,
                           Store& store) {
  const auto take = [&](const std::string& path, std::string* digest) -> absl::Status {
    absl::StatusOr<std::string> adopted = store.Adopt(StoreKind::kCheckpoint, path);
    if (absl::IsNotFound(adopted.status())) return absl::OkStatus();  // not written yet
    if (adopted.ok()) *digest = *std::move(adopted);
    return adopted.status();
  };
  EIGSVC_RETURN_IF_ERROR(take(request.last_path(), record->mutable_last_sha256()));
  return take(request.output_path(), record->mutable_best_sha256());
}
// What the client calls a server's path that it named by `ref`, a CheckpointRef or a DataRef. Uploads keep
// the name of a single file.
template <typename Ref>
std::string ClientsName(const Ref& ref, const std::string& path) {
  if (ref.has_name()) return ref.name();
  if (!ref.has_sha256()) return path;  // it named the path itself
  const std::string last = path.substr(path.rfind('/') + 1);
  return absl::StartsWith(last, ref.sha256()) ? absl::StrCat("upload ", ref.sha256().substr(0, 12)) : last;
}

using Names = std::vector<std::pair<std::string, std::string>>;  // the server's path, the client's name
Names ClientsNames(const worker::v1::RunAnalysisRequest& request) {
  return {{request.checkpoint().path(), ClientsName(request.checkpoint().ref(), request.checkpoint().path())},
          {request.data_path(), ClientsName(request.spec().task().data(), request.data_path())},
          {request.export_path(), "the file of kept eigenvalues"}};
}
Names ClientsNames(const worker::v1::RunTrainingRequest& request) {
  return {{request.start().path(), ClientsName(request.start().ref(), request.start().path())},
          {request.data_path(), ClientsName(request.spec().task().data(), request.data_path())},
          {request.output_path(), "the best checkpoint's file"},
          {request.last_path(), "the last checkpoint's file"}};
}

// Messages of a worker name paths, which say nothing to a client and are none of its business.
template <typename Request>
absl::Status InClientsWords(const Request& request, const absl::Status& status) {
  Names names = ClientsNames(request);
  std::erase_if(names, [](const auto& name) { return name.first.empty(); });
  return WithMessage(status, absl::StrReplaceAll(status.message(), names));
}

void ForgetLeftovers(v1::Analysis*) {}
void ForgetLeftovers(v1::Training* record) {
  record->clear_best_sha256();
  record->clear_last_sha256();
}

const v1::CheckpointRef& Weights(const worker::v1::RunAnalysisRequest& request) {
  return request.checkpoint().ref();
}
const v1::CheckpointRef& Weights(const worker::v1::RunTrainingRequest& request) {
  return request.start().ref();
}

absl::Status Call(Worker& worker, const worker::v1::RunAnalysisRequest& request, CallControl& control,
                  const std::function<void(worker::v1::RunAnalysisResponse)>& on_event) {
  return worker.RunAnalysis(request, control, on_event);
}
absl::Status Call(Worker& worker, const worker::v1::RunTrainingRequest& request, CallControl& control,
                  const std::function<void(worker::v1::RunTrainingResponse)>& on_event) {
  return worker.RunTraining(request, control, on_event);
}

int64_t Eigenvalues(const v1::Analysis& record) { return record.result().eigenvalues(); }
int64_t Eigenvalues(const v1::Training&) { return 0; }

// Encodes the event in its response without a copy of it.
template <typename Kind, typename Event>
WireEvent Encode(Event* event) {
  typename Kind::Response response;
  response.mutable_event()->Swap(event);
  auto wire = std::make_shared<const std::string>(response.SerializeAsString());
  response.mutable_event()->Swap(event);
  return wire;
}

}  // namespace

// One watcher's callback, shared by its stream and whoever notifies. Its mutex is held during the call, which
// is how destroying the stream waits for one in progress.
class Job::Watcher {
 public:
  explicit Watcher(std::function<void()> on_ready) : on_ready_(std::move(on_ready)) {}
  void Notify() {
    const std::lock_guard lock(mutex_);
    if (on_ready_) on_ready_();
  }
  void Close() {
    const std::lock_guard lock(mutex_);
    on_ready_ = nullptr;
  }

 private:
  std::mutex mutex_;
  std::function<void()> on_ready_;
};

class Job::Stream : public EventStream {
 public:
  Stream(std::shared_ptr<Job> job, std::shared_ptr<Watcher> watcher)
      : job_(std::move(job)), watcher_(std::move(watcher)) {}
  ~Stream() override {
    watcher_->Close();
    const std::lock_guard lock(job_->mutex_);
    std::erase(job_->watchers_, watcher_);
  }

  WireEvent Next(bool* ended, absl::Status* status) override {
    const std::lock_guard lock(job_->mutex_);
    *ended = false;
    if (!std::exchange(sent_accepted_, true)) return job_->accepted_;
    if (!sent_model_ && job_->model_ != nullptr) {
      sent_model_ = true;
      return job_->model_;
    }
    if (job_->progress_ != nullptr && sent_progress_ < job_->progress_version_) {
      sent_progress_ = job_->progress_version_;
      return job_->progress_;
    }
    if (job_->ended_ == absl::InfinitePast()) return nullptr;
    if (!sent_result_ && job_->result_ != nullptr) {
      sent_result_ = true;
      return job_->result_;
    }
    *ended = true;
    *status = job_->status_;
    return nullptr;
  }

 private:
  const std::shared_ptr<Job> job_;
  const std::shared_ptr<Watcher> watcher_;
  // Guarded by job_->mutex_.
  bool sent_accepted_ = false, sent_model_ = false, sent_result_ = false;
  int64_t sent_progress_ = 0;
};

Job::Job(std::string id, std::string device, absl::Time deadline, size_t request_bytes)
    : id_(std::move(id)),
      device_(std::move(device)),
      request_bytes_(request_bytes),
      created_(absl::Now()),
      control_(deadline) {}

int Job::attempts() const {
  const std::lock_guard lock(mutex_);
  return attempts_;
}

absl::Time Job::started() const {
  const std::lock_guard lock(mutex_);
  return started_;
}

int64_t Job::memory_bytes() const {
  const std::lock_guard lock(mutex_);
  // The request is held twice: as sent to the worker and in the record.
  int64_t bytes = kJobBytes + 2 * static_cast<int64_t>(request_bytes_);
  for (const WireEvent& event : {accepted_, model_, progress_, result_}) {
    if (event != nullptr) bytes += static_cast<int64_t>(event->size());
  }
  return bytes;
}

void Job::Cancel(absl::Status reason) {
  {
    const std::lock_guard lock(mutex_);
    if (cancel_reason_.ok()) {
      cancel_reason_ = std::move(reason);
      cancelled_at_ = absl::Now();
    }
  }
  control_.Cancel();
}

absl::Status Job::cancel_reason() const {
  const std::lock_guard lock(mutex_);
  return cancel_reason_;
}

absl::Time Job::cancelled_at() const {
  const std::lock_guard lock(mutex_);
  return cancelled_at_;
}

void Job::Accept(int32_t queue_position) {
  WireEvent wire = EncodeAccepted(queue_position);
  const std::lock_guard lock(mutex_);
  accepted_ = std::move(wire);
}

void Job::Start() {
  const std::lock_guard lock(mutex_);
  state_ = v1::JOB_STATE_RUNNING;
  started_ = absl::Now();
  ++attempts_;
}

void Job::Requeue() {
  const std::lock_guard lock(mutex_);
  state_ = v1::JOB_STATE_QUEUED;
}

void Job::Finish(const absl::Status& status) {
  {
    const std::lock_guard lock(mutex_);
    // Rebuilt, so that payloads between rooms do not leave the server and the text is UTF-8.
    status_ =
        absl::Status(status.code(), ToUtf8(absl::StrCat(status.message(), end_note_), kMaxMessageBytes));
    state_ = EndState(status_);
    ended_ = absl::Now();
    if (status_.ok()) {
      progress_ = nullptr;  // the result replaces it
    } else {
      result_ = nullptr;
    }
  }
  NotifyWatchers();
}

std::unique_ptr<EventStream> Job::Watch(std::shared_ptr<Job> job, std::function<void()> on_ready) {
  auto watcher = std::make_shared<Watcher>(std::move(on_ready));
  {
    const std::lock_guard lock(job->mutex_);
    job->watchers_.push_back(watcher);
  }
  return std::make_unique<Stream>(std::move(job), std::move(watcher));
}

void Job::NotifyWatchers() {
  std::vector<std::shared_ptr<Watcher>> watchers;
  {
    const std::lock_guard lock(mutex_);
    watchers = watchers_;
  }
  for (const auto& watcher : watchers) watcher->Notify();
}

void Job::PublishModel(WireEvent wire, const std::function<void()>& update_record) {
  {
    const std::lock_guard lock(mutex_);
    model_ = std::move(wire);
    update_record();
  }
  NotifyWatchers();
}

void Job::PublishProgress(WireEvent wire, const std::function<void()>& update_record) {
  {
    const std::lock_guard lock(mutex_);
    progress_ = std::move(wire);
    ++progress_version_;
    update_record();
  }
  NotifyWatchers();
}

void Job::KeepResult(WireEvent wire, const std::function<void()>& update_record) {
  const std::lock_guard lock(mutex_);
  result_ = std::move(wire);
  update_record();
}

template <typename Record>
void Job::FillState(Record* record) const {
  SetId(record, id_);
  record->set_state(state_);
  record->set_attempts(attempts_);
  *record->mutable_create_time() = ToTimestamp(created_);
  if (started_ != absl::InfinitePast()) *record->mutable_start_time() = ToTimestamp(started_);
  if (ended_ != absl::InfinitePast()) *record->mutable_end_time() = ToTimestamp(ended_);
  if (!status_.ok()) {
    record->clear_result();
    record->mutable_error()->set_code(static_cast<int32_t>(status_.code()));
    record->mutable_error()->set_message(std::string(status_.message()));
  } else if (state_ != v1::JOB_STATE_SUCCEEDED) {
    record->clear_result();  // kept, not yet shown
  }
}

template <typename Kind>
TypedJob<Kind>::TypedJob(std::string id, typename Kind::WorkerRequest request, absl::Time deadline)
    : Job(id, request.spec().device(), deadline, request.ByteSizeLong()),
      request_(WithId(std::move(request), id)) {
  *record_.mutable_spec() = request_.spec();
}

template <typename Kind>
WireEvent TypedJob<Kind>::EncodeAccepted(int32_t queue_position) const {
  typename Kind::Response response;
  SetId(response.mutable_event(), id());
  response.mutable_event()->mutable_accepted()->set_queue_position(queue_position);
  return std::make_shared<const std::string>(response.SerializeAsString());
}

template <typename Kind>
void TypedJob<Kind>::OnEvent(typename Kind::WorkerResponse response) {
  auto& event = *response.mutable_event();
  SetId(&event, id());
  WireEvent wire = Encode<Kind>(&event);
  if (event.has_model()) {
    PublishModel(std::move(wire), [&] { record_.mutable_model()->Swap(event.mutable_model()); });
  } else if (event.has_progress()) {
    event.mutable_progress()->clear_sites();
    PublishProgress(std::move(wire), [&] { record_.mutable_progress()->Swap(event.mutable_progress()); });
  } else if (event.has_result()) {
    event.mutable_result()->clear_sites();
    KeepResult(std::move(wire), [&] { record_.mutable_result()->Swap(event.mutable_result()); });
  }
}

template <typename Kind>
absl::Status TypedJob<Kind>::Run(Worker& worker, Store& store, Metrics& metrics, int64_t max_export_bytes) {
  typename Kind::WorkerRequest request = request_;
  EIGSVC_RETURN_IF_ERROR(AddData(&request, worker, store));
  EIGSVC_RETURN_IF_ERROR(AddOutputs(&request, store, max_export_bytes, control()));
  MetricsFeed feed(metrics, id(), worker.device(), Weights(request_), task());
  std::optional<typename Kind::WorkerResponse> last;
  const absl::Status status = Call(worker, request, control(), [&](typename Kind::WorkerResponse response) {
    // The result waits for the status: an error may still follow it.
    if (response.event().has_result()) {
      last = std::move(response);
    } else {
      feed.See(response.event());
      OnEvent(std::move(response));
    }
  });
  store.ReleaseSpool(id());  // whether or not it has made a file
  if (!status.ok()) {
    KeepLeftovers(request, store);
    return InClientsWords(request, status);
  }
  if (!last.has_value()) {
    return absl::InternalError(
        absl::StrCat("the worker on ", worker.device(), " ended the job without a result; report it"));
  }
  EIGSVC_ASSIGN_OR_RETURN(std::string kept, TakeOutputs(request, &*last, store));
  feed.See(last->event());
  OnEvent(*std::move(last));
  const std::lock_guard lock(mutex_);
  ForgetLeftovers(&record_);  // of an attempt before
  kept_path_ = std::move(kept);
  return absl::OkStatus();
}

template <typename Kind>
void TypedJob<Kind>::KeepLeftovers(const typename Kind::WorkerRequest& request, Store& store) {
  typename Kind::Record left;
  const absl::Status taken = TakeLeftovers(request, &left, store);  // hashes files: outside the lock
  const std::lock_guard lock(mutex_);
  record_.MergeFrom(left);
  end_note_ = taken.ok() ? "" : absl::StrCat("; its checkpoints were not kept: ", taken.message());
}

template <typename Kind>
int64_t TypedJob<Kind>::eigenvalues() const {
  const std::lock_guard lock(mutex_);
  return Eigenvalues(record_);
}

template <typename Kind>
typename Kind::Record TypedJob<Kind>::Brief() const {
  const std::lock_guard lock(mutex_);
  typename Kind::Record record = record_;
  FillState(&record);
  return record;
}

template <typename Kind>
typename Kind::Record TypedJob<Kind>::Whole() const {
  typename Kind::Record record;
  WireEvent progress, result;
  {
    const std::lock_guard lock(mutex_);
    record = record_;
    FillState(&record);
    progress = progress_;
    if (record.has_result()) result = result_;
  }
  typename Kind::Response response;  // decoding outside the lock: spectra can be megabytes
  if (progress != nullptr && response.ParseFromString(*progress)) {
    record.mutable_progress()->Swap(response.mutable_event()->mutable_progress());
  }
  if (result != nullptr && response.ParseFromString(*result)) {
    record.mutable_result()->Swap(response.mutable_event()->mutable_result());
  }
  return record;
}

template <typename Kind>
absl::StatusOr<std::string> TypedJob<Kind>::KeptPath() const {
  const std::lock_guard lock(mutex_);
  typename Kind::Record record;
  FillState(&record);
  if (record.state() != v1::JOB_STATE_SUCCEEDED) {
    return absl::FailedPreconditionError(
        absl::StrCat(Kind::kName, " ", id(), " has no eigenvalues to read: it is ",
                     record.state() == v1::JOB_STATE_QUEUED || record.state() == v1::JOB_STATE_RUNNING
                         ? "not finished; watch it first"
                         : "not one that succeeded"));
  }
  if (kept_path_.empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat(Kind::kName, " ", id(), " kept no eigenvalues; run it again with keep_eigenvalues"));
  }
  return kept_path_;
}

template class TypedJob<AnalysisKind>;
template class TypedJob<TrainingKind>;

}  // namespace eigsvc
