#include "server/metrics/spectrum_metrics.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numbers>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace eigsvc {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using ::testing::HasSubstr;

// The bin of |log λ|, from its definition: 32 an octave from 2^-30, not from the code under test.
int BinOf(double size) {
  const int octave = static_cast<int>(std::floor(std::log2(size)));
  return (octave + 30) * 32 + static_cast<int>(std::floor((size / std::exp2(octave) - 1) * 32));
}

SpectrumSnapshot SnapshotOf(const std::map<double, uint64_t>& lambdas) {
  SpectrumSnapshot snapshot;
  for (const auto& [lambda, count] : lambdas) {
    if (lambda == 0) {
      snapshot.zeros += count;
    } else if (lambda == 1) {
      snapshot.ones += count;
    } else {
      (lambda < 1 ? snapshot.below_1 : snapshot.beyond_1)[BinOf(std::abs(std::log(lambda)))] += count;
    }
    if (lambda <= 0.1) snapshot.le_0_1 += count;
    if (std::abs(1 - lambda) <= 0.01) snapshot.near_1 += count;
    if (lambda > 1 + 1e-6) snapshot.above_1 += count;
    snapshot.max_log_magnitude = std::max(snapshot.max_log_magnitude, std::log(lambda));
  }
  return snapshot;
}

LoadedModelKey Key(const std::string& model_id = "id", const std::string& device = "cpu") {
  return {device, model_id};
}

const MetricFamily* Find(const std::vector<MetricFamily>& families, const std::string& name) {
  for (const MetricFamily& family : families) {
    if (family.name == name) return &family;
  }
  return nullptr;
}

// Of the only pair, by `label` where there are several.
double Value(const SpectrumMetrics& metrics, const std::string& name, const std::string& label = "") {
  const std::vector<MetricFamily> families = metrics.Collect();
  const MetricFamily* family = Find(families, name);
  if (family == nullptr) return -77;
  for (const ClientMetric& metric : family->metric) {
    if (label.empty() || metric.label.back().value == label) return metric.gauge.value;
  }
  return -78;
}

uint64_t AtMost(const SpectrumMetrics& metrics, const std::string& name, double edge) {
  const std::vector<MetricFamily> families = metrics.Collect();
  for (const auto& bucket : Find(families, name)->metric.at(0).histogram.bucket) {
    if (std::abs(bucket.upper_bound - edge) < 1e-9 * edge || bucket.upper_bound == edge)
      return bucket.cumulative_count;
  }
  ADD_FAILURE() << name << " has no edge " << edge;
  return 0;
}

TEST(SpectrumMetricsTest, TimescalesAreExactAtOctaves) {
  SpectrumMetrics metrics;
  // Timescales: 0, 1/ln(1/0.3) = 0.83, just below and just above 8 steps, 1000 steps, infinite twice.
  const double below = std::exp(-1 / 7.9), above = std::exp(-1 / 8.1), slow = std::exp(-1 / 1000.0);
  metrics.Set("m", "t", Key(),
              SnapshotOf({{0, 2}, {0.3, 3}, {below, 5}, {above, 7}, {slow, 11}, {1, 13}, {1.5, 17}}),
              absl::UnixEpoch());
  const std::string name = "eigsvc_spectrum_timescale_steps";
  EXPECT_EQ(AtMost(metrics, name, 0.25), 2u);
  EXPECT_EQ(AtMost(metrics, name, 1), 5u);
  EXPECT_EQ(AtMost(metrics, name, 8), 10u);
  EXPECT_EQ(AtMost(metrics, name, 16), 17u);
  EXPECT_EQ(AtMost(metrics, name, 1024), 28u);
  EXPECT_EQ(AtMost(metrics, name, 1 << 20), 28u);
  EXPECT_EQ(AtMost(metrics, name, std::numeric_limits<double>::infinity()), 58u);
  EXPECT_EQ(Value(metrics, "eigsvc_spectrum_timescale_quantile_steps", "p50"), INFINITY);
}

