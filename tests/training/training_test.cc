// Training: gradients against finite differences, the optimiser against its formula, and a resumed run
// against one that never stopped.
#include "models/training/training.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "ATen/TensorOperators.h"
#include "ATen/ops/ones_like.h"
#include "ATen/ops/zeros_like.h"
#include "absl/time/clock.h"
#include "c10/core/GradMode.h"
#include "models/archive/archive.h"
#include "models/training/batch_order.h"
#include "models/training/checkpoint.h"
#include "models/training/loss.h"
#include "models/training/optimizer.h"
#include "models/zoo/registry.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/tensors.h"

namespace eigsvc {
namespace {

using ::absl::StatusCode;
using ::eigsvc::testing::StatusIs;
using ::testing::AllOf;
using ::testing::HasSubstr;

Settings Parse(const std::string& json) { return Settings::Parse(json, "test").value(); }

std::shared_ptr<const SequenceModel> TinyModel(at::ScalarType dtype = at::kFloat, uint64_t seed = 3) {
  const FamilyEntry* family = FindFamily("mamba2").value();
  return InitializeModel(
             *family, Parse(R"({"d_model": 16, "n_layer": 2, "vocab_size": 40, "d_state": 8, "headdim": 8})"),
             seed, {c10::kCPU, dtype})
      .value();
}

std::shared_ptr<const Task> TinyTask() {
  return MakeTask("mqar", {.parameters = Parse(R"({"vocab_size": 40, "input_seq_len": 16, "num_kv_pairs": 2,
                                    "train_examples": 320, "test_examples": 64})"),
                           .seed = 5})
      .value();
}

TrainingOptions TinyOptions(const std::string& name) {
  TrainingOptions options;
  options.steps = 20;
  options.batch_size = 16;
  options.learning_rate = 1e-2;
  options.warmup_steps = 4;
  options.eval_every = 5;
  options.eval_examples = 64;
  if (!name.empty()) {
    options.output_path = ::testing::TempDir() + "training_" + name + ".safetensors";
    options.last_path = ::testing::TempDir() + "training_" + name + ".last.safetensors";
  }
  return options;
}

// Every weight of two checkpoints, bit for bit.
void ExpectSameTensors(const std::string& a, const std::string& b) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Archive first, Archive::Open(a));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Archive second, Archive::Open(b));
  ASSERT_EQ(first.tensors().size(), second.tensors().size());
  for (const auto& [name, tensor] : first.tensors()) {
    const auto found = second.tensors().find(name);
    ASSERT_NE(found, second.tensors().end()) << name;
    ASSERT_EQ(tensor.shape, found->second.shape);
    for (int64_t i = 0; i < tensor.ElementCount(); ++i) {
      ASSERT_EQ(ElementAsDouble(tensor, i), ElementAsDouble(found->second, i)) << name << " element " << i;
    }
  }
}

// Every trainable family: the derivative of the loss along a random direction of each parameter, by central
// differences in float64.
class GradientTest : public ::testing::TestWithParam<absl::string_view> {};

TEST_P(GradientTest, AgreesWithFiniteDifferences) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(const FamilyEntry* family, FindFamily(GetParam()));
  EIGSVC_ASSERT_OK_AND_ASSIGN(
      auto model, InitializeModel(*family, Parse(R"({"vocab_size": 40})"), 3, {c10::kCPU, c10::kDouble}));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Batch batch, TinyTask()->Draw(Split::kTrain, 0, 3));
  const ModelWeights weights = model->weights().Clone(/*requires_grad=*/true);
  const StopToken stop;
  {
    const c10::AutoGradMode with_gradients(true);
    EIGSVC_ASSERT_OK_AND_ASSIGN(const at::Tensor loss, TrainingLoss(*model, weights, batch, stop));
    loss.backward();
  }
  const c10::NoGradGuard no_grad;
  Random random({17});
  constexpr double kStep = 1e-6;
  for (const Parameter& parameter : ListParameters(*model, weights)) {
    ASSERT_TRUE(parameter.value.grad().defined()) << parameter.key;
    const at::Tensor direction =
        testing::NormalTensor(random, parameter.value.sizes()).to(parameter.value.scalar_type());
    const double expected = (parameter.value.grad() * direction).sum().item<double>();
    at::Tensor value = parameter.value;
    const at::Tensor original = value.clone();
    const auto loss_at = [&](double distance) {
      value.copy_(original + direction * distance);
      return TrainingLoss(*model, weights, batch, stop).value().item<double>();
    };
    // Fourth order: embeddings are small and normalised at once, so the loss bends within a step.
    const double slope =
        (8 * (loss_at(kStep) - loss_at(-kStep)) - (loss_at(2 * kStep) - loss_at(-2 * kStep))) / (12 * kStep);
    value.copy_(original);
    EXPECT_NEAR(slope, expected, 1e-7 * std::max(1.0, std::abs(expected))) << parameter.key;
  }
}

