// prometheus-cpp's own histograms are for observations: their Observe() puts NaN into the first bucket and
// cannot take a count back. Here the parts of a ClientMetric are filled directly.
#include "server/metrics/spectrum_metrics.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>

namespace eigsvc {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

constexpr int kBinsPerOctave = 32, kMinExponent = -30, kPhaseBins = 64;
constexpr double kInfinity = std::numeric_limits<double>::infinity();

// The lower end of bin b, in nats.
double BinLow(int bin) {
  return std::ldexp(1 + (bin % kBinsPerOctave) / static_cast<double>(kBinsPerOctave),
                    kMinExponent + bin / kBinsPerOctave);
}
double BinMiddle(int bin) { return (BinLow(bin) + BinLow(bin + 1)) / 2; }

// Timescale -1/ln|λ| in steps: octaves, which bins of |log|λ|| do not straddle.
constexpr int kFirstTimescale = -2, kLastTimescale = 20;
constexpr double kModulusEdges[] = {.1,   .25,   .5,    .7, .8,       .9,     .95,   .98,  .99,  .995, .998,
                                    .999, .9995, .9999, 1,  1.000001, 1.0001, 1.001, 1.01, 1.05, 1.1,  2};
constexpr int kPhaseEdges = 16;  // of [0, π]
constexpr std::pair<const char*, double> kQuantiles[] = {{"p50", .5}, {"p90", .9}, {"p99", .99}};

uint64_t Sum(const std::map<int, uint64_t>& counts) {
  uint64_t sum = 0;
  for (const auto& [bin, count] : counts) sum += count;
  return sum;
}

// `values`: (value, count), any order. Cumulative buckets with an infinite one; the sum is over finite
// values.
ClientMetric Histogram(const std::vector<double>& edges,
                       const std::vector<std::pair<double, uint64_t>>& values) {
  ClientMetric metric;
  std::vector<uint64_t> counts(edges.size() + 1);
  for (const auto& [value, count] : values) {
    counts[std::lower_bound(edges.begin(), edges.end(), value) - edges.begin()] += count;
    metric.histogram.sample_count += count;
    if (std::isfinite(value)) metric.histogram.sample_sum += value * static_cast<double>(count);
  }
  uint64_t cumulative = 0;
  for (size_t i = 0; i < counts.size(); ++i) {
    cumulative += counts[i];
    metric.histogram.bucket.push_back({cumulative, i < edges.size() ? edges[i] : kInfinity});
  }
  return metric;
}

// In ascending order of timescale: λ = 0 at 0, |λ| >= 1 at infinity. A bin stands at its octave's safe side:
// just inside.
std::vector<std::pair<double, uint64_t>> Timescales(const SpectrumSnapshot& snapshot) {
  std::vector<std::pair<double, uint64_t>> values = {{0, snapshot.zeros}};
  for (auto bin = snapshot.below_1.rbegin(); bin != snapshot.below_1.rend(); ++bin) {
    values.emplace_back(1 / BinMiddle(bin->first), bin->second);
  }
  values.emplace_back(kInfinity, snapshot.ones + Sum(snapshot.beyond_1));
  return values;
}

ClientMetric TimescaleHistogram(const SpectrumSnapshot& snapshot) {
  std::vector<double> edges;
  for (int k = kFirstTimescale; k <= kLastTimescale; ++k) edges.push_back(std::ldexp(1.0, k));
  return Histogram(edges, Timescales(snapshot));
}

ClientMetric ModulusHistogram(const SpectrumSnapshot& snapshot) {
  std::vector<std::pair<double, uint64_t>> values = {{0, snapshot.zeros}, {1, snapshot.ones}};
  for (const auto& [bin, count] : snapshot.below_1) values.emplace_back(std::exp(-BinMiddle(bin)), count);
  // e^709 is the largest double: what is beyond counts in the last bucket, not in the sum.
  for (const auto& [bin, count] : snapshot.beyond_1) values.emplace_back(std::exp(BinMiddle(bin)), count);
  return Histogram({std::begin(kModulusEdges), std::end(kModulusEdges)}, values);
}

ClientMetric PhaseHistogram(const SpectrumSnapshot& snapshot) {
  std::vector<double> edges;
  for (int k = 1; k <= kPhaseEdges; ++k) edges.push_back(std::numbers::pi * k / kPhaseEdges);
  edges.back() = std::nextafter(std::numbers::pi, 4);  // a float's π is inside
  std::vector<std::pair<double, uint64_t>> values = {{0, snapshot.count() - Sum(snapshot.phase)}};
  for (const auto& [cell, count] : snapshot.phase) {
    const double middle = (cell % kPhaseBins + 0.5) / kPhaseBins * 2 * std::numbers::pi - std::numbers::pi;
    values.emplace_back(std::abs(middle), count);
  }
  return Histogram(edges, values);
}

enum FamilyIndex {
  kTimescale,
  kModulus,
  kPhase,
  kRadius,
  kNearZero,
  kNearOne,
  kAboveOne,
  kQuantile,
  kEigenvalues,
  kNonfinite,
  kComputed,
  kScore
};

// In the order of FamilyIndex.
std::vector<MetricFamily> EmptyFamilies() {
  const std::string snapshot = " Snapshot of the last analysis over all layers: no rate() of it.";
  return {
      {"eigsvc_spectrum_timescale_steps",
       "Timescale -1/ln|λ| of memory, in steps; infinite from |λ| = 1 on." + snapshot,
       MetricType::Histogram,
       {}},
      {"eigsvc_spectrum_modulus", "|λ|; bins are 1.6 % of ln|λ| wide." + snapshot, MetricType::Histogram, {}},
      {"eigsvc_spectrum_phase_radians",
       "|arg λ|; 0 for positive real λ." + snapshot,
       MetricType::Histogram,
       {}},
      {"eigsvc_spectrum_radius", "Largest |λ|.", MetricType::Gauge, {}},
      {"eigsvc_spectrum_near_zero_ratio", "Share of |λ| <= 0.1.", MetricType::Gauge, {}},
      {"eigsvc_spectrum_near_one_ratio", "Share of |1-|λ|| <= 0.01.", MetricType::Gauge, {}},
      {"eigsvc_spectrum_above_one_ratio",
       "Share of |λ| above 1 by more than the noise floor.",
       MetricType::Gauge,
       {}},
      {"eigsvc_spectrum_timescale_quantile_steps",
       "Quantiles of the timescale, in steps; within 1.6 %.",
       MetricType::Gauge,
       {}},
      {"eigsvc_spectrum_eigenvalues", "Eigenvalues that the snapshot counts.", MetricType::Gauge, {}},
      {"eigsvc_spectrum_nonfinite_eigenvalues",
       "NaN and infinite eigenvalues, in no other number.",
       MetricType::Gauge,
       {}},
      {"eigsvc_spectrum_computed_timestamp_seconds",
       "When the analysis ended, seconds since the Unix epoch.",
       MetricType::Gauge,
       {}},
      {"eigsvc_task_score", "Score of the last analysis on the task, by metric.", MetricType::Gauge, {}},
  };
}

// All samples of a snapshot with the index of their family. Made when the snapshot comes: a scrape only
// copies.
std::vector<std::pair<int, ClientMetric>> Samples(const std::pair<std::string, std::string>& name,
                                                  const SpectrumSnapshot& snapshot, absl::Time computed) {
  std::vector<std::pair<int, ClientMetric>> samples;
  const auto add = [&](int family, ClientMetric metric, const char* label = nullptr,
                       const std::string& value = "") {
    metric.label = {{"model", name.first}, {"task", name.second}};
    if (label != nullptr) metric.label.push_back({label, value});
    samples.emplace_back(family, std::move(metric));
  };
  const auto gauge = [&](int family, double value, const char* label = nullptr, const std::string& of = "") {
    ClientMetric metric;
    metric.gauge.value = value;
    add(family, std::move(metric), label, of);
  };
  for (const auto& [metric, value] : snapshot.scores) gauge(kScore, value, "metric", metric);
  gauge(kComputed, static_cast<double>(absl::ToUnixMillis(computed)) / 1000);
  gauge(kNonfinite, static_cast<double>(snapshot.nonfinite));
  gauge(kEigenvalues, static_cast<double>(snapshot.count()));
  if (snapshot.count() == 0) return samples;  // no share of nothing
  add(kTimescale, TimescaleHistogram(snapshot));
  add(kModulus, ModulusHistogram(snapshot));
  add(kPhase, PhaseHistogram(snapshot));
  gauge(kRadius, std::exp(snapshot.max_log_magnitude));
  gauge(kNearZero, snapshot.Share(snapshot.le_0_1));
  gauge(kNearOne, snapshot.Share(snapshot.near_1));
  gauge(kAboveOne, snapshot.Share(snapshot.above_1));
  for (const auto& [stat, q] : kQuantiles) gauge(kQuantile, snapshot.TimescaleQuantile(q), "stat", stat);
  return samples;
}

}  // namespace

