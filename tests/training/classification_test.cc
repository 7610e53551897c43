// Tasks that ask once a sequence and real inputs, through training and analysis on models that pool.
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "ATen/TensorOperators.h"
#include "ATen/ops/log_softmax.h"
#include "absl/strings/str_cat.h"
#include "c10/core/GradMode.h"
#include "models/analysis/labelled.h"
#include "models/base/random.h"
#include "models/base/status_macros.h"
#include "models/tasks/scoring.h"
#include "models/training/loss.h"
#include "models/training/training.h"
#include "models/zoo/registry.h"
#include "tests/testing/status_matchers.h"

namespace eigsvc {
namespace {

using ::absl::StatusCode;
using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::StatusIs;

// Is the mean of a row's first channel above zero? Rows of 3 to `steps` steps; the padding is far from zero
// where it is not looked at. With `tokens`, are there more tokens 2 than 1?
class SignTask final : public Task {
 public:
  SignTask(int64_t steps, int64_t channels, bool tokens) : steps_(steps), tokens_(tokens) {
    signature_ = {
        .vocab_size = tokens ? 3 : 0, .channels = tokens ? 0 : channels, .classes = 2, .per_sequence = true};
  }
  absl::string_view name() const override { return "sign"; }
  const Settings& parameters() const override { return parameters_; }
  const TaskSignature& signature() const override { return signature_; }
  int64_t example_count(Split split) const override { return split == Split::kTrain ? 4000 : 200; }
  absl::StatusOr<Batch> Draw(Split split, int64_t first, int64_t count) const override {
    Batch batch{.rows = count, .steps = steps_, .channels = signature_.channels};
    for (int64_t example = first; example < first + count; ++example) {
      Random random({9, static_cast<uint64_t>(split), static_cast<uint64_t>(example)});
      const int64_t length = 3 + static_cast<int64_t>(random.Below(steps_ - 2)), label = random.Below(2);
      for (int64_t step = 0; step < steps_; ++step) {
        if (tokens_) {
          const int64_t token = random.Unit() < 0.75 ? label + 1 : 2 - label;
          batch.tokens.push_back(step < length ? token : 0);
          continue;
        }
        for (int64_t channel = 0; channel < signature_.channels; ++channel) {
          const double value = random.Unit() - 0.5 + (channel == 0 ? 0.4 * (2 * label - 1) : 0);
          batch.values.push_back(step < length ? static_cast<float>(value) : 0);
        }
      }
      batch.lengths.push_back(length);
      batch.targets.push_back(label);
    }
    return batch;
  }
  Score ComputeScore(Split, absl::Span<const Prediction> predictions) const override {
    return ClassificationScore(predictions);
  }

 private:
  const int64_t steps_;
  const bool tokens_;
  TaskSignature signature_;
  const Settings parameters_;
};

struct Classifier {
  std::string family, settings;
  bool tokens;
  int64_t channels;
};
void PrintTo(const Classifier& classifier, std::ostream* out) { *out << classifier.family; }

absl::StatusOr<std::shared_ptr<const SequenceModel>> Make(const Classifier& classifier,
                                                          at::ScalarType dtype) {
  EIGSVC_ASSIGN_OR_RETURN(const FamilyEntry* family, FindFamily(classifier.family));
  EIGSVC_ASSIGN_OR_RETURN(const Settings settings, Settings::Parse(classifier.settings, "test"));
  return InitializeModel(*family, settings, 3, {c10::kCPU, dtype});
}

class ClassifierTest : public ::testing::TestWithParam<Classifier> {};

// A row among longer ones, in training's loss and in a prediction: what it is alone.
TEST_P(ClassifierTest, PaddingChangesNoAnswer) {
  const c10::NoGradGuard no_grad;
  const SignTask task(12, GetParam().channels, GetParam().tokens);
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto model, Make(GetParam(), at::kDouble));
  EIGSVC_ASSERT_OK(CheckFits(task, model->description()));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Batch batch, task.Draw(Split::kTest, 5, 6));
  EIGSVC_ASSERT_OK(CheckBatch(task, batch, Split::kTest, 5, model->description()));
  const at::Tensor inputs = InputTensor(batch, c10::kCPU);
  EIGSVC_ASSERT_OK_AND_ASSIGN(at::Tensor x, model->Embed(model->weights(), inputs, 0));
  for (size_t layer = 0; layer < model->weights().layers.size(); ++layer) {
    EIGSVC_ASSERT_OK_AND_ASSIGN(
        x, model->Layer(static_cast<int>(layer), model->weights().layers[layer], x, nullptr, {}));
  }
  EIGSVC_ASSERT_OK_AND_ASSIGN(const std::vector<Prediction> predictions,
                              Predict(*model, model->weights(), batch, 5, x, StopToken()));
  ASSERT_EQ(predictions.size(), 6u);
  double sum = 0;
  for (int64_t row = 0; row < 6; ++row) {
    const at::Tensor alone = inputs.narrow(0, row, 1).narrow(1, 0, batch.lengths[row]);
    EIGSVC_ASSERT_OK_AND_ASSIGN(const at::Tensor logits, model->Forward(model->weights(), alone));
    const double nll = -at::log_softmax(logits, -1)[0][0][batch.targets[row]].item<double>();
    EXPECT_NEAR(predictions[row].nll, nll, 1e-12) << "row " << row;
    EXPECT_EQ(predictions[row].example, 5 + row);
    sum += nll;
  }
  EIGSVC_ASSERT_OK_AND_ASSIGN(const at::Tensor loss,
                              TrainingLoss(*model, model->weights(), batch, StopToken()));
  EXPECT_NEAR(loss.item<double>(), sum / 6, 1e-12);
}