std::vector<absl::string_view> TrainableFamilies() {
  std::vector<absl::string_view> names;
  for (const FamilyEntry& family : Families()) {
    if (family.trainable) names.push_back(family.name);
  }
  return names;
}
INSTANTIATE_TEST_SUITE_P(Families, GradientTest, ::testing::ValuesIn(TrainableFamilies()),
                         [](const auto& param) {
                           std::string name(param.param);
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

// A question asked once a sequence is learnt from the last real step of each row.
TEST(TrainingTest, TheLossOfASequenceIsThatOfItsLastRealStep) {
  const auto model = TinyModel(at::kDouble);
  Batch once{.rows = 2, .steps = 4, .tokens = {1, 2, 3, 4, 5, 6, 0, 0}, .targets = {7, 9}, .lengths = {4, 2}};
  Batch each = once;
  constexpr int64_t kNone = kIgnoredTarget;
  each.targets = {kNone, kNone, kNone, 7, kNone, 9, kNone, kNone};
  const StopToken stop;
  EIGSVC_ASSERT_OK_AND_ASSIGN(const at::Tensor a, TrainingLoss(*model, model->weights(), once, stop));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const at::Tensor b, TrainingLoss(*model, model->weights(), each, stop));
  EXPECT_EQ(a.item<double>(), b.item<double>());
  EXPECT_GT(a.item<double>(), 0);
}

TEST(TrainingTest, LossGoesDownAndTheBestCheckpointScoresWhatWasReported) {
  const auto model = TinyModel();
  const auto task = TinyTask();
  TrainingOptions options = TinyOptions("descends");
  options.steps = 60;
  options.eval_every = 20;
  std::vector<double> losses;
  int64_t evaluations = 0;
  EIGSVC_ASSERT_OK_AND_ASSIGN(const TrainingResult result, RunTraining(
                                                               *model, *task, options,
                                                               [&](const TrainingProgress& report) {
                                                                 losses.push_back(report.loss);
                                                                 evaluations += report.evaluated;
                                                                 EXPECT_EQ(report.sites != nullptr,
                                                                           report.evaluated);
                                                               },
                                                               StopToken()));
  EXPECT_EQ(evaluations, 3);
  EXPECT_NEAR(losses.front(), std::log(40), 0.7);  // an untrained model knows nothing
  EXPECT_LT(losses.back(), losses.front() - 0.5);
  EXPECT_EQ(result.steps, 60);
  ASSERT_EQ(result.sites.size(), 2u * 4);  // 32 inner channels in heads of 8
  // The transitions moved: their spectra differ from the untrained model's.
  EIGSVC_ASSERT_OK_AND_ASSIGN(const AnalysisResult untrained,
                              RunAnalysis(*model, *task, AnalysisOptions(), nullptr, StopToken()));
  EXPECT_NE(result.sites[0].spectrum.Mean(), untrained.sites[0].spectrum.Mean());

  EIGSVC_ASSERT_OK_AND_ASSIGN(const Archive archive, Archive::Open(result.best_path));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto best, LoadModel(archive, Settings(), LoadOptions()));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Settings parameters, archive.settings().Child("task.parameters"));
  EXPECT_EQ(archive.settings().Text("task.name").value(), "mqar");
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto again, MakeTask("mqar", {.parameters = parameters, .seed = 5}));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const AnalysisResult scored,
                              RunAnalysis(*best, *again, AnalysisOptions(), nullptr, StopToken()));
  EXPECT_EQ(scored.score.value, result.best.value);
  EXPECT_EQ(scored.score.n, 64);
}

