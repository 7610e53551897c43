#include "server/metrics/training_metrics.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace eigsvc {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;

}  // namespace

void TrainingMetrics::Set(const std::string& run, TrainingSnapshot snapshot) {
  const std::lock_guard lock(mutex_);
  runs_[run] = {std::move(snapshot), ++last_order_};
  if (runs_.size() <= kMaxRuns) return;
  runs_.erase(std::min_element(runs_.begin(), runs_.end(),
                               [](const auto& a, const auto& b) { return a.second.order < b.second.order; }));
}

void TrainingMetrics::Forget(const std::string& run) {
  const std::lock_guard lock(mutex_);
  runs_.erase(run);
}

std::vector<MetricFamily> TrainingMetrics::Collect() const {
  const std::lock_guard lock(mutex_);
  std::map<std::pair<std::string, std::string>, const Told*> newest;
  for (const auto& [run, told] : runs_) {
    const Told*& shown = newest[{told.snapshot.model, told.snapshot.task}];
    if (shown == nullptr || shown->order < told.order) shown = &told;
  }
  std::vector<MetricFamily> families;
  // Adds a family of what `values` finds in each run: pairs of a further label's value, if any, and a number.
  const auto family = [&](const char* name, const char* help, const char* label, const auto& values) {
    MetricFamily made{name, help, prometheus::MetricType::Gauge, {}};
    for (const auto& [pair, told] : newest) {
      for (const auto& [value, number] : values(told->snapshot)) {
        ClientMetric& metric = made.metric.emplace_back();
        metric.label = {{"model", pair.first}, {"task", pair.second}};
        if (label != nullptr) metric.label.push_back({label, value});
        metric.gauge.value = number;
      }
    }
    if (!made.metric.empty()) families.push_back(std::move(made));
  };
  using Values = std::map<std::string, double>;
  const auto plain = [&](const char* name, const char* help, const auto& member) {
    family(name, help, nullptr, [&](const TrainingSnapshot& run) -> Values {
      return {{"", static_cast<double>(run.*member)}};
    });
  };
  const auto spectral = [&](const char* name, const char* help, const auto& number) {
    family(name, help, nullptr, [&](const TrainingSnapshot& run) -> Values {
      if (!run.spectrum.has_value() || run.spectrum->count() == 0) return {};
      return {{"", number(*run.spectrum)}};
    });
  };
  plain("eigsvc_training_step", "Optimiser steps that the run has done.", &TrainingSnapshot::step);
  plain("eigsvc_training_steps", "Optimiser steps that the run is to do.", &TrainingSnapshot::steps);
  plain("eigsvc_training_loss", "Mean loss since the report before, nats per scored position.",
        &TrainingSnapshot::loss);
  plain("eigsvc_training_learning_rate", "Learning rate of the last step.", &TrainingSnapshot::learning_rate);
  plain("eigsvc_training_gradient_norm", "Global norm of the last gradient, before clipping.",
        &TrainingSnapshot::gradient_norm);
  plain("eigsvc_training_tokens_per_second", "Speed since the report before.",
        &TrainingSnapshot::tokens_per_second);
  family("eigsvc_training_score", "Score of the newest evaluation, by metric.", "metric",
         [](const TrainingSnapshot& run) { return run.scores; });
  spectral("eigsvc_training_spectrum_radius", "Largest |λ| of the newest evaluation.",
           [](const SpectrumSnapshot& spectrum) { return std::exp(spectrum.max_log_magnitude); });
  spectral("eigsvc_training_spectrum_near_zero_ratio", "Share of |λ| <= 0.1 in the newest evaluation.",
           [](const SpectrumSnapshot& spectrum) { return spectrum.Share(spectrum.le_0_1); });
  spectral("eigsvc_training_spectrum_near_one_ratio", "Share of |1-|λ|| <= 0.01 in the newest evaluation.",
           [](const SpectrumSnapshot& spectrum) { return spectrum.Share(spectrum.near_1); });
  spectral("eigsvc_training_spectrum_above_one_ratio",
           "Share of |λ| above 1 by more than the noise floor in the newest evaluation.",
           [](const SpectrumSnapshot& spectrum) { return spectrum.Share(spectrum.above_1); });
  spectral("eigsvc_training_spectrum_median_timescale_steps",
           "Median timescale -1/ln|λ| of the newest evaluation, in steps; within 1.6 %.",
           [](const SpectrumSnapshot& spectrum) { return spectrum.TimescaleQuantile(0.5); });
  return families;
}

}  // namespace eigsvc
