// What the tasks' scores share: predictions grouped by example, and a 95 % interval by bootstrap.
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

}  // namespace eigsvc
