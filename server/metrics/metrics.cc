// prometheus-cpp keeps the counters; three of its traps are closed here. A label value can come from a
// request, so each label takes a bounded set of plain values and the rest count as "other". A non-finite
// observation would spoil a histogram's sum for good, so durations are clamped. Its serializer escapes no
// HELP and knows no OpenMetrics, so exposition.h writes the text.
#include "server/metrics/metrics.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "models/base/sha256.h"
#include "models/base/utf8.h"
#include "prometheus/counter.h"
#include "prometheus/gauge.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"
#include "server/metrics/process_stats.h"

namespace eigsvc {
namespace {

constexpr size_t kMaxValuesPerLabel = 64;
constexpr size_t kMaxLabelLength = 100;

using Buckets = prometheus::Histogram::BucketBoundaries;
const Buckets& RpcBuckets() {  // a catalog call takes milliseconds, a watched analysis an hour
  static const Buckets& buckets =
      *new Buckets{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600};
  return buckets;
}
const Buckets& JobBuckets() {
  static const Buckets& buckets =
      *new Buckets{.01, .05, .1, .5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600};
  return buckets;
}
const Buckets& CancelBuckets() {  // 0.25 is the promise
  static const Buckets& buckets = *new Buckets{.005, .01, .025, .05, .1, .15, .2, .25, .5, 1, 2.5};
  return buckets;
}

double Seconds(absl::Duration duration) {
  return std::clamp(absl::ToDoubleSeconds(duration), 0.0, 1e9);  // an infinite duration is clamped, too
}

bool IsPlain(absl::string_view value) {
  return !value.empty() && value.size() <= kMaxLabelLength &&
         std::all_of(value.begin(), value.end(), [](unsigned char c) {
           return absl::ascii_isalnum(c) || absl::StrContains("_-./: ", static_cast<char>(c));
         });
}

// The name of a checkpoint as a label: as it is, where it is text; what is too long is cut and keeps apart
// from its like by a digest.
std::string ModelLabel(absl::string_view name) {
  size_t cut = 0;  // where a cut leaves room for the digest
  constexpr size_t kDigits = 8;
  for (size_t at = 0; at < name.size();) {
    const size_t size = CharacterBytes(name.substr(at));
    const auto byte = [&](size_t i) { return static_cast<unsigned char>(name[at + i]); };
    const bool control =
        size == 1 ? absl::ascii_iscntrl(byte(0)) : size == 2 && byte(0) == 0xC2 && byte(1) < 0xA0;
    if (size == 0 || control) return "other";
    at += size;
    if (at + 1 + kDigits <= kMaxLabelLength) cut = at;
  }
  if (name.empty()) return "other";
  if (name.size() <= kMaxLabelLength) return std::string(name);
  const std::string digest = Sha256::Of({reinterpret_cast<const std::byte*>(name.data()), name.size()});
  return absl::StrCat(name.substr(0, cut), "~", digest.substr(0, kDigits));
}

// A label that takes at most kMaxValuesPerLabel different values. Thread-safe.
class BoundedLabel {
 public:
  // What is admitted once stays admitted, and what is not never will be: a gauge that went up comes down
  // again.
  std::string Admit(absl::string_view value) {
    if (!IsPlain(value)) return "other";
    std::lock_guard<std::mutex> lock(mutex_);
    if (seen_.size() < kMaxValuesPerLabel) seen_.emplace(value);
    return seen_.count(std::string(value)) > 0 ? std::string(value) : "other";
  }

 private:
  std::mutex mutex_;
  std::set<std::string> seen_;
};

prometheus::MetricFamily Single(std::string name, std::string help, prometheus::MetricType type,
                                double value) {
  prometheus::ClientMetric metric;
  if (type == prometheus::MetricType::Counter) {
    metric.counter.value = value;
  } else {
    metric.gauge.value = value;
  }
  return {std::move(name), std::move(help), type, {std::move(metric)}};
}

}  // namespace

struct Metrics::Impl {
  prometheus::Registry registry;
  SpectrumMetrics spectra;
  TrainingMetrics trainings;

  BoundedLabel method, code, kind, outcome, reason, phase, task, device, cause, direction;