TEST(SpectrumMetricsTest, QuantilesAndExactScalars) {
  SpectrumMetrics metrics;
  SpectrumSnapshot snapshot = SnapshotOf({{0.05, 10}, {0.9, 60}, {0.995, 28}, {1.1, 2}});
  snapshot.nonfinite = 4;
  snapshot.scores = {{"accuracy", 0.75}};
  metrics.Set("m", "t", Key(), snapshot, absl::UnixEpoch() + absl::Milliseconds(1500));
  EXPECT_DOUBLE_EQ(Value(metrics, "eigsvc_spectrum_near_zero_ratio"), 0.1);
  EXPECT_DOUBLE_EQ(Value(metrics, "eigsvc_spectrum_near_one_ratio"), 0.28);
  EXPECT_DOUBLE_EQ(Value(metrics, "eigsvc_spectrum_above_one_ratio"), 0.02);
  EXPECT_DOUBLE_EQ(Value(metrics, "eigsvc_spectrum_radius"), 1.1);
  EXPECT_EQ(Value(metrics, "eigsvc_spectrum_eigenvalues"), 100);
  EXPECT_EQ(Value(metrics, "eigsvc_spectrum_nonfinite_eigenvalues"), 4);
  EXPECT_EQ(Value(metrics, "eigsvc_spectrum_computed_timestamp_seconds"), 1.5);
  EXPECT_EQ(Value(metrics, "eigsvc_task_score", "accuracy"), 0.75);
  const double half = -1 / std::log(0.9), ninety = -1 / std::log(0.995);
  EXPECT_NEAR(Value(metrics, "eigsvc_spectrum_timescale_quantile_steps", "p50"), half, 0.016 * half);
  EXPECT_NEAR(Value(metrics, "eigsvc_spectrum_timescale_quantile_steps", "p90"), ninety, 0.016 * ninety);
  EXPECT_EQ(Value(metrics, "eigsvc_spectrum_timescale_quantile_steps", "p99"), INFINITY);
}

TEST(SpectrumMetricsTest, ModulusAndPhase) {
  SpectrumMetrics metrics;
  SpectrumSnapshot snapshot = SnapshotOf({{0, 1}, {0.3, 2}, {0.6, 4}, {1, 8}, {1.2, 16}, {5, 32}});
  const auto cell = [](double phase) {
    return static_cast<int>(std::floor((phase / std::numbers::pi + 1) * 32));
  };
  snapshot.phase = {{64 * 3 + cell(0.3), 5}, {64 * 7 + cell(-0.3), 6}, {64 * 7 + cell(-std::numbers::pi), 2}};
  metrics.Set("m", "t", Key(), snapshot, absl::UnixEpoch());
  const std::string modulus = "eigsvc_spectrum_modulus", phase = "eigsvc_spectrum_phase_radians";
  EXPECT_EQ(AtMost(metrics, modulus, .1), 1u);
  EXPECT_EQ(AtMost(metrics, modulus, .5), 3u);
  EXPECT_EQ(AtMost(metrics, modulus, .9999), 7u);
  EXPECT_EQ(AtMost(metrics, modulus, 1), 15u);
  EXPECT_EQ(AtMost(metrics, modulus, 1.1), 15u);
  EXPECT_EQ(AtMost(metrics, modulus, 2), 31u);
  EXPECT_EQ(AtMost(metrics, modulus, std::numeric_limits<double>::infinity()), 63u);
  EXPECT_EQ(AtMost(metrics, phase, std::numbers::pi / 16), 50u);
  EXPECT_EQ(AtMost(metrics, phase, std::numbers::pi * 2 / 16), 61u);
  EXPECT_EQ(AtMost(metrics, phase, std::numbers::pi), 63u);
}

std::set<std::string> ModelsShown(const SpectrumMetrics& metrics) {
  std::set<std::string> models;
  const std::vector<MetricFamily> families = metrics.Collect();
  if (const MetricFamily* family = Find(families, "eigsvc_spectrum_eigenvalues")) {
    for (const ClientMetric& metric : family->metric) models.insert(metric.label.at(0).value);
  }
  return models;
}

