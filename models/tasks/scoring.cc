#include "models/tasks/scoring.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "models/base/random.h"

namespace eigsvc {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr uint64_t kBootstrapStream = 0x626f6f7473747261;  // keeps these draws apart from every task's
constexpr double kNormalQuantile = 1.959963984540054;      // of 0.975

Interval BootstrapInterval(absl::Span<const double> numerators, absl::Span<const double> denominators) {
  const uint64_t n = numerators.size();
  Random random({kBootstrapStream});
  std::vector<double> ratios(kBootstrapResamples);
  for (double& ratio : ratios) {
    double numerator = 0, denominator = 0;
    uint64_t bits = 0;
    for (uint64_t i = 0; i < n; ++i) {
      // Two draws a generator call; the bias of a 32-bit product is below n/2^32.
      bits = i % 2 == 0 ? random.Bits() : bits >> 32;
      const uint64_t pick = ((bits & 0xffffffffu) * n) >> 32;
      numerator += numerators[pick];
      denominator += denominators[pick];
    }
    ratio = numerator / denominator;
  }
  std::sort(ratios.begin(), ratios.end());
  // Nearest rank: the ceil(q·R)-th smallest.
  const auto rank = [](double q) { return static_cast<size_t>(std::ceil(q * kBootstrapResamples)) - 1; };
  return {ratios[rank(0.025)], ratios[rank(0.975)], ""};
}

// Delta method: the variance of Σx/Σy from the residuals x - r·y.
Interval NormalInterval(absl::Span<const double> numerators, absl::Span<const double> denominators) {
  const double total = std::accumulate(denominators.begin(), denominators.end(), 0.0);
  const double ratio = std::accumulate(numerators.begin(), numerators.end(), 0.0) / total;
  double squares = 0;
  for (size_t i = 0; i < numerators.size(); ++i) {
    const double residual = numerators[i] - ratio * denominators[i];
    squares += residual * residual;
  }
  const double half = kNormalQuantile * std::sqrt(squares) / total;
  return {ratio - half, ratio + half, ""};
}

}  // namespace

std::vector<ExampleTally> TallyByExample(absl::Span<const Prediction> predictions) {
  const auto by_example = [](const Prediction& a, const Prediction& b) { return a.example < b.example; };
  std::vector<Prediction> sorted;
  if (!std::is_sorted(predictions.begin(), predictions.end(), by_example)) {
    sorted.assign(predictions.begin(), predictions.end());
    std::stable_sort(sorted.begin(), sorted.end(), by_example);
    predictions = sorted;
  }
  std::vector<ExampleTally> tallies;
  int64_t current = 0;
  for (const Prediction& prediction : predictions) {
    if (prediction.target == kIgnoredTarget) continue;
    if (tallies.empty() || prediction.example != current) {
      tallies.emplace_back();
      current = prediction.example;
    }
    ExampleTally& tally = tallies.back();
    tally.scored += 1;
    tally.correct += prediction.predicted == prediction.target;
    tally.nll += prediction.nll;
  }
  return tallies;
}

Interval RatioInterval(absl::Span<const double> numerators, absl::Span<const double> denominators,
                       absl::string_view unit) {
  const bool bootstrap = numerators.size() <= kBootstrapLimit;
  const std::string method =
      bootstrap ? absl::StrCat("bootstrap over ", unit, ", ", kBootstrapResamples, " resamples")
                : absl::StrCat("normal approximation over ", unit);
  const bool undefined = numerators.empty() || std::any_of(numerators.begin(), numerators.end(),
                                                           [](double value) { return std::isnan(value); });
  Interval interval = undefined   ? Interval{kNan, kNan, ""}
                      : bootstrap ? BootstrapInterval(numerators, denominators)
                                  : NormalInterval(numerators, denominators);
  interval.method = method;
  return interval;
}

}  // namespace eigsvc