  using Counters = prometheus::Family<prometheus::Counter>;
  using Gauges = prometheus::Family<prometheus::Gauge>;
  using Histograms = prometheus::Family<prometheus::Histogram>;
  Counters& NewCounters(const char* name, const char* help) {
    return prometheus::BuildCounter().Name(name).Help(help).Register(registry);
  }
  Gauges& NewGauges(const char* name, const char* help) {
    return prometheus::BuildGauge().Name(name).Help(help).Register(registry);
  }
  Histograms& NewHistograms(const char* name, const char* help) {
    return prometheus::BuildHistogram().Name(name).Help(help).Register(registry);
  }

  Counters& rpcs = NewCounters("eigsvc_rpcs_total", "RPCs that ended, by method and gRPC status code.");
  Histograms& rpc_duration = NewHistograms("eigsvc_rpc_duration_seconds",
                                           "Time from the start of an RPC to its end, streams included.");
  Gauges& rpcs_in_flight = NewGauges("eigsvc_rpcs_in_flight", "RPCs that have started and not ended.");

  Counters& jobs = NewCounters("eigsvc_jobs_total", "Jobs that ended, by kind and outcome.");
  Histograms& queue_wait =
      NewHistograms("eigsvc_job_queue_wait_seconds", "Time a job waited before it started.");
  Histograms& job_duration =
      NewHistograms("eigsvc_job_duration_seconds", "Time from a job's start to its end.");
  Histograms& phase_duration =
      NewHistograms("eigsvc_job_phase_duration_seconds", "Time that the phases of jobs took, by kind.");
  Gauges& jobs_in_flight = NewGauges("eigsvc_jobs_in_flight", "Jobs that run.");
  Counters& jobs_rejected =
      NewCounters("eigsvc_jobs_rejected_total", "Jobs refused at admission, by reason.");
  Counters& job_retries =
      NewCounters("eigsvc_job_retries_total", "Jobs started again because their worker process died.");
  prometheus::Gauge& queue_depth = NewGauges("eigsvc_job_queue_depth", "Jobs that wait.").Add({});
  prometheus::Gauge& queue_capacity = NewGauges("eigsvc_job_queue_capacity", "Jobs that may wait.").Add({});
  prometheus::Gauge& result_bytes =
      NewGauges("eigsvc_results_bytes", "Memory that the results of finished jobs take.").Add({});

  Counters& eigenvalues =
      NewCounters("eigsvc_eigenvalues_total", "Eigenvalues counted into spectra, by task.");
  prometheus::Histogram& cancel_latency =
      NewHistograms("eigsvc_cancel_latency_seconds", "Time from a cancel to an idle device.")
          .Add({}, CancelBuckets());

  Gauges& worker_up = NewGauges("eigsvc_worker_up", "Whether the device's worker process answers.");
  Gauges& worker_busy = NewGauges("eigsvc_worker_busy", "Whether the device's worker process runs a job.");
  Counters& worker_restarts = NewCounters("eigsvc_worker_restarts_total",
                                          "Worker processes started again, by device and cause of the end.");

  Gauges& worker_models =
      NewGauges("eigsvc_worker_models", "Models that the device's worker process holds loaded.");
  Gauges& worker_model_bytes =
      NewGauges("eigsvc_worker_model_bytes", "Memory that the weights of the loaded models take.");
  Gauges& device_memory = NewGauges("eigsvc_device_memory_bytes",
                                    "Memory of the device, used and free; of the machine for the CPU.");

  Counters& stream_bytes = NewCounters("eigsvc_stream_bytes_total",
                                       "Payload bytes of streamed messages, received (in) and sent (out).");
  prometheus::Gauge& ready = NewGauges("eigsvc_ready", "Whether the server takes jobs.").Add({});
  prometheus::Gauge& draining = NewGauges("eigsvc_draining", "Whether the server is shutting down.").Add({});

  std::mutex mutex;
  std::map<std::string, int64_t> worker_pids;  // by admitted device; guarded by mutex