TEST(SpectrumMetricsTest, ANewSnapshotReplacesTheOld) {
  SpectrumMetrics metrics;
  metrics.Set("m", "t", Key(), SnapshotOf({{0.5, 1}}), absl::UnixEpoch());
  metrics.Set("m", "t", Key(), SnapshotOf({{0.5, 9}}), absl::UnixEpoch());
  EXPECT_EQ(Value(metrics, "eigsvc_spectrum_eigenvalues"), 9);
  EXPECT_EQ(Find(metrics.Collect(), "eigsvc_spectrum_eigenvalues")->metric.size(), 1u);
}

TEST(SpectrumMetricsTest, OnlyWhatADeviceHoldsIsRetained) {
  SpectrumMetrics metrics;
  const absl::Time now = absl::UnixEpoch() + absl::Hours(1);
  metrics.Set("m", "t", Key("1"), SnapshotOf({{0.5, 1}}), now);
  metrics.Set("m", "u", Key("1"), SnapshotOf({{0.5, 1}}), now);
  metrics.Set("n", "t", Key("2"), SnapshotOf({{0.5, 1}}), now);
  metrics.Set("elsewhere", "t", Key("1", "cuda:0"), SnapshotOf({{0.5, 1}}), now);
  metrics.Set("since", "t", Key("3"), SnapshotOf({{0.5, 1}}), now + absl::Seconds(2));
  metrics.Retain("cpu", {"2"}, now + absl::Seconds(1));  // what was asked before "3" was loaded
  EXPECT_THAT(ModelsShown(metrics), ::testing::ElementsAre("elsewhere", "n", "since"));
  metrics.Retain("cpu", {}, now + absl::Seconds(3));
  EXPECT_THAT(ModelsShown(metrics), ::testing::ElementsAre("elsewhere"));
  metrics.Retain("cuda:0", {}, now + absl::Seconds(3));
  EXPECT_EQ(Find(metrics.Collect(), "eigsvc_spectrum_eigenvalues"), nullptr);
}

TEST(SpectrumMetricsTest, StaysBelowTenThousandSeries) {
  SpectrumMetrics metrics;
  SpectrumSnapshot snapshot = SnapshotOf({{0.5, 1}, {1.5, 2}});
  snapshot.scores = {{"accuracy", 1}, {"perplexity", 2}};
  for (int model = 0; model < 30; ++model) {
    for (int task = 0; task < 5; ++task)
      metrics.Set(absl::StrCat("m", model), absl::StrCat("t", task), Key(), snapshot, absl::Now());
  }
  size_t series = 0;
  const std::vector<MetricFamily> families = metrics.Collect();
  for (const MetricFamily& family : families) {
    for (const ClientMetric& metric : family.metric) {
      series += metric.histogram.bucket.empty() ? 1 : metric.histogram.bucket.size() + 2;
    }
  }
  EXPECT_LT(series, 10000u);
  EXPECT_EQ(Find(families, "eigsvc_spectrum_eigenvalues")->metric.size(), SpectrumMetrics::kMaxPairs);
  EXPECT_EQ(Find(families, "eigsvc_metrics_dropped_spectra_total")->metric.at(0).counter.value, 50);
  EXPECT_THAT(Find(families, "eigsvc_spectrum_modulus")->help, HasSubstr("no rate()"));
}

TEST(SpectrumMetricsTest, ASnapshotWithoutEigenvaluesHasNoShares) {
  SpectrumMetrics metrics;
  SpectrumSnapshot snapshot;
  snapshot.nonfinite = 3;
  metrics.Set("m", "t", Key(), snapshot, absl::UnixEpoch());
  EXPECT_EQ(Value(metrics, "eigsvc_spectrum_nonfinite_eigenvalues"), 3);
  EXPECT_EQ(Find(metrics.Collect(), "eigsvc_spectrum_near_one_ratio"), nullptr);
  EXPECT_EQ(Find(metrics.Collect(), "eigsvc_spectrum_modulus"), nullptr);
}

}  // namespace
}  // namespace eigsvc