// Cancelled after ten of twenty steps and resumed, a run ends on the very bits of one that was never stopped:
// weights and both moments.
TEST(TrainingTest, AResumedRunIsTheRunThatNeverStopped) {
  const auto model = TinyModel();
  const auto task = TinyTask();
  const TrainingOptions whole = TinyOptions("whole");
  EIGSVC_ASSERT_OK(RunTraining(*model, *task, whole, nullptr, StopToken()));

  TrainingOptions half = TinyOptions("half");
  StopToken stop;
  const auto cancel_at_ten = [&](const TrainingProgress& report) {
    if (report.step == 10) stop.Cancel();
  };
  EXPECT_THAT(RunTraining(*model, *task, half, cancel_at_ten, stop),
              StatusIs(StatusCode::kCancelled, HasSubstr("cancelled")));
  half.resume_path = half.last_path;
  // The model to start from is of the same architecture; its weights are not used.
  EIGSVC_ASSERT_OK_AND_ASSIGN(const TrainingResult resumed,
                              RunTraining(*TinyModel(at::kFloat, 99), *task, half, nullptr, StopToken()));
  EXPECT_EQ(resumed.steps, 20);
  ExpectSameTensors(whole.last_path, half.last_path);
}

TEST(TrainingTest, AResumedRunThatDoesNotBeatTheEarlierBestNamesNone) {
  TrainingOptions first = TinyOptions("earlier");
  EIGSVC_ASSERT_OK_AND_ASSIGN(const TrainingResult before,
                              RunTraining(*TinyModel(), *TinyTask(), first, nullptr, StopToken()));
  TrainingOptions second = TinyOptions("later");
  second.resume_path = before.last_path;
  second.steps = 22;
  second.learning_rate = second.final_learning_rate = 1e-12;  // the score stays as it is
  EIGSVC_ASSERT_OK_AND_ASSIGN(const TrainingResult after,
                              RunTraining(*TinyModel(), *TinyTask(), second, nullptr, StopToken()));
  EXPECT_EQ(after.best_path, "");
  EXPECT_EQ(after.best.value, before.best.value);
  EXPECT_FALSE(std::filesystem::exists(second.output_path));
  EXPECT_TRUE(std::filesystem::exists(after.last_path));
}

TEST(TrainingTest, TheLastCheckpointIsAlsoAPlainOne) {
  const TrainingOptions options = TinyOptions("plain");
  EIGSVC_ASSERT_OK_AND_ASSIGN(const TrainingResult result,
                              RunTraining(*TinyModel(), *TinyTask(), options, nullptr, StopToken()));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Archive archive, Archive::Open(result.last_path));
  EIGSVC_EXPECT_OK(LoadModel(archive, Settings(), LoadOptions()));
  EXPECT_EQ(archive.settings().Int("training.step").value(), 20);
}

TEST(TrainingTest, StopsEarlyAtTheScoreAskedFor) {
  TrainingOptions options = TinyOptions("");
  options.stop_at_score = 1e-9;
  options.steps = 100000;
  options.eval_every = 30;
  EIGSVC_ASSERT_OK_AND_ASSIGN(const TrainingResult result,
                              RunTraining(*TinyModel(), *TinyTask(), options, nullptr, StopToken()));
  EXPECT_LT(result.steps, 3000);
  EXPECT_EQ(result.steps % 30, 0);
  EXPECT_GT(result.last.value, 0);
}

TEST(TrainingTest, ALossThatIsNotFiniteNamesTheStep) {
  const auto model = TinyModel();
  // Poisons the weights as training would that diverges; each Clone sees it.
  at::Tensor poisoned = model->weights().layers[1].all().begin()->second;
  poisoned.fill_(std::numeric_limits<double>::quiet_NaN());
  EXPECT_THAT(RunTraining(*model, *TinyTask(), TinyOptions(""), nullptr, StopToken()),
              StatusIs(StatusCode::kAborted, AllOf(HasSubstr("step 1"), HasSubstr("the loss is nan"))));
}

TEST(TrainingTest, ADeadlineKeepsTheLastCheckpoint) {
  TrainingOptions options = TinyOptions("deadline");
  options.steps = 1000000;
  options.eval_every = 1000000;
  EXPECT_THAT(RunTraining(*TinyModel(), *TinyTask(), options, nullptr,
                          StopToken(absl::Now() + absl::Milliseconds(300))),
              StatusIs(StatusCode::kDeadlineExceeded, HasSubstr("deadline")));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Archive archive, Archive::Open(options.last_path));
  EXPECT_GT(archive.settings().Int("training.step").value(), 0);
}

