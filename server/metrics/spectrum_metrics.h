// SpectrumMetrics: the spectrum and score of the last analysis of each model on each task, as Prometheus
// families, for as long as a worker's pool holds the model. A spectrum is a snapshot, not a stream of events:
// its histograms are filled whole, and no rate() may be taken of them. Labels are the model's alias and the
// task alone; what is kept is bounded, the least recently set goes first. Thread-safe.
#pragma once

#include <cstdint>
#include <limits>
#include <list>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "prometheus/metric_family.h"

namespace eigsvc {

// All sites of an analysis together, in the bins of |log|λ|| of models/spectrum (32 an octave from 2^-30).
struct SpectrumSnapshot {
  std::map<int, uint64_t> below_1, beyond_1;  // counts by bin
  std::map<int, uint64_t> phase;  // by cell of the radius × phase grid; positive real λ are not in it
  uint64_t zeros = 0, ones = 0, nonfinite = 0;
  uint64_t le_0_1 = 0, near_1 = 0, above_1 = 0;  // exact, as DESIGN section 4 has them
  double max_log_magnitude = -std::numeric_limits<double>::infinity();
  std::map<std::string, double> scores;  // by metric: "accuracy", "perplexity"

  uint64_t count() const;
  // Of count(), which must not be 0.
  double Share(uint64_t part) const;
  // In steps, within 1.6 %.
  double TimescaleQuantile(double q) const;
};

// Which loaded model a snapshot is of.
struct LoadedModelKey {
  std::string device, model_id;
};

class SpectrumMetrics {
 public:
  // Pairs of model and task kept. Each is at most 85 series, so that all stay below 10 000.
  static constexpr size_t kMaxPairs = 100;

  // Replaces what the pair had.
  void Set(absl::string_view model, absl::string_view task, LoadedModelKey key,
           const SpectrumSnapshot& snapshot, absl::Time now);
  // These are the models that the device held at `asked`: the series of its others, set before, go.
  void Retain(absl::string_view device, const std::set<std::string>& model_ids, absl::Time asked);
  std::vector<prometheus::MetricFamily> Collect() const;

 private:
  struct Kept {
    std::pair<std::string, std::string> name;  // model, task
    LoadedModelKey key;
    absl::Time computed;
    std::vector<std::pair<int, prometheus::ClientMetric>> samples;  // with the index of their family
  };
  mutable std::mutex mutex_;
  std::list<Kept> kept_;  // most recently set first
  uint64_t dropped_ = 0;  // pairs that made room
};

}  // namespace eigsvc
