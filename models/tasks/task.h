// Task: batches and a score. A batch is a pure function of (seed, split, index). No LibTorch here.
// To add a task: write models/tasks/TASK.cc, add its line in registry.cc and its source in CMakeLists.txt.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "models/base/settings.h"

namespace eigsvc {

enum class Split { kTrain, kTest };
absl::StatusOr<Split> ParseSplit(absl::string_view name);  // "train", "test"
absl::string_view SplitName(Split split);

inline constexpr int64_t kIgnoredTarget = -100;

// Row-major; rows shorter than `steps` are padded on the right with token 0 and kIgnoredTarget.
struct Batch {
  int64_t rows = 0, steps = 0;
  std::vector<int64_t> tokens;   // [rows, steps]
  std::vector<int64_t> targets;  // [rows, steps]: the class expected at that step, or kIgnoredTarget
  std::vector<int64_t> lengths;  // [rows]
};

// One scored position, in batch order.
struct Prediction {
  int64_t example = 0;  // index of the example in the split
  int64_t predicted = 0, target = 0;
  double nll = 0;  // negative log-likelihood of the target, nats
};

struct Score {
  std::string metric;  // "accuracy" or "perplexity"
  double value = 0;    // NaN when nothing was scored
  int64_t n = 0;       // examples (MQAR) or predicted tokens (perplexity)
  double ci95_low = 0, ci95_high = 0;
  std::string interval;  // how the interval was made: "bootstrap over examples, 2000 resamples"
  // Further numbers worth showing: {"accuracy": per-token accuracy} beside a perplexity.
  std::vector<std::pair<std::string, double>> also;
};

class Task {
 public:
  virtual ~Task() = default;
  virtual absl::string_view name() const = 0;
  // Resolved parameters, defaults filled in; travels with the result and into trained checkpoints.
  virtual const Settings& parameters() const = 0;
  virtual int64_t vocab_size() const = 0;  // ids and targets are below it
  virtual int64_t example_count(Split split) const = 0;
  // Examples [first, first+count) of the split. OUT_OF_RANGE beyond example_count. Thread-safe.
  virtual absl::StatusOr<Batch> Draw(Split split, int64_t first, int64_t count) const = 0;
  // Score of all predictions so far; order and batching of the predictions do not matter.
  virtual Score ComputeScore(absl::Span<const Prediction> predictions) const = 0;
};

// What every Draw checks first: OUT_OF_RANGE unless 0 <= first, 0 < count and first + count <=
// example_count(split); RESOURCE_EXHAUSTED above kMaxDraw examples at once.
absl::Status CheckExampleRange(const Task& task, Split split, int64_t first, int64_t count);
inline constexpr int64_t kMaxDraw = int64_t{1} << 16;

struct TaskParameter {
  absl::string_view name, type, fallback, meaning;  // for `eigsvc tasks`
};

struct TaskEntry {
  absl::string_view name;  // "mqar"
  absl::string_view summary;
  absl::string_view metric;
  std::vector<TaskParameter> parameters;
  bool needs_data;
  // `parameters`: unknown keys are INVALID_ARGUMENT naming the known ones. `data_path`: a file or directory,
  // or empty.
  absl::StatusOr<std::shared_ptr<const Task>> (*make)(const Settings& parameters, uint64_t seed,
                                                      const std::string& data_path);
};

absl::Span<const TaskEntry> Tasks();
absl::StatusOr<const TaskEntry*> FindTask(absl::string_view name);  // NOT_FOUND listing the known ones
absl::StatusOr<std::shared_ptr<const Task>> MakeTask(absl::string_view name, const Settings& parameters,
                                                     uint64_t seed, const std::string& data_path);

}  // namespace eigsvc