TEST(TrainingTest, WhatCannotBeTrainedIsRefused) {
  const auto task = TinyTask();
  const auto run = [&](const SequenceModel& model, const Task& on, auto change) {
    TrainingOptions options = TinyOptions("");
    change(options);
    return RunTraining(model, on, options, nullptr, StopToken());
  };
  const auto as_is = [](TrainingOptions&) {};
  const auto wide = MakeTask(
      "mqar",
      {.parameters = Parse(R"({"vocab_size": 41, "input_seq_len": 16, "num_kv_pairs": 2})"), .seed = 5});
  EXPECT_THAT(run(*TinyModel(), **wide, as_is),
              StatusIs(StatusCode::kFailedPrecondition,
                       AllOf(HasSubstr("ids up to 40"), HasSubstr("vocabulary of 40"))));
  const auto empty = MakeTask("mqar", {.parameters = Parse(R"({"vocab_size": 40, "input_seq_len": 16,
                                                               "num_kv_pairs": 2, "train_examples": 0})"),
                                       .seed = 5});
  EXPECT_THAT(run(*TinyModel(), **empty, as_is),
              StatusIs(StatusCode::kFailedPrecondition, HasSubstr("no training examples")));
  EXPECT_THAT(run(*TinyModel(at::kBFloat16), *task, as_is),
              StatusIs(StatusCode::kFailedPrecondition, HasSubstr("float32")));
  const auto invalid = [](const char* message) {
    return StatusIs(StatusCode::kInvalidArgument, HasSubstr(message));
  };
  EXPECT_THAT(run(*TinyModel(), *task, [](auto& o) { o.steps = 0; }), invalid("steps is 0"));
  EXPECT_THAT(run(*TinyModel(), *task, [](auto& o) { o.batch_size = -3; }), invalid("batch_size is -3"));
  EXPECT_THAT(run(*TinyModel(), *task, [](auto& o) { o.learning_rate = std::nan(""); }),
              invalid("learning_rate"));
  EXPECT_THAT(run(*TinyModel(), *task, [](auto& o) { o.final_learning_rate = 1; }),
              invalid("final_learning_rate"));
  EXPECT_THAT(run(*TinyModel(), *task, [](auto& o) { o.warmup_steps = 21; }), invalid("warmup_steps is 21"));
  EXPECT_THAT(run(*TinyModel(), *task, [](auto& o) { o.eval_every = 0; }), invalid("eval_every is 0"));
}

TEST(TrainingTest, OnlyTheLastCheckpointOfTheSameArchitectureResumes) {
  TrainingOptions options = TinyOptions("refused");
  EIGSVC_ASSERT_OK_AND_ASSIGN(const TrainingResult result,
                              RunTraining(*TinyModel(), *TinyTask(), options, nullptr, StopToken()));
  const auto resume = [&](const SequenceModel& model, const std::string& path, int64_t steps) {
    TrainingOptions again = TinyOptions("");
    again.steps = steps;
    again.resume_path = path;
    return RunTraining(model, *TinyTask(), again, nullptr, StopToken());
  };
  EXPECT_THAT(resume(*TinyModel(), result.best_path, 40),
              StatusIs(StatusCode::kFailedPrecondition, HasSubstr(".last.safetensors")));
  EXPECT_THAT(resume(*TinyModel(), result.last_path, 20),
              StatusIs(StatusCode::kFailedPrecondition, HasSubstr("already has 20 steps")));
  const auto other =
      InitializeModel(*FindFamily("mamba2").value(), Parse(R"({"d_model": 24, "vocab_size": 40})"), 1, {});
  EXPECT_THAT(resume(**other, result.last_path, 40),
              StatusIs(StatusCode::kFailedPrecondition, HasSubstr("another architecture")));
  EXPECT_THAT(resume(*TinyModel(), "/no/such.safetensors", 40),
              StatusIs(StatusCode::kNotFound, HasSubstr("such.safetensors")));
}

