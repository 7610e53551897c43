#include "models/tasks/delay.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "models/base/random.h"
#include "models/base/status_macros.h"
#include "models/tasks/parameters.h"
#include "models/tasks/scoring.h"

namespace eigsvc {
namespace {

constexpr uint64_t kDelayStream = 0x64656c6179;  // "delay"

struct DelayParameters {
  int64_t vocab_size = 0, length = 0, lag = 0, train_examples = 0, test_examples = 0;
};

class Delay final : public Task {
 public:
  Delay(const DelayParameters& p, Settings settings, uint64_t seed)
      : p_(p), settings_(std::move(settings)), seed_(seed) {
    signature_.vocab_size = signature_.classes = p.vocab_size;
  }

  absl::string_view name() const override { return "delay"; }
  const Settings& parameters() const override { return settings_; }
  const TaskSignature& signature() const override { return signature_; }
  int64_t example_count(Split split) const override {
    return split == Split::kTrain ? p_.train_examples : p_.test_examples;
  }

  absl::StatusOr<Batch> Draw(Split split, int64_t first, int64_t count) const override {
    EIGSVC_RETURN_IF_ERROR(CheckExampleRange(*this, split, first, count));
    Batch batch;
    batch.rows = count;
    batch.steps = p_.length;
    batch.lengths.assign(count, p_.length);
    for (int64_t index = first; index < first + count; ++index) {
      Random random({kDelayStream, seed_, static_cast<uint64_t>(split), static_cast<uint64_t>(index)});
      for (int64_t step = 0; step < p_.length; ++step) {
        batch.tokens.push_back(static_cast<int64_t>(random.Below(p_.vocab_size)));
        batch.targets.push_back(step < p_.lag ? kIgnoredTarget
                                              : batch.tokens[batch.tokens.size() - 1 - p_.lag]);
      }
    }
    return batch;
  }

  Score ComputeScore(Split, absl::Span<const Prediction> predictions) const override {
    return MeanExampleAccuracy(predictions);
  }

 private:
  const DelayParameters p_;
  const Settings settings_;
  const uint64_t seed_;
  TaskSignature signature_;
};

absl::StatusOr<std::shared_ptr<const Task>> MakeDelay(const TaskRequest& request) {
  ParameterReader reader("delay", request.parameters);
  DelayParameters p;
  p.vocab_size = reader.Int("vocab_size", 16, 2, kMaxTaskVocabulary);
  p.length = reader.Int("length", 256, 1, kMaxTaskSteps);
  p.lag = reader.Int("lag", 16, 0, kMaxTaskSteps);
  p.train_examples = reader.Int("train_examples", 100000, 0, kMaxTaskExamples);
  p.test_examples = reader.Int("test_examples", 3000, 1, kMaxTaskExamples);
  if (p.lag >= p.length) {
    reader.Fail(absl::StrCat("lag is ", p.lag, "; it must be less than length, which is ", p.length));
  }
  EIGSVC_RETURN_IF_ERROR(reader.status());
  return std::make_shared<const Delay>(p, reader.resolved(), request.seed);
}

}  // namespace

TaskEntry DelayEntry() {
  return {"delay",
          "say again what was read `lag` steps ago: lag·log2(V) bits of memory, each for lag steps",
          "accuracy",
          {{"vocab_size", "integer", "16", "V; tokens are uniform below it"},
           {"length", "integer", "256", "steps of a sequence; the first `lag` are not scored"},
           {"lag", "integer", "16", "steps between a token and its repetition; 0: none"},
           {"train_examples", "integer", "100000", "examples of the train split"},
           {"test_examples", "integer", "3000", "examples of the test split"}},
          /*presets=*/{},
          /*data=*/{},
          MakeDelay};
}

}  // namespace eigsvc
