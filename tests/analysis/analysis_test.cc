// RunAnalysis against plain loops over a model and a task whose numbers are known in closed form, and over
// every family of the zoo against the transitions of one forward pass.
#include "models/analysis/analysis.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <functional>
#include <limits>
#include <map>
#include <set>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "ATen/TensorOperators.h"
#include "ATen/ops/arange.h"
#include "ATen/ops/complex.h"
#include "ATen/ops/full.h"
#include "ATen/ops/tensor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "c10/core/GradMode.h"
#include "c10/util/Exception.h"
#include "models/analysis/labelled.h"
#include "models/base/status_macros.h"
#include "models/transition/eigenvalues.h"
#include "models/transition/normaliser.h"
#include "models/zoo/registry.h"
#include "tests/analysis/fakes.h"
#include "tests/testing/recording_tap.h"
#include "tests/testing/status_matchers.h"

namespace eigsvc {
namespace {

using ::absl::StatusCode;
using ::eigsvc::testing::FakeModel;
using ::eigsvc::testing::FakeTask;
using ::eigsvc::testing::StatusIs;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr int64_t kVocab = 23;
constexpr int64_t kUnits = 3;

// log λ of a token in a layer and unit: exact in float32; some positive, some the atoms 0 and -inf.
double LogLambda(int layer, int64_t token, int64_t unit) {
  if (token == 5) return 0;
  if (token == 6) return -std::numeric_limits<double>::infinity();
  return (layer + 1) * (token - 11) * 0.0625 + unit * 0.5;
}

// An odd layer is like attention: it has no transition into step 0.
int64_t FirstStep(int layer) { return layer % 2; }

// Reports chunks of at most `chunk` steps; `before` may throw ahead of the chunk from its step on.
absl::Status ReportChunks(int layer, const at::Tensor& x, const LayerContext& context, int64_t chunk,
                          const std::function<void(int64_t step)>& before = nullptr) {
  if (context.tap == nullptr || !context.tap->Wants(layer, "fake")) return absl::OkStatus();
  at::Tensor values = at::full({x.size(0), x.size(1), kUnits}, 0.0, at::kFloat);
  const at::Tensor tokens = x.to(at::kLong).contiguous();
  for (int64_t i = 0; i < x.size(0) * x.size(1); ++i) {
    for (int64_t unit = 0; unit < kUnits; ++unit) {
      values.mutable_data_ptr<float>()[i * kUnits + unit] =
          static_cast<float>(LogLambda(layer, tokens.const_data_ptr<int64_t>()[i], unit));
    }
  }
  for (int64_t first = FirstStep(layer); first < x.size(1); first += chunk) {
    if (before) before(first);
    const at::Tensor part = values.narrow(1, first, std::min(chunk, x.size(1) - first));
    EIGSVC_RETURN_IF_ERROR(context.tap->OnTransition(layer, "fake", UnitKind::kChannel,
                                                     {ScalarPerUnit{part, 16}, false, first, 1e-7}));
  }
  return absl::OkStatus();
}

absl::Status ReportScalars(int layer, const at::Tensor& x, const LayerContext& context) {
  return ReportChunks(layer, x, context, x.size(1));
}

// What the analysis of examples [first, last) of FakeTask must count, value by value.
Spectrum ExpectedSpectrum(const FakeTask& task, const Site& site, int64_t first, int64_t last,
                          bool include_first = false, uint64_t weight = 1) {
  Spectrum spectrum;
  for (int64_t example = first; example < last; ++example) {
    for (int64_t step = include_first ? FirstStep(site.layer) : 1; step < task.Length(example); ++step) {
      const double value = LogLambda(site.layer, task.Token(example, step), site.unit);
      spectrum.Add(absl::MakeConstSpan(&value, 1), 1e-7, weight);
    }
  }
  return spectrum;
}

// Counted on the host and, the same bits, where they lie.
void ExpectDeferredIsTheSame(const SequenceModel& model, const Task& task, AnalysisOptions options,
                             const AnalysisResult& immediate) {
  options.defer_counts = true;
  EIGSVC_ASSERT_OK_AND_ASSIGN(const AnalysisResult deferred,
                              RunAnalysis(model, task, options, nullptr, StopToken()));
  EXPECT_EQ(deferred.eigenvalues, immediate.eigenvalues);
  ASSERT_EQ(deferred.sites.size(), immediate.sites.size());
  for (size_t i = 0; i < deferred.sites.size(); ++i) {
    const SiteSpectrum &mine = deferred.sites[i], &theirs = immediate.sites[i];
    EXPECT_EQ(mine.site, theirs.site);
    EXPECT_EQ(mine.multiplicities, theirs.multiplicities);
    EXPECT_EQ(mine.constant, theirs.constant);
    EXPECT_EQ(mine.conjugate_pairs, theirs.conjugate_pairs);
    EXPECT_TRUE(mine.spectrum.parts() == theirs.spectrum.parts())
        << "layer " << mine.site.layer << ", " << mine.site.mixer << ", unit " << mine.site.unit;
  }
}

absl::StatusOr<AnalysisResult> Analyse(const SequenceModel& model, const Task& task,
                                       const AnalysisOptions& options = {}) {
  return RunAnalysis(model, task, options, nullptr, StopToken());
}

class AnalysisCountsTest : public ::testing::TestWithParam<std::tuple<int64_t, bool, bool, bool>> {};

TEST_P(AnalysisCountsTest, EveryStepInsideALengthIsCountedOnce) {
  const auto [batch_size, include_first, weigh, defer] = GetParam();
  const FakeModel model(3, kVocab, ReportScalars);
  const FakeTask task(41, kVocab, /*steps=*/12, /*longest=*/9);
  AnalysisOptions options;
  options.batch_size = batch_size;
  options.include_first_step = include_first;
  options.weight_by_multiplicity = weigh;
  options.defer_counts = defer;
  EIGSVC_ASSERT_OK_AND_ASSIGN(const AnalysisResult result, Analyse(model, task, options));
  ASSERT_EQ(result.sites.size(), 3u * kUnits);
  const uint64_t weight = weigh ? 16 : 1;
  uint64_t total = 0;
  for (size_t i = 0; i < result.sites.size(); ++i) {
    const SiteSpectrum& site = result.sites[i];
    EXPECT_EQ(site.site,
              (Site{static_cast<int>(i / kUnits), "fake", UnitKind::kChannel, static_cast<int>(i % kUnits)}));
    EXPECT_EQ(site.multiplicities, std::vector<int64_t>{16});
    EXPECT_FALSE(site.constant);
    const Spectrum expected = ExpectedSpectrum(task, site.site, 0, 41, include_first, weight);
    EXPECT_TRUE(site.spectrum.parts() == expected.parts()) << "site " << i;
    EXPECT_GT(expected.zeros(), 0u);
    EXPECT_GT(expected.above_1(), 0u);
    total += expected.count();
  }
  EXPECT_EQ(static_cast<uint64_t>(result.eigenvalues), total / weight);
  EXPECT_EQ(result.examples, 41);
  int64_t tokens = 0;
  for (int64_t example = 0; example < 41; ++example) tokens += task.Length(example);
  EXPECT_EQ(result.tokens, tokens);
  if (batch_size > 0) {
    EXPECT_EQ(result.batch_size, std::min<int64_t>(batch_size, 41));
    EXPECT_EQ(result.batches, (41 + batch_size - 1) / batch_size);
  }
}

INSTANTIATE_TEST_SUITE_P(Settings, AnalysisCountsTest,
                         ::testing::Combine(::testing::Values(0, 1, 4, 7, 64), ::testing::Bool(),
                                            ::testing::Bool(), ::testing::Bool()));

// Analyses of parts, merged, are the analysis of the whole: bit for bit, in both orders.
TEST(AnalysisTest, MergedPartsAreTheWhole) {
  const FakeModel model(2, kVocab, ReportScalars);
  const FakeTask task(20, kVocab, 9, 9);
  AnalysisOptions options;
  EIGSVC_ASSERT_OK_AND_ASSIGN(const AnalysisResult whole, Analyse(model, task, options));
  options.examples = 10;
  EIGSVC_ASSERT_OK_AND_ASSIGN(const AnalysisResult half, Analyse(model, task, options));
  for (size_t i = 0; i < whole.sites.size(); ++i) {
    const Spectrum rest = ExpectedSpectrum(task, whole.sites[i].site, 10, 20);
    Spectrum forwards = half.sites[i].spectrum, backwards = rest;
    forwards.Merge(rest);
    backwards.Merge(half.sites[i].spectrum);
    EXPECT_TRUE(forwards.parts() == whole.sites[i].spectrum.parts());
    EXPECT_TRUE(backwards.parts() == whole.sites[i].spectrum.parts());
  }
}

TEST(AnalysisTest, ConstantTransitionsCountOnceAndStoredHalvesTwice) {
  // A complex diagonal as S4D stores it: half of each conjugate pair, the same at every step.
  int reports = 0;
  const FakeModel model(1, kVocab, [&](int layer, const at::Tensor&, const LayerContext& context) {
    if (!context.tap->Wants(layer, "pairs")) return absl::OkStatus();
    ++reports;
    const at::Tensor real = at::full({1, 1, 2, 4}, -0.25, at::kDouble);
    const at::Tensor imaginary = at::full({1, 1, 2, 4}, 1.5, at::kDouble);
    return context.tap->OnTransition(
        layer, "pairs", UnitKind::kLayer,
        {Diagonal{at::complex(real, imaginary), Discretization::kExp, true, 1}, true, 0, 0});
  });
  AnalysisOptions options;
  options.batch_size = 3;
  EIGSVC_ASSERT_OK_AND_ASSIGN(const AnalysisResult result,
                              Analyse(model, FakeTask(10, kVocab, 9, 9), options));
  EXPECT_EQ(reports, 1);
  EXPECT_EQ(result.eigenvalues, 8);
  ASSERT_EQ(result.sites.size(), 2u);
  for (const SiteSpectrum& site : result.sites) {
    EXPECT_TRUE(site.constant);
    EXPECT_EQ(site.spectrum.count(), 8u);
    EXPECT_TRUE(site.conjugate_pairs);
    EXPECT_EQ(site.spectrum.Mean(), -0.25);
    EXPECT_FALSE(site.spectrum.phase_grid().empty());
  }
}

// DeltaNet stores the eigenvalue that all dimensions but one share once.
TEST(AnalysisTest, EachStoredEntryIsWeightedByItsOwnMultiplicity) {
  const FakeModel model(1, kVocab, [&](int layer, const at::Tensor& x, const LayerContext& context) {
    if (!context.tap->Wants(layer, "delta")) return absl::OkStatus();
    DiagonalPlusLowRank kind;  // I - β k kᵀ of unit keys: 1 seven times and 1 - β, for 3 values a key
    const at::Tensor beta = (x + 0.5) / 32;
    kind.d = at::full({x.size(0), x.size(1), 2, 1}, 1.0);
    kind.v = at::full({x.size(0), x.size(1), 2, 8, 1}, std::sqrt(0.125));
    kind.u = kind.v * beta.unsqueeze(-1).unsqueeze(-1);
    kind.multiplicity = 3;
    return context.tap->OnTransition(layer, "delta", UnitKind::kHead, {kind, false, 0, 0});
  });
  const FakeTask task(12, kVocab, 9, 9);
  for (const bool weigh : {false, true}) {
    AnalysisOptions options;
    options.weight_by_multiplicity = weigh;
    EIGSVC_ASSERT_OK_AND_ASSIGN(const AnalysisResult result, Analyse(model, task, options));
    ASSERT_EQ(result.sites.size(), 2u);
    uint64_t steps = 0;
    for (int64_t example = 0; example < 12; ++example) steps += task.Length(example) - 1;
    for (const SiteSpectrum& site : result.sites) {
      EXPECT_EQ(site.multiplicities, (std::vector<int64_t>{21, 3}));
      EXPECT_EQ(site.spectrum.ones(), steps * (weigh ? 21 : 1));
      EXPECT_EQ(site.spectrum.count(), steps * (weigh ? 24 : 2));
      EXPECT_NEAR(site.spectrum.Min(), std::log(1 - 22.5 / 32), 1e-6);
    }
    EXPECT_EQ(result.eigenvalues, static_cast<int64_t>(2 * 2 * steps));
    ExpectDeferredIsTheSame(model, task, options, result);
  }
}

TEST(AnalysisTest, ConditionNumbersReachTheResult) {
  // Two 2×2 matrices: diag(0.5, 0.7), and one that is a rounding away from a Jordan block of 0.5.
  const FakeModel model(1, kVocab, [&](int layer, const at::Tensor&, const LayerContext& context) {
    if (!context.tap->Wants(layer, "s4")) return absl::OkStatus();
    DiagonalPlusLowRank kind;
    kind.d = at::tensor({0.5, 0.7, 0.5, 0.5 + 0x1p-50}, at::kDouble).view({1, 1, 2, 2});
    kind.u = at::tensor({0.0, 0.0, 8.0, -8.0}, at::kDouble).view({1, 1, 2, 2, 1});
    kind.v = at::tensor({0.0, 0.0, 8.0, 8.0}, at::kDouble).view({1, 1, 2, 2, 1});
    kind.step = at::full({2}, 1.0);
    return context.tap->OnTransition(layer, "s4", UnitKind::kChannel, {kind, true, 0, 0});
  });
  EIGSVC_ASSERT_OK_AND_ASSIGN(const AnalysisResult result, Analyse(model, FakeTask(3, kVocab, 9, 9)));
  ASSERT_EQ(result.sites.size(), 2u);
  ASSERT_TRUE(result.sites[0].conditioning.has_value());
  EXPECT_EQ(result.sites[0].conditioning->bits, 53);
  EXPECT_EQ(result.sites[0].conditioning->unresolved, 1u);  // 0.5 is on an edge itself
  EXPECT_EQ(result.sites[0].conditioning->max_condition, 1);
  EXPECT_EQ(result.sites[1].conditioning->unresolved, 2u);
  EXPECT_GT(result.sites[1].conditioning->max_condition, 1e7);
}

TEST(AnalysisTest, AConventionIsResolvedAgainstTheModel) {
  LayerContext seen;
  const FakeModel model(1, kVocab, [&](int layer, const at::Tensor& x, const LayerContext& context) {
    seen.convention = context.convention;
    return ReportScalars(layer, x, context);
  });
  const FakeTask task(5, kVocab, 9, 5);
  EIGSVC_ASSERT_OK_AND_ASSIGN(const AnalysisResult result, Analyse(model, task));
  EXPECT_EQ(seen.convention.gauge, Gauge::kRaw);
  EXPECT_EQ(result.convention, seen.convention);
  AnalysisOptions options;
  options.convention.gauge = Gauge::kDsf;
  EXPECT_THAT(
      Analyse(model, task, options),
      StatusIs(StatusCode::kInvalidArgument, HasSubstr("gauge \"dsf\" means nothing for fake; it has raw")));
  options.convention = {};
  options.convention.departures = Departures::All();
  EXPECT_THAT(Analyse(model, task, options),
              StatusIs(StatusCode::kInvalidArgument, HasSubstr("fake has EXACT only")));
}

TEST(AnalysisTest, TheReleasedAnalysisCountsPadding) {
  ConventionSupport support;
  support.departures.count_padding = true;
  const FakeModel model(1, kVocab, ReportScalars, support);
  const FakeTask task(6, kVocab, /*steps=*/12, /*longest=*/4);
  AnalysisOptions options;
  options.convention.departures = Departures::All();
  EIGSVC_ASSERT_OK_AND_ASSIGN(const AnalysisResult result, Analyse(model, task, options));
  EXPECT_EQ(result.sites[0].spectrum.count(), 6u * 11);
  EXPECT_EQ(DefinitionName(result.convention.departures), "PAPER_COMPAT");
  EXPECT_THAT(DepartureNames(result.convention.departures), ::testing::ElementsAre("E6"));
}

TEST(AnalysisTest, UniformAttentionHasItsClosedForm) {
  // η_i = i + 1: log λ_i = log(i / (i+1)), whose sum telescopes to -log T.
  constexpr int64_t kSteps = 50;
  const FakeModel model(1, kVocab, [](int layer, const at::Tensor& x, const LayerContext& context) {
    const at::Tensor log_eta = at::arange(1, x.size(1) + 1, at::kDouble).log();
    const at::Tensor ratios = log_eta.narrow(0, 0, x.size(1) - 1) - log_eta.narrow(0, 1, x.size(1) - 1);
    return context.tap->OnTransition(
        layer, "attention", UnitKind::kHead,
        {ScalarPerUnit{ratios.view({1, -1, 1}).expand({x.size(0), -1, -1}), 0}, false, 1, 0});
  });
  // Rows of one length only: every `kSteps`-th.
  const FakeTask task(kSteps, kVocab, kSteps, kSteps);
  EIGSVC_ASSERT_OK_AND_ASSIGN(const AnalysisResult result, Analyse(model, task));
  ASSERT_EQ(result.sites.size(), 1u);
  EXPECT_EQ(result.sites[0].multiplicities, std::vector<int64_t>{0});
  double sum = 0;
  for (int64_t length = 1; length <= kSteps; ++length) sum -= std::log(length);
  const Spectrum& spectrum = result.sites[0].spectrum;
  EXPECT_EQ(spectrum.count(), static_cast<uint64_t>(kSteps * (kSteps - 1) / 2));
  EXPECT_NEAR(spectrum.Mean() * static_cast<double>(spectrum.count()), sum, 1e-10);
  EXPECT_DOUBLE_EQ(spectrum.Min(), std::log(0.5));
}

TEST(AnalysisTest, ScoresEveryLabelledPosition) {
  const FakeModel model(1, kVocab, ReportScalars);
  const FakeTask task(30, kVocab, 12, 9);
  double correct = 0, nll = 0;
  int64_t n = 0;
  for (int64_t example = 0; example < 30; ++example) {
    for (int64_t step = 0; step < 12; ++step) {
      const int64_t target = task.Target(example, step);
      if (target == kIgnoredTarget) continue;
      const int64_t named = (3 * task.Token(example, step) + 1) % kVocab;
      double sum = 0;
      for (int64_t v = 0; v < kVocab; ++v) sum += std::exp(-0.25 * (v - named) * (v - named));
      nll += std::log(sum) + 0.25 * (target - named) * (target - named);
      correct += named == target;
      ++n;
    }
  }
  EIGSVC_ASSERT_OK_AND_ASSIGN(const AnalysisResult result, Analyse(model, task));
  EXPECT_EQ(result.score.n, n);
  EXPECT_DOUBLE_EQ(result.score.value, correct / n);
  EXPECT_GT(result.score.value, 0.5);
  EXPECT_LT(result.score.value, 1);
  EXPECT_NEAR(result.score.also[0].second, nll, 1e-5 * nll);
}

// Two classes share the largest logit where the answer lies half way: V = 4 and x = 2.5 by half tokens.
TEST(AnalysisTest, TiesGoToTheLowestClass) {
  class Tied final : public SequenceModel {
   public:
    Tied() : SequenceModel(Describe(), {}, OneWeight(), at::kFloat) {}

   private:
    static ModelDescription Describe() {
      ModelDescription description;
      description.vocab_size = 5;
      return description;
    }
    static ModelWeights OneWeight() {
      ModelWeights weights;
      weights.outer.Set("nothing", at::zeros({1}));
      return weights;
    }
    at::Tensor DoEmbed(const ModelWeights&, const at::Tensor& tokens, int64_t) const override {
      return tokens.to(at::kFloat).unsqueeze(-1);
    }
    absl::StatusOr<at::Tensor> DoLayer(int, const Weights&, const at::Tensor& x, LayerState&,
                                       const LayerContext&) const override {
      return x;
    }
    at::Tensor DoHead(const ModelWeights&, const at::Tensor& x) const override {
      return (at::arange(5, x.options()) >= x).to(at::kFloat);  // classes from the token on are equal
    }
  };
  const Batch batch{
      .rows = 1, .steps = 5, .tokens = {0, 1, 2, 3, 4}, .targets = {0, 1, 2, 3, 4}, .lengths = {5}};
  const Tied model;
  EIGSVC_ASSERT_OK_AND_ASSIGN(const at::Tensor x,
                              model.Embed(model.weights(), InputTensor(batch, at::kCPU), 0));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const std::vector<Prediction> predictions,
                              Predict(model, model.weights(), batch, 100, x, StopToken()));
  ASSERT_EQ(predictions.size(), 5u);
  for (int64_t i = 0; i < 5; ++i) {
    EXPECT_EQ(predictions[i].predicted, i);
    EXPECT_EQ(predictions[i].example, 100);
    EXPECT_NEAR(predictions[i].nll, std::log((5 - i) + i * std::exp(-1)), 1e-6);
  }
}

// FakeTask's rows, asked once each: the model's answer to the last real step, in every third example one
// more.
class AskedOnce final : public Task {
 public:
  AskedOnce(int64_t examples, int64_t steps, int64_t longest) : rows_(examples, kVocab, steps, longest) {
    signature_.vocab_size = signature_.classes = kVocab;
    signature_.per_sequence = true;
  }
  absl::string_view name() const override { return "asked-once"; }
  const Settings& parameters() const override { return rows_.parameters(); }
  const TaskSignature& signature() const override { return signature_; }
  int64_t example_count(Split split) const override { return rows_.example_count(split); }
  absl::StatusOr<Batch> Draw(Split split, int64_t first, int64_t count) const override {
    absl::StatusOr<Batch> batch = rows_.Draw(split, first, count);
    if (!batch.ok()) return batch;
    batch->targets.clear();
    for (int64_t example = first; example < first + count; ++example)
      batch->targets.push_back(Target(example, 0));
    return batch;
  }
  Score ComputeScore(Split, absl::Span<const Prediction> predictions) const override {
    return ClassificationScore(predictions);
  }
  // `cut`: steps kept, 0: all.
  int64_t Target(int64_t example, int64_t cut) const {
    const int64_t last = (cut == 0 ? rows_.Length(example) : std::min(cut, rows_.Length(example))) - 1;
    return (3 * rows_.Token(example, last) + 1 + (example % 3 == 0)) % kVocab;
  }

