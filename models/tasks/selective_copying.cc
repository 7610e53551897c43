#include "models/tasks/selective_copying.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "models/base/random.h"
#include "models/base/status_macros.h"
#include "models/tasks/parameters.h"
#include "models/tasks/scoring.h"

namespace eigsvc {
namespace {

constexpr uint64_t kSelectiveCopyingStream = 0x73656c636f7079;  // "selcopy"
constexpr int64_t kMarker = 1, kFirstToken = 2;

struct CopyingParameters {
  int64_t vocab_size = 0, context = 0, count = 0, train_examples = 0, test_examples = 0;
  bool at_start = false;
};

class SelectiveCopying final : public Task {
 public:
  SelectiveCopying(const CopyingParameters& p, Settings settings, uint64_t seed)
      : p_(p), settings_(std::move(settings)), seed_(seed) {
    signature_.vocab_size = signature_.classes = p.vocab_size;
  }

  absl::string_view name() const override { return "selective-copying"; }
  const Settings& parameters() const override { return settings_; }
  const TaskSignature& signature() const override { return signature_; }
  int64_t example_count(Split split) const override {
    return split == Split::kTrain ? p_.train_examples : p_.test_examples;
  }

  absl::StatusOr<Batch> Draw(Split split, int64_t first, int64_t count) const override {
    EIGSVC_RETURN_IF_ERROR(CheckExampleRange(*this, split, first, count));
    Batch batch;
    batch.rows = count;
    batch.steps = p_.context + p_.count;
    batch.lengths.assign(count, batch.steps);
    batch.tokens.assign(count * batch.steps, 0);
    batch.targets.assign(count * batch.steps, kIgnoredTarget);
    for (int64_t row = 0; row < count; ++row) {
      Random random(
          {kSelectiveCopyingStream, seed_, static_cast<uint64_t>(split), static_cast<uint64_t>(first + row)});
      int64_t* tokens = batch.tokens.data() + row * batch.steps;
      int64_t* targets = batch.targets.data() + row * batch.steps;
      int64_t placed = 0;
      for (int64_t step = 0; step < p_.context; ++step) {
        // Each step is taken with the share of tokens still to be placed: every choice of M steps is equally
        // likely.
        const int64_t left = p_.count - placed;
        const bool here =
            p_.at_start ? left > 0 : static_cast<int64_t>(random.Below(p_.context - step)) < left;
        if (!here) continue;
        tokens[step] = kFirstToken + static_cast<int64_t>(random.Below(p_.vocab_size - kFirstToken));
        tokens[p_.context + placed] = kMarker;
        targets[p_.context + placed] = tokens[step];
        ++placed;
      }
    }
    return batch;
  }

  Score ComputeScore(Split, absl::Span<const Prediction> predictions) const override {
    return MeanExampleAccuracy(predictions);
  }

 private:
  const CopyingParameters p_;
  const Settings settings_;
  const uint64_t seed_;
  TaskSignature signature_;
};

absl::StatusOr<std::shared_ptr<const Task>> MakeSelectiveCopying(const TaskRequest& request) {
  ParameterReader reader("selective-copying", request.parameters);
  CopyingParameters p;
  p.vocab_size = reader.Int("vocab_size", 18, kFirstToken + 2, kMaxTaskVocabulary);
  p.context = reader.Int("context_length", 256, 1, kMaxTaskSteps);
  p.count = reader.Int("num_tokens", 16, 1, kMaxTaskSteps);
  p.at_start = reader.Choice("placement", {"random", "start"}) == "start";
  p.train_examples = reader.Int("train_examples", 100000, 0, kMaxTaskExamples);
  p.test_examples = reader.Int("test_examples", 3000, 1, kMaxTaskExamples);
  if (p.count > p.context) {
    reader.Fail(
        absl::StrCat("num_tokens is ", p.count, "; it must not exceed context_length, which is ", p.context));
  }
  EIGSVC_RETURN_IF_ERROR(reader.status());
  return std::make_shared<const SelectiveCopying>(p, reader.resolved(), request.seed);
}

}  // namespace

TaskEntry SelectiveCopyingEntry() {
  return {"selective-copying",
          "name the tokens that stood between blanks, in their order: M·log2(V-2) bits of memory (arXiv "
          "2312.00752)",
          "accuracy",
          {{"vocab_size", "integer", "18", "V; 0 is the blank, 1 the marker, 2..V-1 the tokens"},
           {"context_length", "integer", "256", "L; steps before the markers"},
           {"num_tokens", "integer", "16", "M; tokens to keep, and markers at the end"},
           {"placement", "text", "random", "random: anywhere among the L steps; start: at their start"},
           {"train_examples", "integer", "100000", "examples of the train split"},
           {"test_examples", "integer", "3000", "examples of the test split"}},
          {{"mamba",
            R"({"vocab_size": 18, "context_length": 4096, "num_tokens": 16, "placement": "random",
                "train_examples": 100000, "test_examples": 3000})",
            "the size of arXiv 2312.00752: 4096 steps, 16 tokens of 16 kinds"}},
          /*data=*/{},
          MakeSelectiveCopying};
}

}  // namespace eigsvc