// Three steps of AdamW (arXiv 1711.05101, algorithm 2) written out for single numbers.
TEST(OptimizerTest, FollowsAdamWsFormula) {
  const auto model = TinyModel(at::kDouble);
  const ModelWeights weights = model->weights().Clone(/*requires_grad=*/true);
  std::vector<Parameter> parameters = ListParameters(*model, weights);
  TrainingOptions options;
  options.steps = 10;
  options.warmup_steps = 2;
  options.learning_rate = 0.01;
  options.weight_decay = 0.1;
  options.gradient_clip = 2.0;
  const c10::NoGradGuard no_grad;
  std::vector<at::Tensor> values, first, second;
  for (const Parameter& parameter : parameters) {
    values.push_back(parameter.value.clone());
    first.push_back(at::zeros_like(values.back()));
    second.push_back(at::zeros_like(values.back()));
  }
  Random random({23});
  for (int64_t step = 0; step < 3; ++step) {
    std::vector<at::Tensor> gradients;
    double squares = 0;
    for (Parameter& parameter : parameters) {
      gradients.push_back(testing::NormalTensor(random, parameter.value.sizes(), step == 1 ? 1e-4 : 1));
      parameter.value.mutable_grad() = gradients.back().clone();
      squares += gradients.back().square().sum().item<double>();
    }
    const double norm = std::sqrt(squares);
    EXPECT_NEAR(AdamWStep(parameters, options, step).item<double>(), norm, 1e-9 * norm);
    ASSERT_EQ(norm > 2, step != 1);  // both sides of the clip are exercised
    const double rate = LearningRate(options, step);
    for (size_t i = 0; i < parameters.size(); ++i) {
      const at::Tensor gradient = gradients[i] * std::min(1.0, 2.0 / norm);
      first[i] = first[i] * 0.9 + gradient * 0.1;
      second[i] = second[i] * 0.999 + gradient.square() * 0.001;
      if (parameters[i].decays) values[i] = values[i] * (1 - rate * 0.1);
      const at::Tensor scale = (second[i] / (1 - std::pow(0.999, step + 1))).sqrt() + 1e-8;
      values[i] = values[i] - first[i] / (1 - std::pow(0.9, step + 1)) / scale * rate;
      EXPECT_LT(testing::MaxDifference(parameters[i].value, values[i]), 1e-10) << parameters[i].key;
      EXPECT_LT(testing::MaxDifference(parameters[i].first_moment, first[i]), 1e-10);
      EXPECT_LT(testing::MaxDifference(parameters[i].second_moment, second[i]), 1e-10);
      EXPECT_FALSE(parameters[i].value.grad().defined());
    }
  }
}

TEST(OptimizerTest, AGradientThatIsNotFiniteChangesNothing) {
  const auto model = TinyModel();
  const ModelWeights weights = model->weights().Clone(/*requires_grad=*/true);
  std::vector<Parameter> parameters = ListParameters(*model, weights);
  const c10::NoGradGuard no_grad;
  for (const double clip : {0.0, 1.0}) {
    for (const double bad : {double{NAN}, double{INFINITY}}) {
      TrainingOptions options;
      options.gradient_clip = clip;
      std::vector<at::Tensor> before;
      for (Parameter& parameter : parameters) {
        before.push_back(parameter.value.clone());
        parameter.value.mutable_grad() = at::ones_like(parameter.value);
      }
      parameters.back().value.mutable_grad().view(-1)[0].fill_(bad);
      EXPECT_FALSE(std::isfinite(AdamWStep(parameters, options, 0).item<double>()));
      for (size_t i = 0; i < parameters.size(); ++i) {
        EXPECT_TRUE(parameters[i].value.equal(before[i])) << parameters[i].key;
        EXPECT_EQ(parameters[i].first_moment.abs().max().item<double>(), 0) << parameters[i].key;
        EXPECT_EQ(parameters[i].second_moment.abs().max().item<double>(), 0) << parameters[i].key;
      }
    }
  }
}

