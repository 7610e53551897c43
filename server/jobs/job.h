// Job: one analysis or training run, from admission to its end: its record, its events in wire form and who
// watches them. Internal to the room; the queue and the runners are in jobs.cc.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "eigsvc/v1/analysis.pb.h"
#include "eigsvc/v1/analysis_service.pb.h"
#include "eigsvc/v1/training.pb.h"
#include "eigsvc/v1/training_service.pb.h"
#include "eigsvc/worker/v1/worker_service.pb.h"
#include "server/jobs/jobs.h"

namespace eigsvc {

// std::mutex, not absl::Mutex, throughout the room: ThreadSanitizer sees the former and not Debian's build of
// the latter.
class Job {
 public:
  // `request_bytes`: what the request takes for as long as the job is remembered.
  Job(std::string id, std::string device, absl::Time deadline, size_t request_bytes);
  virtual ~Job() = default;

  virtual absl::string_view kind() const = 0;
  // Runs it on a worker, blocking. Called by the runner that owns it.
  virtual absl::Status Run(Worker& worker, Store& store, Metrics& metrics, int64_t max_export_bytes) = 0;
  // Eigenvalues the result counts, and the task they belong to, for the metrics.
  virtual int64_t eigenvalues() const { return 0; }
  virtual const std::string& task() const = 0;

  const std::string& id() const { return id_; }
  const std::string& device() const { return device_; }  // empty: any
  CallControl& control() { return control_; }
  absl::Time created() const { return created_; }
  int attempts() const;
  absl::Time started() const;  // InfinitePast when never
  int64_t memory_bytes() const;

  // The first reason is the one that counts: it becomes the job's status when the job does not end well.
  void Cancel(absl::Status reason);
  absl::Status cancel_reason() const;  // OK: not cancelled
  absl::Time cancelled_at() const;

  // Each tells the watchers.
  void Accept(int32_t queue_position);
  void Start();
  void Requeue();  // after a worker's death
  void Finish(const absl::Status& status);

  static std::unique_ptr<EventStream> Watch(std::shared_ptr<Job> job, std::function<void()> on_ready);

 protected:
  // Encodes {event = 1} of the kind's response.
  virtual WireEvent EncodeAccepted(int32_t queue_position) const = 0;
  void PublishModel(WireEvent wire, const std::function<void()>& update_record);
  void PublishProgress(WireEvent wire, const std::function<void()>& update_record);
  // Shown once the job finishes well.
  void KeepResult(WireEvent wire, const std::function<void()>& update_record);
  template <typename Record>
  void FillState(Record* record) const;  // mutex held

  mutable std::mutex mutex_;
  WireEvent progress_, result_;
  std::string end_note_;  // goes behind the message of a status that is not OK

 private:
  class Watcher;
  class Stream;
  void NotifyWatchers();

  const std::string id_, device_;
  const size_t request_bytes_;
  const absl::Time created_;
  CallControl control_;

  // Guarded by mutex_.
  v1::JobState state_ = v1::JOB_STATE_QUEUED;
  absl::Time started_ = absl::InfinitePast(), ended_ = absl::InfinitePast();
  absl::Time cancelled_at_ = absl::InfiniteFuture();
  int attempts_ = 0;
  absl::Status status_, cancel_reason_;
  WireEvent accepted_, model_;
  int64_t progress_version_ = 0;
  std::vector<std::shared_ptr<Watcher>> watchers_;
};

// What differs between the two kinds of job.
struct AnalysisKind {
  using Spec = v1::AnalysisSpec;
  using Record = v1::Analysis;
  using Response = v1::AnalyzeResponse;
  using WorkerRequest = worker::v1::RunAnalysisRequest;
  using WorkerResponse = worker::v1::RunAnalysisResponse;
  static constexpr absl::string_view kName = "analysis";
  static constexpr absl::string_view kIdPrefix = "an-";
};
struct TrainingKind {
  using Spec = v1::TrainingSpec;
  using Record = v1::Training;
  using Response = v1::TrainResponse;
  using WorkerRequest = worker::v1::RunTrainingRequest;
  using WorkerResponse = worker::v1::RunTrainingResponse;
  static constexpr absl::string_view kName = "training";
  static constexpr absl::string_view kIdPrefix = "tr-";
};

template <typename Kind>
class TypedJob : public Job {
 public:
  // `request` holds the spec and the resolved sources.
  TypedJob(std::string id, typename Kind::WorkerRequest request, absl::Time deadline);

  absl::string_view kind() const override { return Kind::kName; }
  const std::string& task() const override { return request_.spec().task().name(); }
  absl::Status Run(Worker& worker, Store& store, Metrics& metrics, int64_t max_export_bytes) override;
  int64_t eigenvalues() const override;

  typename Kind::Record Brief() const;  // without spectra
  typename Kind::Record Whole() const;
  // Where kept eigenvalues are; FAILED_PRECONDITION when there are none (yet).
  absl::StatusOr<std::string> KeptPath() const;

 private:
  WireEvent EncodeAccepted(int32_t queue_position) const override;
  void OnEvent(typename Kind::WorkerResponse response);
  // After an attempt that did not end well.
  void KeepLeftovers(const typename Kind::WorkerRequest& request, Store& store);

  const typename Kind::WorkerRequest request_;
  typename Kind::Record record_;  // without spectra; guarded by mutex_, as is:
  std::string kept_path_;
};

extern template class TypedJob<AnalysisKind>;
extern template class TypedJob<TrainingKind>;
using AnalysisJob = TypedJob<AnalysisKind>;
using TrainingJob = TypedJob<TrainingKind>;

}  // namespace eigsvc