 private:
  const FakeTask rows_;
  TaskSignature signature_;
};

TEST(AnalysisTest, ATaskThatAsksOnceASequenceIsAnsweredAtItsLastRealStep) {
  const FakeModel model(1, kVocab, ReportScalars);
  const AskedOnce task(30, /*steps=*/12, /*longest=*/9);
  EIGSVC_ASSERT_OK_AND_ASSIGN(const AnalysisResult result, Analyse(model, task));
  EXPECT_EQ(result.score.n, 30);
  EXPECT_DOUBLE_EQ(result.score.value, 20.0 / 30);
  EXPECT_EQ(result.score.interval, "Wilson");
  // Cutting sequences moves the step that answers, and keeps every question.
  AnalysisOptions options;
  options.max_steps = 4;
  EIGSVC_ASSERT_OK_AND_ASSIGN(const AnalysisResult cut, Analyse(model, task, options));
  int64_t right = 0;
  for (int64_t example = 0; example < 30; ++example) {
    const int64_t answer = task.Target(example, 4) - (example % 3 == 0);
    right += (answer + kVocab) % kVocab == task.Target(example, 0);
  }
  EXPECT_EQ(cut.score.n, 30);
  EXPECT_DOUBLE_EQ(cut.score.value, right / 30.0);
}

TEST(AnalysisTest, WhatAModelCannotRunIsNamed) {
  class Wants final : public Task {
   public:
    explicit Wants(TaskSignature signature) : signature_(signature) {}
    absl::string_view name() const override { return "wants"; }
    const Settings& parameters() const override { return parameters_; }
    const TaskSignature& signature() const override { return signature_; }
    int64_t example_count(Split) const override { return 1; }
    absl::StatusOr<Batch> Draw(Split, int64_t, int64_t) const override { return Batch(); }
    Score ComputeScore(Split, absl::Span<const Prediction>) const override { return {}; }

   private:
    const TaskSignature signature_;
    const Settings parameters_;
  };
  ModelDescription model;
  model.family = "fake";
  model.vocab_size = model.classes = 20;
  EIGSVC_EXPECT_OK(CheckFits(Wants({.vocab_size = 20, .classes = 20}), model));
  EXPECT_THAT(CheckFits(Wants({.vocab_size = 21, .classes = 2}), model),
              StatusIs(StatusCode::kFailedPrecondition,
                       AllOf(HasSubstr("ids up to 20"), HasSubstr("vocabulary of 20"), HasSubstr("wants"))));
  EXPECT_THAT(CheckFits(Wants({.vocab_size = 4, .classes = 21}), model),
              StatusIs(StatusCode::kFailedPrecondition, AllOf(HasSubstr("21 classes"), HasSubstr("20"))));
  EXPECT_THAT(
      CheckFits(Wants({.channels = 3, .classes = 2}), model),
      StatusIs(StatusCode::kFailedPrecondition, AllOf(HasSubstr("3 real numbers"), HasSubstr("tokens"))));
}

// The remedy that is named is one that helps: no parameter lowers the ids of a file.
TEST(AnalysisTest, IdsOfAFileBeyondTheVocabularyAskForAnotherFile) {
  const std::string path = absl::StrCat(::testing::TempDir(), "analysis_test_ids.txt");
  std::ofstream(path) << "3 599 7 4\n";
  ModelDescription model;
  model.family = "fake";
  model.vocab_size = model.classes = 64;
  const auto check = [&](absl::string_view task, absl::string_view parameters) {
    const TaskRequest request{.parameters = Settings::Parse(parameters, "test").value(),
                              .data_path = task == "next-token" ? path : ""};
    return CheckFits(*MakeTask(task, request).value(), model);
  };
  EXPECT_THAT(check("next-token", "{}"),
              StatusIs(StatusCode::kFailedPrecondition,
                       AllOf(HasSubstr("ids up to 599"), HasSubstr("vocabulary of 64; give data made with"),
                             Not(HasSubstr("vocab_size")))));
  // There the parameter alone is too large.
  model.vocab_size = model.classes = 600;
  EIGSVC_EXPECT_OK(check("next-token", R"({"vocab_size": 600})"));
  EXPECT_THAT(check("next-token", R"({"vocab_size": 601})"),
              StatusIs(StatusCode::kFailedPrecondition, HasSubstr("lower the task's parameter vocab_size")));
  EXPECT_THAT(check("mqar", "{}"),
              StatusIs(StatusCode::kFailedPrecondition, HasSubstr("lower the task's parameter vocab_size")));
}

TEST(AnalysisTest, InputsThatAreNoNumbersAreNamed) {
  const FakeTask task(2, kVocab, 2, 2);
  ModelDescription model;
  model.vocab_size = model.classes = kVocab;
  Batch batch{.rows = 2,
              .steps = 2,
              .channels = 3,
              .values = std::vector<float>(12, 0.5f),
              .targets = {1, 2},
              .lengths = {2, 2}};
  EIGSVC_EXPECT_OK(CheckBatch(task, batch, Split::kTest, 7, model));
  batch.values[10] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THAT(CheckBatch(task, batch, Split::kTest, 7, model),
              StatusIs(StatusCode::kInvalidArgument,
                       AllOf(HasSubstr("test example 8, position 1"), HasSubstr("the input is nan"))));
}

TEST(AnalysisTest, TruncationCutsStepsLengthsAndTargets) {
  const FakeModel model(1, kVocab, ReportScalars);
  const FakeTask task(30, kVocab, 12, 9);
  AnalysisOptions options;
  options.max_steps = 4;
  EIGSVC_ASSERT_OK_AND_ASSIGN(const AnalysisResult result, Analyse(model, task, options));
  uint64_t expected = 0;
  int64_t labelled = 0;
  for (int64_t example = 0; example < 30; ++example) {
    expected += std::min<int64_t>(task.Length(example), 4) - 1;
    for (int64_t step = 0; step < 4; ++step) labelled += task.Target(example, step) != kIgnoredTarget;
  }
  EXPECT_EQ(result.sites[0].spectrum.count(), expected);
  EXPECT_EQ(result.score.n, labelled);
}

TEST(AnalysisTest, ABatchThatDoesNotFitIsHalvedAndNothingIsCountedTwice) {
  // Memory for at most 5 rows, found out in the second of three layers, after the first was counted.
  const FakeModel model(3, kVocab, [](int layer, const at::Tensor& x, const LayerContext& context) {
    TORCH_CHECK_WITH(OutOfMemoryError, layer != 1 || x.size(0) <= 5, "out of memory");
    return ReportScalars(layer, x, context);
  });
  const FakeTask task(41, kVocab, 9, 9);
  AnalysisOptions options;
  options.batch_size = 32;
  EIGSVC_ASSERT_OK_AND_ASSIGN(const AnalysisResult result, Analyse(model, task, options));
  ASSERT_EQ(result.sites.size(), 3u * kUnits);
  for (const SiteSpectrum& site : result.sites) {
    EXPECT_TRUE(site.spectrum.parts() == ExpectedSpectrum(task, site.site, 0, 41).parts())
        << site.site.layer << " " << site.site.unit;
  }
  EXPECT_EQ(result.examples, 41);
  EXPECT_LE(result.batch_size, 5);
  EXPECT_EQ(result.halvings, 7);  // 32, 16, 8 and so on, until all are of 4
  EXPECT_EQ(result.halved_to, 4);
  ExpectDeferredIsTheSame(model, task, options, result);
}

TEST(AnalysisTest, AHalvingBehindABatchThatFitIsSaid) {
  // Memory for 8 rows, then for 3.
  int64_t rows_so_far = 0;
  const FakeModel model(1, kVocab, [&](int layer, const at::Tensor& x, const LayerContext& context) {
    TORCH_CHECK_WITH(OutOfMemoryError, x.size(0) <= (rows_so_far < 8 ? 8 : 3), "out of memory");
    rows_so_far += x.size(0);
    return ReportScalars(layer, x, context);
  });
  AnalysisOptions options;
  options.batch_size = 8;
  EIGSVC_ASSERT_OK_AND_ASSIGN(const AnalysisResult result,
                              Analyse(model, FakeTask(24, kVocab, 9, 9), options));
  EXPECT_EQ(result.batch_size, 8);
  EXPECT_EQ(result.halvings, 3);  // of 8, and of both its halves
  EXPECT_EQ(result.halved_to, 2);
}

TEST(AnalysisTest, ChunksOfTimeAreCountedOnceHoweverTheyAreCut) {
  const FakeTask task(41, kVocab, /*steps=*/12, /*longest=*/9);
  for (const int64_t chunk : {1, 2, 5, 11}) {
    const FakeModel model(3, kVocab, [chunk](int layer, const at::Tensor& x, const LayerContext& context) {
      return ReportChunks(layer, x, context, chunk);
    });
    EIGSVC_ASSERT_OK_AND_ASSIGN(const AnalysisResult result, Analyse(model, task));
    ASSERT_EQ(result.sites.size(), 3u * kUnits);
    for (const SiteSpectrum& site : result.sites) {
      EXPECT_TRUE(site.spectrum.parts() == ExpectedSpectrum(task, site.site, 0, 41).parts()) << chunk;
    }
    ExpectDeferredIsTheSame(model, task, AnalysisOptions(), result);
  }
}

TEST(AnalysisTest, AHalvedBatchMayCutTimeElsewhere) {
  // Memory for 5 rows at most, found out inside the second layer when half of its steps are counted; fewer
  // rows then come in longer chunks.
  const FakeModel model(3, kVocab, [](int layer, const at::Tensor& x, const LayerContext& context) {
    return ReportChunks(layer, x, context, x.size(0) > 5 ? 2 : 3, [&](int64_t step) {
      TORCH_CHECK_WITH(OutOfMemoryError, layer != 1 || step < 5 || x.size(0) <= 5, "out of memory");
    });
  });
  const FakeTask task(41, kVocab, 9, 9);
  AnalysisOptions options;
  options.batch_size = 32;
  EIGSVC_ASSERT_OK_AND_ASSIGN(const AnalysisResult result, Analyse(model, task, options));
  ASSERT_EQ(result.sites.size(), 3u * kUnits);
  for (const SiteSpectrum& site : result.sites) {
    EXPECT_TRUE(site.spectrum.parts() == ExpectedSpectrum(task, site.site, 0, 41).parts())
        << site.site.layer << " " << site.site.unit;
  }
  EXPECT_LE(result.batch_size, 5);
  ExpectDeferredIsTheSame(model, task, options, result);
}

// log η in chunks of time, whose differences are formed on the host and taken as they are counted.
TEST(AnalysisTest, NormalisersCountAsTheirDifferences) {
  for (const at::ScalarType type : {at::kFloat, at::kDouble}) {
    for (const int64_t chunk : {1, 4, 12}) {
      const auto log_eta = [type](int layer, const at::Tensor& x) {  // [B,U,T]
        const at::Tensor scales = at::arange(1, kUnits + 1, at::kDouble).view({1, -1, 1}) / (layer + 3);
        return (x.to(at::kDouble).reshape({x.size(0), 1, -1}) * scales).to(type);
      };
      const FakeModel model(2, kVocab, [&](int layer, const at::Tensor& x, const LayerContext& context) {
        const at::Tensor all = log_eta(layer, x);
        for (int64_t first = 0; first < x.size(1); first += chunk) {
          const int64_t steps = std::min(chunk, x.size(1) - first);
          if (steps == 1 && first == 0) continue;
          EIGSVC_RETURN_IF_ERROR(context.tap->OnTransition(
              layer, "attention", UnitKind::kHead,
              NormaliserTransition(all.narrow(2, first, steps),
                                   first > 0 ? all.narrow(2, first - 1, 1) : at::Tensor(), first,
                                   /*multiplicity=*/0, /*noise_floor=*/1e-6)));
        }
        return absl::OkStatus();
      });
      const FakeTask task(41, kVocab, /*steps=*/12, /*longest=*/9);
      AnalysisOptions options;
      options.batch_size = 8;
      EIGSVC_ASSERT_OK_AND_ASSIGN(const AnalysisResult result, Analyse(model, task, options));
      ASSERT_EQ(result.sites.size(), 2u * kUnits);
      for (const SiteSpectrum& site : result.sites) {
        Spectrum expected;
        for (int64_t example = 0; example < 41; ++example) {
          for (int64_t step = 1; step < task.Length(example); ++step) {
            const at::Tensor pair =
                log_eta(site.site.layer,
                        at::tensor({task.Token(example, step - 1), task.Token(example, step)}).view({1, 2}));
            const double value = (pair.select(2, 0) - pair.select(2, 1))[0][site.site.unit].item<double>();
            expected.Add(absl::MakeConstSpan(&value, 1), 1e-6);
          }
        }
        EXPECT_TRUE(site.spectrum.parts() == expected.parts()) << site.site.layer << " " << site.site.unit;
      }
      ExpectDeferredIsTheSame(model, task, options, result);
    }
  }
}

TEST(AnalysisTest, StepsThatAreLeftOutAreCaught) {
  // From step 3 on nothing, or a gap.
  for (const int64_t resumed : {9, 6}) {
    const FakeModel model(1, kVocab, [&](int layer, const at::Tensor& x, const LayerContext& context) {
      for (const auto& [first, last] : {std::pair<int64_t, int64_t>(0, 3), {resumed, 9}}) {
        if (first == last) continue;
        const at::Tensor values = at::full({x.size(0), last - first, 1}, -1.0);
        EIGSVC_RETURN_IF_ERROR(context.tap->OnTransition(layer, "liar", UnitKind::kHead,
                                                         {ScalarPerUnit{values, 1}, false, first, 0}));
      }
      return absl::OkStatus();
    });
    EXPECT_THAT(Analyse(model, FakeTask(9, kVocab, 9, 9)),
                StatusIs(StatusCode::kInternal,
                         HasSubstr(resumed == 9 ? "layer 0, liar reported 3 of 9 steps"
                                                : "layer 0, liar reported step 6 where 3 was to come")));
  }
}

TEST(AnalysisTest, OneRowThatDoesNotFitEndsTheRun) {
  const FakeModel model(1, kVocab, [](int, const at::Tensor&, const LayerContext&) -> absl::Status {
    TORCH_CHECK_WITH(OutOfMemoryError, false, "tried to allocate 1 GiB");
  });
  EXPECT_THAT(Analyse(model, FakeTask(9, kVocab, 9, 9)),
              StatusIs(StatusCode::kResourceExhausted, HasSubstr("--max-steps")));
}

TEST(AnalysisTest, IdsBeyondTheVocabularyAreNamed) {
  const FakeModel model(1, 20, ReportScalars);
  // Example 0 is token 0 alone; example 1 has 7, 10; example 2 has 14, 17, 20.
  EXPECT_THAT(Analyse(model, FakeTask(9, kVocab, 9, 9)),
              StatusIs(StatusCode::kInvalidArgument,
                       AllOf(HasSubstr("task fake, test example 2, position 2: token id 20"),
                             HasSubstr("vocabulary of 20"))));
}

TEST(AnalysisTest, BadOptionsAreNamed) {
  const FakeModel model(1, kVocab, ReportScalars);
  const FakeTask task(9, kVocab, 9, 9);
  const auto run = [&](auto change) {
    AnalysisOptions options;
    change(options);
    return Analyse(model, task, options);
  };
  const auto invalid = [](const char* message) {
    return StatusIs(StatusCode::kInvalidArgument, HasSubstr(message));
  };
  EXPECT_THAT(run([](auto& o) { o.examples = 10; }), invalid("10 examples were asked for"));
  EXPECT_THAT(run([](auto& o) { o.examples = -1; }), invalid("-1 examples"));
  EXPECT_THAT(run([](auto& o) { o.batch_size = -1; }), invalid("batch_size is -1"));
  EXPECT_THAT(run([](auto& o) { o.max_steps = -1; }), invalid("max_steps is -1"));
  EXPECT_THAT(run([](auto& o) { o.split = Split::kTrain; }),
              StatusIs(StatusCode::kFailedPrecondition, HasSubstr("train split")));
}

TEST(AnalysisTest, TransitionsOfAWrongShapeAreCaught) {
  const FakeTask task(9, kVocab, 9, 9);
  const auto scalars = [](at::IntArrayRef shape) { return ScalarPerUnit{at::full(shape, -1.0), 1}; };
  for (const Transition& transition :
       {Transition{scalars({2, 9, 1}), false, 0, 0}, Transition{scalars({1, 10, 1}), false, 0, 0},
        Transition{scalars({1, 9, 1}), false, 1, 0}, Transition{scalars({1, 9, 1}), true, 0, 0}}) {
    const FakeModel model(1, kVocab, [&](int layer, const at::Tensor&, const LayerContext& context) {
      return context.tap->OnTransition(layer, "liar", UnitKind::kHead, transition);
    });
    EXPECT_THAT(Analyse(model, task), StatusIs(StatusCode::kInternal, HasSubstr("layer 0, liar")));
  }
}

TEST(AnalysisTest, ANumberOfUnitsThatChangesIsCaught) {
  const FakeModel model(1, kVocab, [](int layer, const at::Tensor& x, const LayerContext& context) {
    const at::Tensor values = at::full({x.size(0), x.size(1), x.size(0)}, -1.0);
    return context.tap->OnTransition(layer, "liar", UnitKind::kHead, {ScalarPerUnit{values, 1}, false, 0, 0});
  });
  AnalysisOptions options;
  options.batch_size = 4;
  EXPECT_THAT(Analyse(model, FakeTask(9, kVocab, 9, 9), options),
              StatusIs(StatusCode::kInternal, HasSubstr("1 units after another number")));
}

TEST(AnalysisTest, ProgressIsCumulativeAndConsistent) {
  const FakeModel model(2, kVocab, ReportScalars);
  const FakeTask task(2000, kVocab, 9, 9);
  AnalysisOptions options;
  options.batch_size = 4;
  options.progress_interval = absl::ZeroDuration();
  int64_t reports = 0, done = 0;
  const auto progress = [&](const AnalysisProgress& report) {
    ++reports;
    EXPECT_GT(report.examples_done, done);
    done = report.examples_done;
    EXPECT_EQ(report.examples_total, 2000);
    for (const SiteSpectrum& site : *report.sites) {
      EXPECT_TRUE(site.spectrum.parts() == ExpectedSpectrum(task, site.site, 0, done).parts());
    }
  };
  EIGSVC_ASSERT_OK(RunAnalysis(model, task, options, progress, StopToken()));
  EXPECT_GE(reports, 2);
}

TEST(AnalysisTest, CancelEndsTheRunWithin100Milliseconds) {
  // 1 ms a row and layer: a batch of some hundred rows would hold a layer for longer than a cancel may take.
  const FakeModel model(16, kVocab, [](int layer, const at::Tensor& x, const LayerContext& context) {
    absl::SleepFor(absl::Milliseconds(x.size(0)));
    return ReportScalars(layer, x, context);
  });
  const FakeTask task(100000, kVocab, 9, 9);
  AnalysisOptions options;
  options.examples = 100000;
  StopToken stop;
  absl::Time cancelled;
  std::thread canceller([&] {
    absl::SleepFor(absl::Milliseconds(1500));
    cancelled = absl::Now();
    stop.Cancel();
  });
  const auto result = RunAnalysis(model, task, options, nullptr, stop);
  const absl::Time ended = absl::Now();
  canceller.join();
  EXPECT_THAT(result, StatusIs(StatusCode::kCancelled, HasSubstr("cancelled")));
  EXPECT_LT(ended - cancelled, absl::Milliseconds(100));
}

TEST(AnalysisTest, BatchesGrowToUseTheTimeThereIs) {
  const FakeModel model(1, kVocab, ReportScalars);
  EIGSVC_ASSERT_OK_AND_ASSIGN(const AnalysisResult result, Analyse(model, FakeTask(3000, kVocab, 9, 9)));
  EXPECT_GE(result.batch_size, 16);
  EXPECT_LE(result.batch_size, 1024);
}

TEST(AnalysisTest, ADeadlineEndsTheRun) {
  const FakeModel model(2, kVocab, [](int, const at::Tensor&, const LayerContext&) {
    absl::SleepFor(absl::Milliseconds(5));
    return absl::OkStatus();
  });
  AnalysisOptions options;
  options.batch_size = 1;  // 4096 batches of 10 ms: far more than the time given
  const absl::Time deadline = absl::Now() + absl::Milliseconds(100);
  EXPECT_THAT(RunAnalysis(model, FakeTask(100000, kVocab, 9, 9), options, nullptr, StopToken(deadline)),
              StatusIs(StatusCode::kDeadlineExceeded, HasSubstr("deadline")));
  EXPECT_LT(absl::Now(), deadline + absl::Milliseconds(100));
}

// The same of a real model: with no query every score is 0, whatever the tokens.
TEST(AnalysisTest, ALlamaWithoutQueriesAttendsUniformly) {
  constexpr int64_t kSteps = 40;
  EIGSVC_ASSERT_OK_AND_ASSIGN(const FamilyEntry* family, FindFamily("llama"));
  Settings settings;
  settings.Set("vocab_size", int64_t{64});
  EIGSVC_ASSERT_OK_AND_ASSIGN(auto model, InitializeModel(*family, settings, 3, {c10::kCPU, c10::kDouble}));
  const ModelWeights weights = model->weights().Clone(/*requires_grad=*/false);
  for (const Weights& layer : weights.layers) {
    at::Tensor queries = layer["self_attn.q_proj.weight"];
    queries.zero_();
  }
  EIGSVC_ASSERT_OK_AND_ASSIGN(const AnalysisResult result,
                              RunAnalysis(*model, weights, FakeTask(kSteps, 64, kSteps, kSteps),
                                          AnalysisOptions(), nullptr, StopToken()));
  double sum = 0;
  for (int64_t length = 1; length <= kSteps; ++length) sum -= std::log(length);
  ASSERT_FALSE(result.sites.empty());
  for (const SiteSpectrum& site : result.sites) {
    EXPECT_EQ(site.spectrum.count(), static_cast<uint64_t>(kSteps * (kSteps - 1) / 2));
    EXPECT_NEAR(site.spectrum.Mean() * static_cast<double>(site.spectrum.count()), sum, 1e-10);
    EXPECT_NEAR(site.spectrum.Min(), std::log(0.5), 1e-12);
  }
}

// Every family of the zoo: an analysis counts exactly the eigenvalues of one forward pass over all examples.
class ZooAnalysisTest : public ::testing::TestWithParam<absl::string_view> {};

TEST_P(ZooAnalysisTest, CountsTheTransitionsOfTheForwardPass) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(const FamilyEntry* family, FindFamily(GetParam()));
  ASSERT_TRUE(family->trainable);
  Settings settings;
  settings.Set("vocab_size", int64_t{64});
  EIGSVC_ASSERT_OK_AND_ASSIGN(auto model, InitializeModel(*family, settings, 3, {c10::kCPU, c10::kDouble}));
  const FakeTask task(12, 64, 17, 17);
  AnalysisOptions options;
  options.batch_size = 12;
  EIGSVC_ASSERT_OK_AND_ASSIGN(const AnalysisResult result, Analyse(*model, task, options));
  options.batch_size = 5;
  EIGSVC_ASSERT_OK_AND_ASSIGN(const AnalysisResult batched, Analyse(*model, task, options));
  ExpectDeferredIsTheSame(*model, task, options, batched);