  prometheus::MetricFamily WorkerMemory();
};

prometheus::MetricFamily Metrics::Impl::WorkerMemory() {
  std::map<std::string, int64_t> pids;
  {
    std::lock_guard<std::mutex> lock(mutex);
    pids = worker_pids;
  }
  prometheus::MetricFamily family{"eigsvc_worker_resident_memory_bytes",
                                  "Resident memory of the device's worker process.",
                                  prometheus::MetricType::Gauge,
                                  {}};
  for (const auto& [name, pid] : pids) {
    const std::optional<double> bytes = pid == 0 ? std::nullopt : ReadResidentBytes(pid);
    if (!bytes.has_value()) continue;
    prometheus::ClientMetric metric;
    metric.label.push_back({"device", name});
    metric.gauge.value = *bytes;
    family.metric.push_back(std::move(metric));
  }
  return family;
}

Metrics::Metrics() : impl_(std::make_unique<Impl>()) {
  impl_->NewGauges("eigsvc_build_info", "Always 1; the version is a label.")
      .Add({{"version", EIGSVC_VERSION}})
      .Set(1);
  // From the start at 0: of a counter that appears with its first event, increase() never sees that event.
  for (const char* kind : {"analysis", "training"}) {
    for (const char* outcome : {"succeeded", "failed", "cancelled", "deadline_exceeded"}) {
      impl_->jobs.Add({{"kind", impl_->kind.Admit(kind)}, {"outcome", impl_->outcome.Admit(outcome)}});
    }
    impl_->job_retries.Add({{"kind", kind}});
    impl_->jobs_in_flight.Add({{"kind", kind}});
  }
  for (const char* reason : {"invalid", "draining", "queue_full"}) {
    impl_->jobs_rejected.Add({{"reason", impl_->reason.Admit(reason)}});
  }
}
Metrics::~Metrics() = default;

void Metrics::RpcStarted(absl::string_view method) {
  impl_->rpcs_in_flight.Add({{"method", impl_->method.Admit(method)}}).Increment();
}

void Metrics::RpcFinished(absl::string_view method, absl::string_view code, absl::Duration duration) {
  const std::string admitted = impl_->method.Admit(method);
  impl_->rpcs_in_flight.Add({{"method", admitted}}).Decrement();
  impl_->rpcs.Add({{"method", admitted}, {"code", impl_->code.Admit(code)}}).Increment();
  impl_->rpc_duration.Add({{"method", admitted}}, RpcBuckets()).Observe(Seconds(duration));
}

void Metrics::JobStarted(absl::string_view kind, absl::Duration waited) {
  const std::string admitted = impl_->kind.Admit(kind);
  impl_->jobs_in_flight.Add({{"kind", admitted}}).Increment();
  impl_->queue_wait.Add({{"kind", admitted}}, JobBuckets()).Observe(Seconds(waited));
}

void Metrics::JobFinished(absl::string_view kind, absl::string_view outcome, absl::Duration ran) {
  const std::string admitted = impl_->kind.Admit(kind);
  impl_->jobs_in_flight.Add({{"kind", admitted}}).Decrement();
  impl_->jobs.Add({{"kind", admitted}, {"outcome", impl_->outcome.Admit(outcome)}}).Increment();
  impl_->job_duration.Add({{"kind", admitted}}, JobBuckets()).Observe(Seconds(ran));
}

void Metrics::JobRejected(absl::string_view reason) {
  impl_->jobs_rejected.Add({{"reason", impl_->reason.Admit(reason)}}).Increment();
}
void Metrics::JobRetried(absl::string_view kind) {
  impl_->job_retries.Add({{"kind", impl_->kind.Admit(kind)}}).Increment();
}
void Metrics::JobPhaseTook(absl::string_view kind, absl::string_view phase, absl::Duration duration) {
  impl_->phase_duration
      .Add({{"kind", impl_->kind.Admit(kind)}, {"phase", impl_->phase.Admit(phase)}}, JobBuckets())
      .Observe(Seconds(duration));
}
void Metrics::SetQueueDepth(int64_t depth) { impl_->queue_depth.Set(static_cast<double>(depth)); }
void Metrics::SetQueueCapacity(int64_t capacity) { impl_->queue_capacity.Set(static_cast<double>(capacity)); }
void Metrics::SetResultBytes(int64_t bytes) { impl_->result_bytes.Set(static_cast<double>(bytes)); }

void Metrics::AddEigenvalues(absl::string_view task, int64_t count) {
  if (count > 0)
    impl_->eigenvalues.Add({{"task", impl_->task.Admit(task)}}).Increment(static_cast<double>(count));
}
void Metrics::CancelTook(absl::Duration duration) { impl_->cancel_latency.Observe(Seconds(duration)); }

void Metrics::SetWorker(absl::string_view device, bool up, bool busy) {
  const std::string admitted = impl_->device.Admit(device);
  impl_->worker_up.Add({{"device", admitted}}).Set(up ? 1 : 0);
  impl_->worker_busy.Add({{"device", admitted}}).Set(busy ? 1 : 0);
  for (const char* cause : kRestartCauses) {  // 0 from the start, as above
    impl_->worker_restarts.Add({{"device", admitted}, {"cause", impl_->cause.Admit(cause)}});
  }
}
void Metrics::WorkerRestarted(absl::string_view device, absl::string_view cause) {
  impl_->worker_restarts.Add({{"device", impl_->device.Admit(device)}, {"cause", impl_->cause.Admit(cause)}})
      .Increment();
}
void Metrics::SetWorkerProcess(absl::string_view device, int64_t pid) {
  const std::string admitted = impl_->device.Admit(device);
  std::lock_guard<std::mutex> lock(impl_->mutex);
  impl_->worker_pids[admitted] = pid;
}

void Metrics::SetPool(absl::string_view device, const PoolState& pool, absl::Time asked) {
  const std::string admitted = impl_->device.Admit(device);
  impl_->worker_models.Add({{"device", admitted}}).Set(static_cast<double>(pool.model_ids.size()));
  impl_->worker_model_bytes.Add({{"device", admitted}}).Set(static_cast<double>(pool.model_bytes));
  if (pool.device_total_bytes > 0) {
    impl_->device_memory.Add({{"device", admitted}, {"state", "free"}})
        .Set(static_cast<double>(pool.device_free_bytes));
    impl_->device_memory.Add({{"device", admitted}, {"state", "used"}})
        .Set(static_cast<double>(pool.device_total_bytes - pool.device_free_bytes));
  }
  impl_->spectra.Retain(device, pool.model_ids, asked);
}

void Metrics::AddStreamBytes(absl::string_view direction, int64_t bytes) {
  if (bytes > 0) {
    impl_->stream_bytes.Add({{"direction", impl_->direction.Admit(direction)}})
        .Increment(static_cast<double>(bytes));
  }
}
void Metrics::SetReady(bool ready) { impl_->ready.Set(ready ? 1 : 0); }
void Metrics::SetDraining(bool draining) { impl_->draining.Set(draining ? 1 : 0); }

// Models come and go: their number is bounded by what is kept, not by which were seen first.
void Metrics::SetSpectrum(absl::string_view model, absl::string_view task, LoadedModelKey key,
                          const SpectrumSnapshot& snapshot) {
  impl_->spectra.Set(ModelLabel(model), impl_->task.Admit(task), std::move(key), snapshot, absl::Now());
}
void Metrics::SetTraining(const std::string& run, TrainingSnapshot snapshot) {
  snapshot.model = ModelLabel(snapshot.model);
  snapshot.task = impl_->task.Admit(snapshot.task);
  impl_->trainings.Set(run, std::move(snapshot));
}
void Metrics::ForgetTraining(const std::string& run) { impl_->trainings.Forget(run); }

std::string Metrics::Serialize(MetricsFormat format) {
  using prometheus::MetricFamily;
  using prometheus::MetricType;
  std::vector<MetricFamily> families = impl_->registry.Collect();
  if (prometheus::MetricFamily memory = impl_->WorkerMemory(); !memory.metric.empty()) {
    families.push_back(std::move(memory));
  }
  const ProcessStats stats = ReadOwnProcess();
  families.push_back(Single("process_cpu_seconds_total", "User and system CPU time of the daemon.",
                            MetricType::Counter, stats.cpu_seconds));
  families.push_back(Single("process_resident_memory_bytes", "Resident memory of the daemon.",
                            MetricType::Gauge, stats.resident_bytes));
  families.push_back(Single("process_virtual_memory_bytes", "Virtual memory of the daemon.",
                            MetricType::Gauge, stats.virtual_bytes));
  families.push_back(Single("process_open_fds", "File descriptors that the daemon holds.", MetricType::Gauge,
                            stats.open_fds));
  families.push_back(Single("process_max_fds", "File descriptors that the daemon may hold.",
                            MetricType::Gauge, stats.max_fds));
  families.push_back(Single("process_start_time_seconds",
                            "Start of the daemon, seconds since the Unix epoch.", MetricType::Gauge,
                            stats.start_time_seconds));
  for (MetricFamily& family : impl_->spectra.Collect()) families.push_back(std::move(family));
  for (MetricFamily& family : impl_->trainings.Collect()) families.push_back(std::move(family));
  return Expose(families, format);
}

}  // namespace eigsvc
