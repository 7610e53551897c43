// A model and a task whose every number is known in closed form.
#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "ATen/TensorOperators.h"
#include "ATen/ops/arange.h"
#include "ATen/ops/zeros.h"
#include "models/tasks/scoring.h"
#include "models/tasks/task.h"
#include "models/transition/tap.h"
#include "models/zoo/sequence_model.h"

namespace eigsvc::testing {

// x is the tokens themselves, through every layer. The class it names after token t is (3t + 1) mod V; its
// logits are -(v - class)²/4.
class FakeModel final : public SequenceModel {
 public:
  // Called in each layer with x [B,T,1]; reports what it likes to the tap, or throws, or sleeps.
  using OnLayer = std::function<absl::Status(int layer, const at::Tensor& x, const LayerContext& context)>;

  FakeModel(int64_t layers, int64_t vocab_size, OnLayer on_layer, const ConventionSupport& conventions = {})
      : SequenceModel(Describe(layers, vocab_size, conventions), {}, MakeWeights(layers), at::kFloat),
        on_layer_(std::move(on_layer)) {}

 private:
  static ModelDescription Describe(int64_t layers, int64_t vocab_size, const ConventionSupport& conventions) {
    ModelDescription description;
    description.conventions = conventions;
    description.family = "fake";
    description.layout = "fake";
    description.layers = layers;
    description.width = 1;
    description.vocab_size = vocab_size;
    return description;
  }
  static ModelWeights MakeWeights(int64_t layers) {
    ModelWeights weights;
    weights.outer.Set("nothing", at::zeros({1}));
    weights.layers.resize(layers);
    return weights;
  }
  at::Tensor DoEmbed(const ModelWeights&, const at::Tensor& tokens, int64_t) const override {
    return tokens.to(at::kFloat).unsqueeze(-1);
  }
  absl::StatusOr<at::Tensor> DoLayer(int index, const Weights&, const at::Tensor& x, LayerState&,
                                     const LayerContext& context) const override {
    if (absl::Status status = on_layer_(index, x, context); !status.ok()) return status;
    return x;
  }
  at::Tensor DoHead(const ModelWeights&, const at::Tensor& x) const override {
    const at::Tensor named = (x * 3 + 1).remainder(description().vocab_size);
    return (at::arange(description().vocab_size, x.options()) - named).square() * -0.25;
  }

  const OnLayer on_layer_;
};

// Rows of token (7·example + 3·step) mod V of lengths 1, 2, ... `longest`, 1, 2, ...; every batch is `steps`
// wide. The target of each odd step is the model's answer, but in every third example one more.
class FakeTask final : public Task {
 public:
  FakeTask(int64_t examples, int64_t vocab_size, int64_t steps, int64_t longest)
      : examples_(examples), vocab_size_(vocab_size), steps_(steps), longest_(longest) {
    signature_.vocab_size = signature_.classes = vocab_size;
  }

  absl::string_view name() const override { return "fake"; }
  const Settings& parameters() const override { return parameters_; }
  const TaskSignature& signature() const override { return signature_; }
  int64_t example_count(Split split) const override { return split == Split::kTest ? examples_ : 0; }

  int64_t Length(int64_t example) const { return 1 + example % longest_; }
  int64_t Token(int64_t example, int64_t step) const { return (7 * example + 3 * step) % vocab_size_; }
  int64_t Target(int64_t example, int64_t step) const {
    if (step % 2 == 0 || step >= Length(example)) return kIgnoredTarget;
    return (3 * Token(example, step) + 1 + (example % 3 == 0)) % vocab_size_;
  }
  absl::StatusOr<Batch> Draw(Split split, int64_t first, int64_t count) const override {
    if (absl::Status status = CheckExampleRange(*this, split, first, count); !status.ok()) return status;
    Batch batch;
    batch.rows = count;
    batch.steps = steps_;
    for (int64_t example = first; example < first + count; ++example) {
      batch.lengths.push_back(Length(example));
      for (int64_t step = 0; step < steps_; ++step) {
        batch.tokens.push_back(step < Length(example) ? Token(example, step) : 0);
        batch.targets.push_back(Target(example, step));
      }
    }
    return batch;
  }
  // Accuracy over positions; the total negative log-likelihood is put into `also`.
  Score ComputeScore(Split, absl::Span<const Prediction> predictions) const override {
    Score score;
    score.metric = "accuracy";
    double nll = 0;
    for (const ExampleTally& tally : TallyByExample(predictions)) {
      score.n += tally.scored;
      score.value += static_cast<double>(tally.correct);
      nll += tally.nll;
    }
    score.value /= static_cast<double>(score.n);
    score.also = {{"total_nll", nll}};
    return score;
  }

 private:
  const Settings parameters_;
  const int64_t examples_, vocab_size_, steps_, longest_;
  TaskSignature signature_;
};

}  // namespace eigsvc::testing
