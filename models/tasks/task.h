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
#include "models/base/stop_token.h"

namespace eigsvc {

enum class Split { kTrain, kTest };
absl::StatusOr<Split> ParseSplit(absl::string_view name);  // "train", "test"
absl::string_view SplitName(Split split);

inline constexpr int64_t kIgnoredTarget = -100;

// What a model must take and give to run a task. The inputs are tokens or real numbers, never both. A task
// asks either at each step, of what the model makes of the steps so far, or once a sequence, of what it makes
// of the whole. How a sequence becomes one answer is the model's own affair (its pooling, over the real steps
// of the row); a model that has no pooling answers at the last real step.
struct TaskSignature {
  int64_t vocab_size = 0;     // token ids lie below it; 0: the inputs are real numbers
  int64_t channels = 0;       // real numbers a step; 0: the inputs are tokens
  int64_t classes = 0;        // targets lie below it
  bool per_sequence = false;  // one target a sequence (classification), else one a step
  // What vocab_size must be at least, as the ids come with the data; 0: the task makes them up.
  int64_t data_vocab_size = 0;
};

// Row-major; rows shorter than `steps` are padded on the right with token or value 0 and kIgnoredTarget.
struct Batch {
  int64_t rows = 0, steps = 0;
  int64_t channels = 0;          // real numbers a step; 0: the inputs are tokens
  std::vector<int64_t> tokens;   // [rows, steps]; empty where the inputs are real numbers
  std::vector<float> values;     // [rows, steps, channels]; empty where the inputs are tokens
  std::vector<int64_t> targets;  // [rows, target_steps()]: the class expected there, or kIgnoredTarget
  std::vector<int64_t> lengths;  // [rows], in [1, steps]

  // `steps`, or 1 where the task asks once a sequence.
  int64_t target_steps() const { return rows == 0 ? 0 : static_cast<int64_t>(targets.size()) / rows; }
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
  int64_t n = 0;       // examples (accuracy) or predicted tokens (perplexity)
  double ci95_low = 0, ci95_high = 0;
  std::string interval;  // how the interval was made: "bootstrap over examples, 2000 resamples"
  // Further numbers worth showing: {"accuracy": per-token accuracy} beside a perplexity.
  std::vector<std::pair<std::string, double>> also;
};

class Task {
 public:
  virtual ~Task() = default;
  virtual absl::string_view name() const = 0;
  // Resolved parameters, defaults filled in; travels with the result and into trained checkpoints. Building
  // the task from them, on the same seed and data, gives the same task.
  virtual const Settings& parameters() const = 0;
  virtual const TaskSignature& signature() const = 0;
  virtual int64_t example_count(Split split) const = 0;  // 0 of a split that was not asked for
  // Examples [first, first+count) of the split. OUT_OF_RANGE beyond example_count. Thread-safe.
  virtual absl::StatusOr<Batch> Draw(Split split, int64_t first, int64_t count) const = 0;
  // Score of all predictions of the split so far; their order and batching do not matter.
  virtual Score ComputeScore(Split split, absl::Span<const Prediction> predictions) const = 0;
};

// What every Draw checks first: OUT_OF_RANGE unless 0 <= first, 0 < count and first + count <=
// example_count(split); RESOURCE_EXHAUSTED above kMaxDraw examples at once.
absl::Status CheckExampleRange(const Task& task, Split split, int64_t first, int64_t count);
inline constexpr int64_t kMaxDraw = int64_t{1} << 16;

// What a task is made from.
struct TaskRequest {
  Settings parameters;    // unknown keys are INVALID_ARGUMENT naming the known ones
  uint64_t seed = 0;      // of the examples, or of the order in which a file's are served
  std::string data_path;  // a file or directory; empty: none
  // The splits that will be drawn from: files that only another one needs are not read.
  bool train = true, test = true;
  const StopToken* stop = nullptr;  // looked at while data is read
};

struct TaskParameter {
  absl::string_view name, type, fallback, meaning;  // for `eigsvc tasks`
};

// Parameters that were published together: `--param preset=NAME`. Parameters given beside it win.
struct TaskPreset {
  absl::string_view name, parameters_json, meaning;
};

// The files a task reads, for `eigsvc tasks describe`.
struct TaskData {
  enum class Need { kNone, kOptional, kRequired };
  struct File {
    // As published; "md5 HEX", "sha1 HEX", "sha256 HEX", or empty where none is known. What a request names
    // as data by this very name is compared with it: CheckPublished in readers/data_files.h.
    absl::string_view name, checksum, meaning;
  };
  Need need = Need::kNone;
  // What the data is called under a data root, best first; taken there when a request names none and the task
  // requires data.
  std::vector<absl::string_view> names;
  std::vector<File> files;
  absl::string_view layout;  // how the files are laid out; lines
};

struct TaskEntry {
  absl::string_view name;  // "mqar"
  absl::string_view summary;
  absl::string_view metric;
  std::vector<TaskParameter> parameters;
  std::vector<TaskPreset> presets;
  TaskData data;
  // NOT_FOUND: a file that is needed is missing (says which, and what it is called where it is published);
  // INVALID_ARGUMENT, DATA_LOSS, RESOURCE_EXHAUSTED: a file is malformed, damaged, too large (names file and
  // line or offset); CANCELLED, DEADLINE_EXCEEDED from the request's stop token.
  absl::StatusOr<std::shared_ptr<const Task>> (*make)(const TaskRequest& request);
};

absl::Span<const TaskEntry> Tasks();
absl::StatusOr<const TaskEntry*> FindTask(absl::string_view name);  // NOT_FOUND listing the known ones
absl::StatusOr<std::shared_ptr<const Task>> MakeTask(absl::string_view name, const TaskRequest& request);
// The parameters with `preset` replaced by what it stands for. NOT_FOUND listing the task's presets.
absl::StatusOr<Settings> ExpandPreset(const TaskEntry& entry, const Settings& parameters);

}  // namespace eigsvc
