// Jobs: admission, the bounded queue, one runner thread a worker, and the bounded memory of results.
// server/rpc and server/http both call it; it knows neither. Thread-safe; no method blocks on a job unless it
// says so.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "eigsvc/v1/analysis.pb.h"
#include "eigsvc/v1/training.pb.h"
#include "server/metrics/metrics.h"
#include "server/store/store.h"
#include "server/workers/worker.h"

namespace eigsvc {

struct JobsOptions {
  int64_t queue_capacity = 64;
  int64_t result_memory_bytes = int64_t{256} << 20;  // finished jobs kept; the newest one always is
  int64_t max_export_bytes = int64_t{4} << 30;       // per job, within the store's spool
  // A queued job ends with UNAVAILABLE when none of its workers has been able to start for this long.
  absl::Duration worker_patience = absl::Seconds(30);
};

// An event in wire form: the bytes of AnalyzeResponse (= WatchAnalysisResponse) or TrainResponse (=
// WatchTrainingResponse). Encoded once, shared by every watcher and by the record.
using WireEvent = std::shared_ptr<const std::string>;

// A view of one job's events with one slot for the newest snapshot: a slow reader skips snapshots, so its
// memory is bounded. Thread-safe. May outlive Jobs.
class EventStream {
 public:
  virtual ~EventStream() = default;
  // The next event, if there is one now. Order: accepted; model and newest progress as they
  // come; result.
  // nullptr with *ended = false: nothing yet; `on_ready` of Watch is called when there is. With *ended =
  // true: no more, and *status is the job's.
  virtual WireEvent Next(bool* ended, absl::Status* status) = 0;
};

template <typename Record>
struct Page {
  std::vector<Record> records;
  std::string next_page_token;
};

class Jobs {
 public:
  // Pointers outlive it; `metrics` and `store` are used from its threads.
  Jobs(JobsOptions options, std::vector<Worker*> workers, Store* store, Metrics* metrics);
  ~Jobs();  // Shutdown(now)

  // Validates, resolves paths (blocking on the store: call from an I/O thread) and queues. Returns the id.
  // INVALID_ARGUMENT, NOT_FOUND, PERMISSION_DENIED for the request; RESOURCE_EXHAUSTED when the queue is
  // full; UNAVAILABLE while draining. `deadline` ends the job wherever it is.
  absl::StatusOr<std::string> SubmitAnalysis(const v1::AnalysisSpec& spec, absl::Time deadline);
  absl::StatusOr<std::string> SubmitTraining(const v1::TrainingSpec& spec, absl::Time deadline);

  // NOT_FOUND. Decodes spectra: call from an I/O thread.
  absl::StatusOr<v1::Analysis> GetAnalysis(const std::string& id) const;
  absl::StatusOr<v1::Training> GetTraining(const std::string& id) const;
  // Newest first, without spectra. INVALID_ARGUMENT for a foreign token or a page size outside [0, 1000].
  absl::StatusOr<Page<v1::Analysis>> ListAnalyses(int32_t page_size, const std::string& page_token) const;
  absl::StatusOr<Page<v1::Training>> ListTrainings(int32_t page_size, const std::string& page_token) const;

  // Passes the cancel on and returns at once; a finished job is left as it is. `reason` becomes the job's
  // status, the first one where there are several. NOT_FOUND.
  absl::Status CancelAnalysis(const std::string& id, const absl::Status& reason);
  absl::Status CancelTraining(const std::string& id, const absl::Status& reason);

  // `on_ready` is called (from any thread, never under a lock of Jobs) when Next may have something; not
  // after the stream is destroyed, so destroying it waits for a call in progress and must not happen inside
  // one.
  absl::StatusOr<std::unique_ptr<EventStream>> WatchAnalysis(const std::string& id,
                                                             std::function<void()> on_ready);
  absl::StatusOr<std::unique_ptr<EventStream>> WatchTraining(const std::string& id,
                                                             std::function<void()> on_ready);

  // Path of the kept eigenvalues. NOT_FOUND, FAILED_PRECONDITION (not finished, or none kept).
  absl::StatusOr<std::string> EigenvaluesPath(const std::string& id) const;

  int64_t queue_depth() const;
  // No more submissions; queued jobs end with UNAVAILABLE, running ones go on.
  void StopAdmission();
  // StopAdmission, waits for running jobs, then cancels what is left. Returns when no job runs.
  void Shutdown(absl::Time finish_by);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace eigsvc
