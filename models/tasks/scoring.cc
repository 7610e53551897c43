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

Interval WilsonInterval(int64_t correct, int64_t n) {
  if (n == 0) return {kNan, kNan, "Wilson"};
  const double count = static_cast<double>(n), share = static_cast<double>(correct) / count;
  const double z2 = kNormalQuantile * kNormalQuantile;
  const double centre = (share + z2 / (2 * count)) / (1 + z2 / count);
  const double half =
      kNormalQuantile * std::sqrt(share * (1 - share) / count + z2 / (4 * count * count)) / (1 + z2 / count);
  // At either end the bound is exactly 0 or 1, which rounding would miss.
  return {correct == 0 ? 0 : centre - half, correct == n ? 1 : centre + half, "Wilson"};
}

Score ClassificationScore(absl::Span<const Prediction> predictions) {
  int64_t correct = 0;
  double nll = 0;
  Score score;
  score.metric = "accuracy";
  for (const ExampleTally& tally : TallyByExample(predictions)) {
    correct += tally.correct;
    nll += tally.nll;
    score.n += tally.scored;
  }
  const Interval interval = WilsonInterval(correct, score.n);
  score.value = static_cast<double>(correct) / static_cast<double>(score.n);  // 0/0 = NaN when empty
  score.ci95_low = interval.low;
  score.ci95_high = interval.high;
  score.interval = interval.method;
  score.also = {{"nll", nll / static_cast<double>(score.n)}};
  return score;
}

Score MeanExampleAccuracy(absl::Span<const Prediction> predictions) {
  std::vector<double> accuracies;
  for (const ExampleTally& tally : TallyByExample(predictions)) {
    accuracies.push_back(static_cast<double>(tally.correct) / static_cast<double>(tally.scored));
  }
  const Interval interval =
      RatioInterval(accuracies, std::vector<double>(accuracies.size(), 1.0), "examples");
  Score score;
  score.metric = "accuracy";
  score.n = static_cast<int64_t>(accuracies.size());
  score.value = std::accumulate(accuracies.begin(), accuracies.end(), 0.0) /
                static_cast<double>(score.n);  // 0/0 = NaN when empty
  score.ci95_low = interval.low;
  score.ci95_high = interval.high;
  score.interval = interval.method;
  return score;
}

Score PerplexityScore(absl::Span<const Prediction> predictions, const PerplexityOptions& options) {
  std::vector<double> nll, scored;
  double total_nll = 0;
  int64_t correct = 0;
  Score score;
  score.metric = "perplexity";
  for (const ExampleTally& tally : TallyByExample(predictions)) {
    nll.push_back(tally.nll);
    scored.push_back(static_cast<double>(tally.scored));
    total_nll += tally.nll;
    correct += tally.correct;
    score.n += tally.scored;
  }
  const double tokens = static_cast<double>(score.n);
  const double mean_nll = total_nll / tokens;  // 0/0 = NaN when empty, and so is all that follows
  score.value = std::exp(mean_nll);
  if (options.mean_over_batches_of == 0) {
    const Interval interval = RatioInterval(nll, scored, "blocks");
    score.ci95_low = std::exp(interval.low);
    score.ci95_high = std::exp(interval.high);
    score.interval = interval.method;
  }
  score.also = {{"accuracy", static_cast<double>(correct) / tokens}, {"nll", mean_nll}};
  if (options.tokens_per_word > 0) {
    score.also.emplace_back("word_perplexity", std::exp(mean_nll * options.tokens_per_word));
  }
  if (options.mean_over_batches_of > 0) {
    std::vector<Prediction> batched(predictions.begin(), predictions.end());
    for (Prediction& prediction : batched) prediction.example /= options.mean_over_batches_of;
    std::vector<double> perplexities;
    for (const ExampleTally& batch : TallyByExample(batched)) {
      perplexities.push_back(std::exp(batch.nll / static_cast<double>(batch.scored)));
    }
    const Interval interval =
        RatioInterval(perplexities, std::vector<double>(perplexities.size(), 1.0), "batches");
    score.also.emplace_back("pooled_perplexity", score.value);
    score.value = std::accumulate(perplexities.begin(), perplexities.end(), 0.0) /
                  static_cast<double>(perplexities.size());
    score.ci95_low = interval.low;
    score.ci95_high = interval.high;
    score.interval = interval.method;
  }
  return score;
}

}  // namespace eigsvc