TEST_P(ClassifierTest, Learns) {
  const SignTask task(12, GetParam().channels, GetParam().tokens);
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto model, Make(GetParam(), at::kFloat));
  TrainingOptions options;
  options.steps = 60;
  options.batch_size = 32;
  options.learning_rate = 5e-3;
  options.eval_every = 60;
  options.eval_examples = 200;
  EIGSVC_ASSERT_OK_AND_ASSIGN(const TrainingResult result,
                              RunTraining(*model, task, options, nullptr, StopToken()));
  EXPECT_GE(result.last.value, 0.8);  // 0.5 is chance
  EXPECT_EQ(result.last.n, 200);
  EXPECT_EQ(result.last.interval, "Wilson");
  EXPECT_FALSE(result.sites.empty());
}

const Classifier kClassifiers[] = {
    {"softmax-attention",
     R"({"hidden_dim": 16, "num_heads": 2, "classifier": true, "pooling": "mean", "vocab_size": 3, "output_dim": 2,
         "mixer_dim": 16, "max_pos_embed": 12})",
     true, 0},
    {"norm-attention",
     R"({"hidden_dim": 16, "num_heads": 2, "classifier": true, "pooling": "max", "embedding": false, "input_dim": 2,
         "output_dim": 2, "mixer_dim": 16, "norm_fn": "softplus"})",
     false, 2},
    {"mamba2",
     R"({"layout": "paper", "hidden_dim": 16, "num_heads": 2, "state_dim": 8, "pooling": "mean",
         "token_embedding": false, "input_dim": 1, "output_dim": 2, "pseudoLTI": true})",
     false, 1},
    {"mamba2",
     R"({"layout": "paper", "hidden_dim": 16, "num_heads": 2, "state_dim": 8, "pooling": "last", "vocab_size": 3,
         "output_dim": 2})",
     true, 0},
    {"s4",
     R"({"hidden_dim": 16, "state_dim": 8, "seq_len": 12, "pooling": "mean", "input_dim": 1, "output_dim": 2})",
     false, 1},
    {"lru", R"({"hidden_dim": 16, "state_dim": 8, "pooling": "mean", "vocab_size": 3, "output_dim": 2})",
     true, 0},
};
INSTANTIATE_TEST_SUITE_P(Models, ClassifierTest, ::testing::ValuesIn(kClassifiers), [](const auto& param) {
  std::string name = absl::StrCat(param.param.family, param.index);
  for (char& c : name) c = c == '-' ? '_' : c;
  return name;
});

TEST(FitTest, WhatAModelCannotTakeOrAnswerIsNamed) {
  const SignTask tokens(12, 0, true), values(12, 1, false);
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto of_tokens, Make(kClassifiers[0], at::kFloat));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto of_pairs, Make(kClassifiers[1], at::kFloat));
  EXPECT_THAT(
      CheckFits(values, of_tokens->description()),
      StatusIs(StatusCode::kFailedPrecondition, AllOf(HasSubstr("1 real numbers"), HasSubstr("tokens"))));
  EXPECT_THAT(
      CheckFits(values, of_pairs->description()),
      StatusIs(StatusCode::kFailedPrecondition, AllOf(HasSubstr("1 real numbers"), HasSubstr("takes 2"))));
  EXPECT_THAT(
      CheckFits(tokens, of_pairs->description()),
      StatusIs(StatusCode::kFailedPrecondition, AllOf(HasSubstr("tokens"), HasSubstr("2 real numbers"))));
  const Settings wide =
      Settings::Parse(
          R"({"hidden_dim": 16, "classifier": true, "pooling": "mean", "vocab_size": 99, "output_dim": 99})",
          "test")
          .value();
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto pooled,
                              InitializeModel(*FindFamily("softmax-attention").value(), wide, 1, {}));
  EIGSVC_ASSERT_OK_AND_ASSIGN(
      const auto recall,
      MakeTask("mqar", {.parameters = Settings::Parse(R"({"vocab_size": 99})", "test").value()}));
  EXPECT_THAT(
      CheckFits(*recall, pooled->description()),
      StatusIs(StatusCode::kFailedPrecondition, AllOf(HasSubstr("every step"), HasSubstr("\"mean\""))));
}

}  // namespace
}  // namespace eigsvc
