// The scores of the tasks: predictions grouped by example, summed up, and given a 95 % interval.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "models/tasks/task.h"

namespace eigsvc {

// All predictions of one example.
struct ExampleTally {
  int64_t scored = 0;   // > 0
  int64_t correct = 0;  // predicted == target
  double nll = 0;       // summed, nats
};

// One entry an example that has a prediction whose target is not kIgnoredTarget, in example order.
// Predictions of one example are summed in the order given, so batching changes no bit.
std::vector<ExampleTally> TallyByExample(absl::Span<const Prediction> predictions);

struct Interval {
  double low = 0, high = 0;
  std::string method;  // "bootstrap over examples, 2000 resamples"
};

// 95 % interval of Σ numerators / Σ denominators when whole entries are resampled: percentile bootstrap with
// a fixed seed; above kBootstrapLimit entries the normal approximation, which no longer differs there and
// keeps the cost bounded. `unit` names an entry ("examples"). NaN when empty or a numerator is NaN. REQUIRES:
// equal lengths, denominators > 0.
Interval RatioInterval(absl::Span<const double> numerators, absl::Span<const double> denominators,
                       absl::string_view unit);
inline constexpr int64_t kBootstrapResamples = 2000;
inline constexpr size_t kBootstrapLimit = 5000;

// Wilson's score interval of correct / n (Wilson 1927; Brown et al. 2001). NaN when n is 0.
Interval WilsonInterval(int64_t correct, int64_t n);

// Classification: the share of examples answered right, Wilson interval; n = examples. An example has one
// prediction. `also`: "nll", their mean negative log-likelihood in nats.
Score ClassificationScore(absl::Span<const Prediction> predictions);

// Several questions an example: the mean over examples of each example's accuracy, bootstrap over examples;
// n = examples.
Score MeanExampleAccuracy(absl::Span<const Prediction> predictions);

struct PerplexityOptions {
  // 0: exp of the mean NLL pooled over all tokens. Otherwise the mean, over groups of so many consecutive
  // examples, of exp of the mean NLL in the group: what is reported where a perplexity is averaged over
  // batches of that size.
  int64_t mean_over_batches_of = 0;
  // Words that a token stands for on average are its inverse; > 0 adds the perplexity of a word, exp(mean NLL
  // of a token × tokens per word).
  double tokens_per_word = 0;
};
// n = predicted tokens. Bootstrap over blocks (examples), or over the groups. `also`: "accuracy" of the
// tokens, "nll" in nats, "word_perplexity" where asked for, and "pooled_perplexity" beside a mean over
// batches.
Score PerplexityScore(absl::Span<const Prediction> predictions, const PerplexityOptions& options);

}  // namespace eigsvc