// A step of AdamW on every gradient 1: each number moves by its rate, after it has shrunk by rate times
// decay.
TEST(OptimizerTest, ARecurrenceMayHaveItsOwnRateAndDecayToo) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(const FamilyEntry* family, FindFamily("lru"));
  LoadOptions load;
  load.dtype = at::kDouble;
  EIGSVC_ASSERT_OK_AND_ASSIGN(
      const auto model,
      InitializeModel(*family, Parse(R"({"hidden_dim": 8, "state_dim": 4, "vocab_size": 12})"), 1, load));
  const c10::NoGradGuard no_grad;
  for (const bool decay_recurrence : {false, true}) {
    TrainingOptions options;
    options.learning_rate = 0.01;
    options.recurrence_learning_rate = 0.002;
    options.decay_recurrence = decay_recurrence;
    options.gradient_clip = 0;
    const ModelWeights weights = model->weights().Clone(/*requires_grad=*/true);
    std::vector<Parameter> parameters = ListParameters(*model, weights);
    std::vector<at::Tensor> before;
    std::set<std::string> recurrence;
    for (Parameter& parameter : parameters) {
      before.push_back(parameter.value.clone());
      parameter.value.mutable_grad() = at::ones_like(parameter.value);
      if (parameter.recurrence) recurrence.insert(parameter.key.substr(parameter.key.rfind('.') + 1));
    }
    EXPECT_EQ(recurrence, (std::set<std::string>{"nu_log", "theta_log", "gamma_log", "B_re", "B_im"}));
    AdamWStep(parameters, options, 0);
    for (size_t i = 0; i < parameters.size(); ++i) {
      const Parameter& parameter = parameters[i];
      const double rate = parameter.recurrence ? 0.002 : 0.01;
      const bool shrinks = parameter.recurrence ? decay_recurrence : before[i].dim() >= 2;
      const at::Tensor expected = before[i] * (shrinks ? 1 - rate * options.weight_decay : 1) - rate;
      EXPECT_LT(testing::MaxDifference(parameter.value, expected), 1e-9) << parameter.key;
    }
  }
}

TEST(OptimizerTest, OnlyMatricesDecay) {
  const auto model = TinyModel();
  std::set<std::string> decaying, rest;
  for (const Parameter& parameter : ListParameters(*model, model->weights())) {
    (parameter.decays ? decaying : rest).insert(parameter.key);
  }
  for (const char* name :
       {"mixer.A_log", "mixer.D", "mixer.dt_bias", "mixer.conv1d.bias", "mixer.norm.weight", "norm.weight"}) {
    EXPECT_EQ(rest.count(std::string("backbone.layers.0.") + name), 1u) << name;
  }
  for (const char* name : {"mixer.in_proj.weight", "mixer.out_proj.weight", "mixer.conv1d.weight"}) {
    EXPECT_EQ(decaying.count(std::string("backbone.layers.0.") + name), 1u) << name;
  }
  EXPECT_EQ(decaying.count("backbone.embedding.weight"), 1u);
  EXPECT_EQ(rest.count("lm_head.weight") + decaying.count("lm_head.weight"), 0u);  // tied: one parameter
}

TEST(OptimizerTest, TheRateWarmsUpAndFallsAlongHalfACosine) {
  TrainingOptions options;
  options.steps = 101;
  options.warmup_steps = 10;
  options.learning_rate = 2;
  options.final_learning_rate = 0.5;
  EXPECT_DOUBLE_EQ(LearningRate(options, 0), 0.2);
  EXPECT_DOUBLE_EQ(LearningRate(options, 9), 2);
  EXPECT_DOUBLE_EQ(LearningRate(options, 10), 2);
  EXPECT_DOUBLE_EQ(LearningRate(options, 55), 1.25);  // half way
  EXPECT_DOUBLE_EQ(LearningRate(options, 100), 0.5);
  options.warmup_steps = 0;
  EXPECT_DOUBLE_EQ(LearningRate(options, 0), 2);
  options.steps = 1;
  EXPECT_DOUBLE_EQ(LearningRate(options, 0), 2);
}

TEST(BatchOrderTest, EachBatchComesOnceAnEpoch) {
  for (int64_t batches : {1, 2, 12, 97}) {
    std::set<std::vector<int64_t>> orders;
    for (int64_t epoch = 0; epoch < 6; ++epoch) {
      std::vector<int64_t> order;
      for (int64_t place = 0; place < batches; ++place)
        order.push_back(BatchAt(1, epoch * batches + place, batches));
      orders.insert(order);
      std::sort(order.begin(), order.end());
      for (int64_t place = 0; place < batches; ++place) EXPECT_EQ(order[place], place);
    }
    if (batches > 10) {
      EXPECT_GE(orders.size(), 5u);
    }
  }
  EXPECT_NE(BatchAt(1, 0, 1000003), BatchAt(2, 0, 1000003));
  constexpr int64_t kHuge = int64_t{1} << 40;
  EXPECT_LT(BatchAt(1, kHuge - 1, kHuge), kHuge);
}

}  // namespace
}  // namespace eigsvc
