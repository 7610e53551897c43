// TrainingMetrics: where each training run is, as Prometheus families, while it runs. Labels are the model's
// alias and the task alone; of two runs of the same pair the newest report shows. Thread-safe.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "prometheus/metric_family.h"
#include "server/metrics/spectrum_metrics.h"

namespace eigsvc {

struct TrainingSnapshot {
  std::string model, task;
  int64_t step = 0, steps = 0;
  double loss = 0;  // nats per scored position
  double learning_rate = 0, gradient_norm = 0, tokens_per_second = 0;
  std::map<std::string, double> scores;      // of the newest evaluation, by metric; empty before the first
  std::optional<SpectrumSnapshot> spectrum;  // of the same
};

class TrainingMetrics {
 public:
  // Runs shown at once, the newest. Each is at most 20 series.
  static constexpr size_t kMaxRuns = 64;

  // Replaces what the run had told.
  void Set(const std::string& run, TrainingSnapshot snapshot);
  // The run is over: its series go.
  void Forget(const std::string& run);
  std::vector<prometheus::MetricFamily> Collect() const;

 private:
  struct Told {
    TrainingSnapshot snapshot;
    uint64_t order = 0;
  };
  mutable std::mutex mutex_;
  std::map<std::string, Told> runs_;
  uint64_t last_order_ = 0;
};

}  // namespace eigsvc
