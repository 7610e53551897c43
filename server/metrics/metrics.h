// Metrics: every Prometheus series of the daemon, declared once. Base units, no ids or paths as labels; each
// label takes at most 64 plain values, anything else counts as "other"; a model keeps its name, whatever
// characters that has, cut to 100 bytes and told from its like by a digest. Thread-safe.
#pragma once

#include <functional>
#include <memory>
#include <set>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "server/metrics/exposition.h"
#include "server/metrics/spectrum_metrics.h"
#include "server/metrics/training_metrics.h"

namespace eigsvc {

// What a worker's pool holds, and its device's memory; 0 bytes of the latter: it cannot be told.
struct PoolState {
  std::set<std::string> model_ids;
  int64_t model_bytes = 0;
  int64_t device_total_bytes = 0, device_free_bytes = 0;
};

// How a worker process ended by itself, or why it was killed or never came.
inline constexpr const char* kRestartCauses[] = {
    "signal", "exit", "unresponsive", "cancel_ignored", "start_failed", "connection_lost", "launch_failed"};

class Metrics {
 public:
  Metrics();
  ~Metrics();

  // RPCs: eigsvc_rpcs_total{method,code}, eigsvc_rpc_duration_seconds{method}, eigsvc_rpcs_in_flight{method}.
  void RpcStarted(absl::string_view method);
  void RpcFinished(absl::string_view method, absl::string_view code, absl::Duration duration);
  // Jobs: eigsvc_jobs_total{kind,outcome}, eigsvc_job_queue_wait_seconds{kind},
  // eigsvc_job_duration_seconds{kind}, eigsvc_jobs_in_flight{kind}, eigsvc_jobs_rejected_total{reason},
  // eigsvc_job_retries_total{kind}.
  void JobStarted(absl::string_view kind, absl::Duration waited);
  void JobFinished(absl::string_view kind, absl::string_view outcome, absl::Duration ran);
  void JobRejected(absl::string_view reason);
  void JobRetried(absl::string_view kind);
  // eigsvc_job_phase_duration_seconds{kind,phase}: "load"; of an analysis "forward" and "eigenvalues"; of a
  // training "train".
  void JobPhaseTook(absl::string_view kind, absl::string_view phase, absl::Duration duration);
  // eigsvc_job_queue_depth, eigsvc_job_queue_capacity, eigsvc_results_bytes.
  void SetQueueDepth(int64_t depth);
  void SetQueueCapacity(int64_t capacity);
  void SetResultBytes(int64_t bytes);
  // eigsvc_eigenvalues_total{task}, eigsvc_cancel_latency_seconds.
  void AddEigenvalues(absl::string_view task, int64_t count);
  void CancelTook(absl::Duration duration);
  // Workers: eigsvc_worker_up{device}, eigsvc_worker_busy{device},
  // eigsvc_worker_restarts_total{device,cause}, eigsvc_worker_resident_memory_bytes{device}.
  void SetWorker(absl::string_view device, bool up, bool busy);
  void WorkerRestarted(absl::string_view device, absl::string_view cause);  // of kRestartCauses
  void SetWorkerProcess(absl::string_view device, int64_t pid);  // 0: none; read at scrape time from /proc
  // eigsvc_worker_models{device}, eigsvc_worker_model_bytes{device},
  // eigsvc_device_memory_bytes{device,state}, as of `asked`. The spectra of models that are no longer there
  // go.
  void SetPool(absl::string_view device, const PoolState& pool, absl::Time asked);
  // eigsvc_stream_bytes_total{direction}.
  void AddStreamBytes(absl::string_view direction, int64_t bytes);
  // eigsvc_ready, eigsvc_draining.
  void SetReady(bool ready);
  void SetDraining(bool draining);

  // The spectrum and score of a model's last analysis on a task (spectrum_metrics.h).
  void SetSpectrum(absl::string_view model, absl::string_view task, LoadedModelKey key,
                   const SpectrumSnapshot& snapshot);
  // Where a training run is, by the job's id, and its end (training_metrics.h).
  void SetTraining(const std::string& run, TrainingSnapshot snapshot);
  void ForgetTraining(const std::string& run);

  // Text of everything above, eigsvc_build_info{version} and process_* (cpu, resident
  // memory, open fds, start time). HELP and label values escaped. Never blocks on a job.
  std::string Serialize(MetricsFormat format = MetricsFormat::kPrometheusText);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace eigsvc