uint64_t SpectrumSnapshot::count() const { return Sum(below_1) + Sum(beyond_1) + zeros + ones; }

double SpectrumSnapshot::Share(uint64_t part) const {
  return static_cast<double>(part) / static_cast<double>(count());
}

double SpectrumSnapshot::TimescaleQuantile(double q) const {
  const uint64_t total = count();
  uint64_t left =
      std::clamp<uint64_t>(static_cast<uint64_t>(std::ceil(q * static_cast<double>(total))), 1, total);
  for (const auto& [value, amount] : Timescales(*this)) {
    if (left <= amount) return value;
    left -= amount;
  }
  return kInfinity;
}

void SpectrumMetrics::Set(absl::string_view model, absl::string_view task, LoadedModelKey key,
                          const SpectrumSnapshot& snapshot, absl::Time now) {
  const std::pair<std::string, std::string> name(model, task);
  std::vector<std::pair<int, ClientMetric>> samples = Samples(name, snapshot, now);
  const std::lock_guard lock(mutex_);
  kept_.remove_if([&](const Kept& kept) { return kept.name == name; });
  kept_.push_front({name, std::move(key), now, std::move(samples)});
  if (kept_.size() <= kMaxPairs) return;
  kept_.pop_back();
  ++dropped_;
}

void SpectrumMetrics::Retain(absl::string_view device, const std::set<std::string>& model_ids,
                             absl::Time asked) {
  const std::lock_guard lock(mutex_);
  kept_.remove_if([&](const Kept& kept) {
    return kept.key.device == device && kept.computed < asked && !model_ids.contains(kept.key.model_id);
  });
}

std::vector<MetricFamily> SpectrumMetrics::Collect() const {
  std::vector<MetricFamily> families = EmptyFamilies();
  const std::lock_guard lock(mutex_);
  for (const Kept& kept : kept_) {
    for (const auto& [family, sample] : kept.samples) families[family].metric.push_back(sample);
  }
  std::erase_if(families, [](const MetricFamily& each) { return each.metric.empty(); });
  MetricFamily& dropped =
      families.emplace_back(MetricFamily{"eigsvc_metrics_dropped_spectra_total",
                                         "Snapshots that made room for newer ones of other models.",
                                         MetricType::Counter,
                                         {}});
  dropped.metric.emplace_back().counter.value = static_cast<double>(dropped_);
  return families;
}

}  // namespace eigsvc