  const c10::NoGradGuard no_grad;
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Batch batch, task.Draw(Split::kTest, 0, 12));
  testing::RecordingTap tap;
  LayerContext context;
  context.tap = &tap;
  EIGSVC_ASSERT_OK(model->Forward(model->weights(), InputTensor(batch, c10::kCPU), context));
  struct Expected {
    Spectrum spectrum;
    std::vector<int64_t> multiplicities;
  };
  std::map<std::tuple<int, std::string, int64_t>, Expected> expected;
  for (const auto& [layer, seen] : tap.seen) {
    for (const auto& [mixer, unit_kind, transition] : seen) {
      EIGSVC_ASSERT_OK_AND_ASSIGN(const Eigenvalues eigenvalues, ComputeEigenvalues(transition));
      const at::Tensor log_magnitude = eigenvalues.log_magnitude.to(at::kDouble).contiguous();
      const at::Tensor phase =
          eigenvalues.phase.defined() ? eigenvalues.phase.to(at::kDouble).contiguous() : eigenvalues.phase;
      const int64_t begin = transition.constant ? 0 : std::max<int64_t>(1, transition.first_step);
      for (int64_t unit = 0; unit < log_magnitude.size(2); ++unit) {
        Expected& site = expected[{layer, mixer, unit}];
        site.multiplicities = eigenvalues.layout.multiplicities;
        for (int64_t row = 0; row < log_magnitude.size(0); ++row) {
          const int64_t reported = transition.first_step + log_magnitude.size(1);
          const int64_t end = transition.constant ? 1 : std::min(task.Length(row), reported);
          for (int64_t step = begin; step < end; ++step) {
            const auto values = [&](const at::Tensor& all) {
              const at::Tensor of_step =
                  all[row][transition.constant ? 0 : step - transition.first_step][unit];
              return absl::MakeConstSpan(of_step.const_data_ptr<double>(), of_step.numel());
            };
            if (phase.defined()) {
              site.spectrum.AddComplex(values(log_magnitude), values(phase), transition.noise_floor,
                                       eigenvalues.layout.conjugate_pairs ? 2 : 1);
            } else {
              site.spectrum.Add(values(log_magnitude), transition.noise_floor);
            }
          }
        }
      }
    }
  }
  ASSERT_EQ(result.sites.size(), expected.size());
  EXPECT_FALSE(expected.empty());
  for (size_t at = 0; at < result.sites.size(); ++at) {
    const SiteSpectrum& site = result.sites[at];
    Expected& counted = expected.at({site.site.layer, site.site.mixer, site.site.unit});
    // One stands for all where they are equal.
    if (std::set<int64_t>(counted.multiplicities.begin(), counted.multiplicities.end()).size() == 1)
      counted.multiplicities.resize(1);
    EXPECT_EQ(site.multiplicities, counted.multiplicities);
    EXPECT_TRUE(site.spectrum.parts() == counted.spectrum.parts());
    EXPECT_EQ(batched.sites[at].spectrum.count(), counted.spectrum.count());
    // Of λ = 0 alone, as of a short convolution, there is no mean.
    const double mean = batched.sites[at].spectrum.Mean();
    const bool none = counted.spectrum.parts().moment_count == 0;
    EXPECT_TRUE(none ? std::isnan(mean) : std::abs(mean - counted.spectrum.Mean()) <= 1e-12)
        << mean << " for " << counted.spectrum.Mean();
  }
}

std::vector<absl::string_view> TrainableFamilies() {
  std::vector<absl::string_view> names;
  for (const FamilyEntry& family : Families()) {
    if (family.trainable) names.push_back(family.name);
  }
  return names;
}
INSTANTIATE_TEST_SUITE_P(Families, ZooAnalysisTest, ::testing::ValuesIn(TrainableFamilies()),
                         [](const auto& param) {
                           std::string name(param.param);
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace eigsvc
