// What every family promises, checked on small models of all of them.
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "ATen/TensorOperators.h"
#include "ATen/core/IListRef.h"
#include "ATen/core/grad_mode.h"
#include "ATen/ops/cat.h"
#include "ATen/ops/equal.h"
#include "ATen/ops/exp.h"
#include "ATen/ops/full.h"
#include "ATen/ops/isfinite.h"
#include "ATen/ops/isneginf.h"
#include "ATen/ops/randn_like.h"
#include "ATen/ops/sort.h"
#include "ATen/ops/where.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "models/archive/archive.h"
#include "models/base/status_macros.h"
#include "models/transition/eigenvalues.h"
#include "models/zoo/registry.h"
#include "tests/testing/recording_tap.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/tensors.h"
#include "tests/testing/tiny_models.h"

namespace eigsvc {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::kTinyVocabulary;
using testing::MakeTiny;
using testing::MaxDifference;
using testing::MaxMagnitude;
using testing::RandomTokens;
using testing::RecordingTap;
using testing::RelativeDifference;
using testing::StatusIs;
using testing::TinyModel;

class FamilyTest : public ::testing::TestWithParam<TinyModel> {
 protected:
  void SetUp() override {
    directory_ = ::testing::TempDir() + absl::StrCat("eigsvc_conformance_", getpid());
    std::filesystem::create_directories(directory_);
    path_ = directory_ + "/model.safetensors";
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  static at::Tensor Tokens(uint64_t seed, int64_t batch, int64_t steps) {
    Random random({seed});
    return RandomTokens(random, batch, steps, kTinyVocabulary);
  }

  at::NoGradGuard no_grad_;
  std::string directory_, path_;
};

// What a layer's mixers reported, by the room that knows the closed forms: log λ [B,T',U,K] of each, its
// stretches of time joined. Of dense transitions |λ|, sorted: the order is the solver's own, and a small λ
// (0 where a ReLU is off) has no digits of its logarithm.
std::map<std::string, at::Tensor> LogMagnitudes(const RecordingTap& tap, int layer) {
  std::map<std::string, std::vector<at::Tensor>> parts;
  const auto reports = tap.seen.find(layer);
  if (reports == tap.seen.end()) return {};
  for (const RecordingTap::Seen& seen : reports->second) {
    at::Tensor values = ComputeEigenvalues(seen.transition)->log_magnitude;
    if (FormOf(seen.transition.kind) == TransitionForm::kDense)
      values = std::get<0>(at::sort(at::exp(values), -1));
    parts[seen.mixer].push_back(values);
  }
  std::map<std::string, at::Tensor> joined;
  for (const auto& [mixer, stretches] : parts) joined[mixer] = at::cat(stretches, 1);
  return joined;
}

// Of a mixer's first report.
const Transition& First(const RecordingTap& tap, int layer, const std::string& mixer) {
  const auto& seen = tap.seen.at(layer);
  return std::find_if(seen.begin(), seen.end(), [&](const auto& report) { return report.mixer == mixer; })
      ->transition;
}

TEST_P(FamilyTest, DescribesItself) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto model, MakeTiny(GetParam()));
  const ModelDescription& description = model->description();
  EXPECT_EQ(description.family, GetParam().family);
  EXPECT_EQ(description.layout, GetParam().layout);
  EXPECT_GE(description.vocab_size, kTinyVocabulary);
  EXPECT_EQ(description.layers, static_cast<int64_t>(model->weights().layers.size()));
  EXPECT_EQ(description.layers, static_cast<int64_t>(description.mixers.size()));
  int64_t parameters = 0;
  for (const at::Tensor& tensor : model->weights().Distinct()) parameters += tensor.numel();
  EXPECT_EQ(description.parameters, parameters);
}

// A misspelt --config must not silently mean the default, of a checkpoint as of a fresh model.
TEST_P(FamilyTest, RefusesTypedSettingsThatItDoesNotKnow) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto model, MakeTiny(GetParam()));
  EIGSVC_ASSERT_OK(SaveModel(*model, model->weights(), {}, path_));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Archive archive, Archive::Open(path_));
  Settings typed;
  typed.Set("vocab_sizze", model->description().vocab_size);
  const auto refused =
      StatusIs(absl::StatusCode::kInvalidArgument,
               AllOf(HasSubstr("\"vocab_sizze\""), HasSubstr("did you mean \"vocab_size\"?")));
  EXPECT_THAT(LoadModel(archive, typed, {}), refused);
  const FamilyEntry* family = *FindFamily(GetParam().family);
  EXPECT_THAT(InitializeModel(*family, model->description().settings.MergedWith(typed), 1, {}), refused);
  // What belongs to a published configuration, but to no architecture, is passed over.
  const Settings whole =
      model->description().settings.MergedWith(*Settings::Parse(R"({"transformers_version": "4.40.0",
          "torch_dtype": "float32", "bos_token_id": 1, "use_cache": true, "_name_or_path": "a/b",
          "hidden_dropout": 0.1, "task": {"name": "mqar"}})",
                                                                "--config"));
  EIGSVC_EXPECT_OK(LoadModel(archive, whole, {}));
}

TEST_P(FamilyTest, RefusesASizeThatContradictsTheWeights) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto model, MakeTiny(GetParam()));
  EIGSVC_ASSERT_OK(SaveModel(*model, model->weights(), {}, path_));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Archive archive, Archive::Open(path_));
  Settings wrong;
  wrong.Set("vocab_size", int64_t{4711});
  const absl::StatusOr<std::shared_ptr<const SequenceModel>> loaded = LoadModel(archive, wrong, {});
  EXPECT_THAT(loaded,
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       AllOf(HasSubstr("4711"), HasSubstr(absl::StrCat(model->description().vocab_size)))));
}

TEST_P(FamilyTest, SavedAndLoadedGivesTheSameLogits) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto model, MakeTiny(GetParam()));
  const at::Tensor tokens = Tokens(1, 2, 11);
  EIGSVC_ASSERT_OK_AND_ASSIGN(const at::Tensor logits, model->Forward(model->weights(), tokens));
  Settings extra, task;
  task.Set("name", "mqar");
  extra.Set("task", task);
  EIGSVC_ASSERT_OK(SaveModel(*model, model->weights(), extra, path_));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Archive archive, Archive::Open(path_));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const std::string task_name, archive.settings().Text("task.name"));
  EXPECT_EQ(task_name, "mqar");
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto loaded, LoadModel(archive, {}, {}));
  EXPECT_EQ(loaded->description().family, GetParam().family);
  EXPECT_EQ(loaded->description().layout, GetParam().layout);
  EXPECT_EQ(loaded->description().settings.ToJson(), model->description().settings.ToJson());
  EXPECT_EQ(loaded->description().parameters, model->description().parameters);
  EIGSVC_ASSERT_OK_AND_ASSIGN(const at::Tensor again, loaded->Forward(loaded->weights(), tokens));
  EXPECT_TRUE(at::equal(again, logits));

  const std::string second_path = directory_ + "/second.safetensors";
  EIGSVC_ASSERT_OK(SaveModel(*loaded, loaded->weights(), extra, second_path));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Archive second, Archive::Open(second_path));
  EXPECT_EQ(second.sha256(), archive.sha256());
}

TEST_P(FamilyTest, ATwinHasTheSameArchitectureAndOtherWeights) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto model, MakeTiny(GetParam(), 1));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto same, InitializeTwin(*model, 1, {}));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto twin, InitializeTwin(*model, 2, {}));
  EXPECT_EQ(twin->description().settings.ToJson(), model->description().settings.ToJson());
  const at::Tensor tokens = Tokens(2, 1, 9);
  EIGSVC_ASSERT_OK_AND_ASSIGN(const at::Tensor logits, model->Forward(model->weights(), tokens));
  EXPECT_TRUE(at::equal(*same->Forward(same->weights(), tokens), logits));
  EXPECT_GT(MaxDifference(*twin->Forward(twin->weights(), tokens), logits), 1e-4);
}

// λ = 0, log|λ| = -∞, is what the Jacobian of a ReLU that is off may have, and all that a short convolution
// has; of all other forms no λ is 0.
void ExpectPossible(TransitionForm form, const at::Tensor& log_magnitude) {
  const at::Tensor possible = form == TransitionForm::kNilpotent ? log_magnitude.isneginf()
                              : form == TransitionForm::kDense   ? log_magnitude == log_magnitude
                                                                 : at::isfinite(log_magnitude);
  EXPECT_TRUE(possible.all().item<bool>());
}

// Of log|λ|, among which -∞ equals itself.
double LogDifference(const at::Tensor& a, const at::Tensor& b) {
  return at::where(a == b, 0, a - b).abs().max().item<double>();
}

// Mixers whose state is a sum once the normaliser has left it (gauge raw): softmax, linear, norm and Based's
// attention. RWKV-4's and mLSTM's keep a decay of their own there, and all others have no normaliser.
bool OnlySumsWhenRaw(const std::string& mixer) {
  return mixer == "attention" || mixer == "linear_attention" || mixer == "norm_attention" || mixer == "based";
}

// Each layer reports every mixer in each gauge and rotation that the model lists. A rotation in the state
// turns eigenvalues and changes no modulus. What only sums has λ = 1 exactly, and once, wherever its state
// holds no normaliser, and only there.
TEST_P(FamilyTest, ReportsInEveryConventionItLists) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto model, MakeTiny(GetParam()));
  const auto& mixers = model->description().mixers;
  const std::vector<Rotation>& rotations = model->description().conventions.rotations;
  std::map<Gauge, double> largest;  // |log|λ||
  for (const Gauge gauge : model->description().conventions.gauges) {
    for (const Rotation rotation : rotations) {
      double largest_so_turned = 0;
      RecordingTap tap;
      LayerContext context{&tap};
      context.convention.gauge = gauge;
      context.convention.rotation = rotation;
      EIGSVC_ASSERT_OK(model->Forward(model->weights(), Tokens(3, 2, 13), context));
      for (int layer = 0; layer < model->description().layers; ++layer) {
        ASSERT_EQ(tap.seen[layer].size(), mixers[layer].size()) << "layer " << layer;
        for (const RecordingTap::Seen& seen : tap.seen[layer]) {
          EIGSVC_ASSERT_OK_AND_ASSIGN(const Eigenvalues found, ComputeEigenvalues(seen.transition));
          const TransitionForm form = FormOf(seen.transition.kind);
          ExpectPossible(form, found.log_magnitude);
          if (form != TransitionForm::kNilpotent)
            largest_so_turned = std::max(largest_so_turned, MaxMagnitude(found.log_magnitude));
          if (!OnlySumsWhenRaw(seen.mixer)) continue;
          const auto described = std::find_if(mixers[layer].begin(), mixers[layer].end(),
                                              [&](const auto& mixer) { return mixer.mixer == seen.mixer; });
          ASSERT_TRUE(described != mixers[layer].end()) << seen.mixer << " of layer " << layer;
          const bool sums = gauge == Gauge::kRaw || described->constant;
          EXPECT_EQ(seen.transition.constant, sums) << seen.mixer << " of layer " << layer;
          EXPECT_EQ(MaxMagnitude(found.log_magnitude) == 0, sums) << seen.mixer << " of layer " << layer;
        }
      }
      if (rotation == rotations.front()) {
        largest[gauge] = largest_so_turned;
      } else {
        EXPECT_NEAR(largest_so_turned, largest[gauge], 1e-6 * largest[gauge]);
      }
    }
  }
  // What the normaliser of softmax attention does is no matter of rounding.
  const bool all_attention = std::all_of(mixers.begin(), mixers.end(), [](const auto& layer) {
    return layer.size() == 1 && layer[0].mixer == "attention";
  });
  if (all_attention && largest.count(Gauge::kRaw) > 0) {
    EXPECT_EQ(largest[Gauge::kRaw], 0);
    EXPECT_GT(largest[Gauge::kDsf], 0.1);
  }
}

TEST_P(FamilyTest, ReportsFiniteEigenvaluesOfEveryLayer) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto model, MakeTiny(GetParam()));
  RecordingTap tap;
  constexpr int64_t kBatch = 2, kSteps = 13;
  EIGSVC_ASSERT_OK(model->Forward(model->weights(), Tokens(3, kBatch, kSteps), {&tap}));
  for (int layer = 0; layer < model->description().layers; ++layer) {
    const std::vector<MixerDescription>& mixers = model->description().mixers[layer];
    std::map<std::string, at::Tensor> found = LogMagnitudes(tap, layer);
    ASSERT_EQ(found.size(), mixers.size()) << "layer " << layer;
    for (const MixerDescription& mixer : mixers) {
      ASSERT_EQ(found.count(mixer.mixer), 1u) << mixer.mixer;
      const Transition& transition = First(tap, layer, mixer.mixer);
      EXPECT_EQ(transition.constant, mixer.constant);
      EXPECT_EQ(TransitionFormName(FormOf(transition.kind)), TransitionFormName(mixer.form));
      // Nothing is rounded in a shift register, nor in a sum, whose λ is 1.
      const bool sum = mixer.constant && MaxMagnitude(found[mixer.mixer]) == 0;
      EXPECT_GE(transition.noise_floor, mixer.form == TransitionForm::kNilpotent || sum ? 0 : 1e-300);
      EXPECT_LT(transition.noise_floor, 1e-2);
      EIGSVC_ASSERT_OK_AND_ASSIGN(const Eigenvalues eigenvalues, ComputeEigenvalues(transition));
      EXPECT_EQ(eigenvalues.layout.multiplicities[0], mixer.multiplicity);
      const auto* low_rank = std::get_if<DiagonalPlusLowRank>(&transition.kind);
      if (low_rank != nullptr && low_rank->similar_to_symmetric) {
        EXPECT_EQ(low_rank->u.size(-1), 1);
        EXPECT_GE((low_rank->u * low_rank->v).min().item<double>(), 0);
      }
      const int64_t rows = transition.constant ? 1 : kBatch;
      const int64_t steps = transition.constant ? 1 : kSteps - transition.first_step;
      const std::vector<int64_t> shape = {rows, steps, mixer.units, mixer.eigenvalues_per_unit};
      const at::Tensor& values = found[mixer.mixer];
      EXPECT_EQ(values.sizes().vec(), shape);
      if (mixer.form == TransitionForm::kNilpotent) {
        ExpectPossible(mixer.form, values);
      } else {
        EXPECT_TRUE(at::isfinite(values).all().item<bool>());
      }
      EXPECT_FALSE(values.requires_grad());
    }
    for (const RecordingTap::Seen& seen : tap.seen[layer]) {
      const auto described = std::find_if(mixers.begin(), mixers.end(), [&](const MixerDescription& mixer) {
        return mixer.mixer == seen.mixer;
      });
      EXPECT_EQ(seen.unit_kind, described->unit_kind);
    }
  }
}

// What a model makes of each step: its logits, or what it pools.
absl::StatusOr<at::Tensor> Steps(const SequenceModel& model, const at::Tensor& tokens, RecordingTap& tap) {
  EIGSVC_ASSIGN_OR_RETURN(at::Tensor x, model.Embed(model.weights(), tokens, 0));
  for (size_t i = 0; i < model.weights().layers.size(); ++i) {
    EIGSVC_ASSIGN_OR_RETURN(x,
                            model.Layer(static_cast<int>(i), model.weights().layers[i], x, nullptr, {&tap}));
  }
  if (!model.description().pooling.empty()) return x;
  return model.Head(model.weights(), x);
}

TEST_P(FamilyTest, NeverLooksAhead) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto model, MakeTiny(GetParam(), 1, c10::kDouble));
  const at::Tensor tokens = Tokens(4, 1, 14);
  at::Tensor other = tokens.clone();
  other.narrow(1, 8, 6).fill_(3);
  RecordingTap tap, other_tap;
  EIGSVC_ASSERT_OK_AND_ASSIGN(const at::Tensor steps, Steps(*model, tokens, tap));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const at::Tensor others, Steps(*model, other, other_tap));
  EXPECT_LE(MaxDifference(steps.narrow(1, 0, 8), others.narrow(1, 0, 8)), 1e-12);
  EXPECT_GT(MaxDifference(steps.narrow(1, 8, 6), others.narrow(1, 8, 6)), 1e-6);
  for (const auto& [layer, seen] : tap.seen) {
    std::map<std::string, at::Tensor> others_found = LogMagnitudes(other_tap, layer);
    for (const auto& [mixer, found] : LogMagnitudes(tap, layer)) {
      const Transition& first = First(tap, layer, mixer);
      const int64_t kept = first.constant ? 1 : 8 - first.first_step;
      EXPECT_LE(LogDifference(found.narrow(1, 0, kept), others_found.at(mixer).narrow(1, 0, kept)), 1e-12);
    }
  }
}

TEST_P(FamilyTest, RowsOfABatchAreIndependent) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto model, MakeTiny(GetParam(), 1, c10::kDouble));
  const at::Tensor tokens = Tokens(5, 3, 10);
  RecordingTap tap, row_tap;
  EIGSVC_ASSERT_OK_AND_ASSIGN(const at::Tensor logits, model->Forward(model->weights(), tokens, {&tap}));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const at::Tensor row,
                              model->Forward(model->weights(), tokens.narrow(0, 1, 1), {&row_tap}));
  EXPECT_LE(MaxDifference(logits.narrow(0, 1, 1), row), 1e-12);
  for (const auto& [layer, seen] : tap.seen) {
    std::map<std::string, at::Tensor> of_row = LogMagnitudes(row_tap, layer);
    for (const auto& [mixer, found] : LogMagnitudes(tap, layer)) {
      const int64_t row_found = First(tap, layer, mixer).constant ? 0 : 1;
      EXPECT_LE(LogDifference(found.narrow(0, row_found, 1), of_row.at(mixer)), 1e-12);
    }
  }
}

TEST_P(FamilyTest, ChunksOfTimeEqualTheWhole) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto model, MakeTiny(GetParam(), 1, c10::kDouble));
  const at::Tensor tokens = Tokens(6, 2, 19);
  RecordingTap whole_tap;
  EIGSVC_ASSERT_OK_AND_ASSIGN(const at::Tensor whole, model->Forward(model->weights(), tokens, {&whole_tap}));
  std::vector<LayerState> states(model->weights().layers.size());
  for (LayerState& state : states) state.length = tokens.size(1);
  std::vector<std::map<std::string, std::vector<at::Tensor>>> decays(states.size());
  std::vector<at::Tensor> parts;  // of the last layer's output
  int64_t begin = 0;
  for (const int64_t steps : {1, 2, 9, 1, 6}) {
    EIGSVC_ASSERT_OK_AND_ASSIGN(at::Tensor x,
                                model->Embed(model->weights(), tokens.narrow(1, begin, steps), begin));
    RecordingTap tap;
    for (size_t i = 0; i < states.size(); ++i) {
      const int layer = static_cast<int>(i);
      EIGSVC_ASSERT_OK_AND_ASSIGN(x, model->Layer(layer, model->weights().layers[i], x, &states[i], {&tap}));
      EXPECT_EQ(states[i].position, begin + steps);
      // A chunk whose only step has no eigenvalue may report nothing, and only the first reports a constant.
      for (const auto& [mixer, found] : LogMagnitudes(tap, layer)) decays[i][mixer].push_back(found);
    }
    parts.push_back(std::move(x));
    begin += steps;
  }
  at::Tensor x = at::cat(parts, 1);
  if (!model->description().pooling.empty()) {
    const at::Tensor lengths = at::full({2}, 19, at::TensorOptions(at::kLong));
    EIGSVC_ASSERT_OK_AND_ASSIGN(x, model->Pool(model->weights(), x, lengths));
  }
  EIGSVC_ASSERT_OK_AND_ASSIGN(const at::Tensor logits, model->Head(model->weights(), x));
  EXPECT_LE(RelativeDifference(logits, whole), 1e-12);
  for (size_t i = 0; i < states.size(); ++i) {
    for (const auto& [mixer, expected] : LogMagnitudes(whole_tap, static_cast<int>(i))) {
      const bool constant = First(whole_tap, static_cast<int>(i), mixer).constant;
      const at::Tensor joined = constant ? decays[i][mixer][0] : at::cat(decays[i][mixer], 1);
      ASSERT_EQ(joined.sizes(), expected.sizes());
      EXPECT_LE(LogDifference(joined, expected), 1e-11);
    }
  }
}

TEST_P(FamilyTest, RunsInEveryPrecision) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto exact, MakeTiny(GetParam(), 1, c10::kDouble));
  const at::Tensor tokens = Tokens(7, 2, 12);
  EIGSVC_ASSERT_OK_AND_ASSIGN(const at::Tensor reference, exact->Forward(exact->weights(), tokens));
  EXPECT_EQ(reference.scalar_type(), c10::kDouble);
  const std::pair<c10::ScalarType, double> cases[] = {{c10::kFloat, 1e-4}, {c10::kBFloat16, 0.2}};
  for (const auto& [dtype, tolerance] : cases) {
    EIGSVC_ASSERT_OK_AND_ASSIGN(const auto model, MakeTiny(GetParam(), 1, dtype));
    EXPECT_EQ(model->dtype(), dtype);
    EIGSVC_ASSERT_OK_AND_ASSIGN(const at::Tensor logits, model->Forward(model->weights(), tokens));
    EXPECT_LE(RelativeDifference(logits, reference), tolerance) << c10::toString(dtype);
  }
}

// Of a model's weights, those that gradients reach.
std::vector<at::Tensor> TrainedWeights(const SequenceModel& model, const ModelWeights& weights) {
  std::vector<at::Tensor> trained;
  for (const WeightSpec& spec : model.plan()) {
    if (!spec.trained || !spec.tied_to.empty()) continue;
    trained.push_back(
        (spec.layer == WeightSpec::kOuter ? weights.outer : weights.layers.at(spec.layer))[spec.name]);
  }
  return trained;
}

TEST_P(FamilyTest, GivesEveryWeightAGradient) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto model, MakeTiny(GetParam()));
  const at::AutoGradMode with_gradients(true);
  const ModelWeights trained = model->weights().Clone(/*requires_grad=*/true);
  ASSERT_EQ(trained.Distinct().size(), model->weights().Distinct().size());
  EIGSVC_ASSERT_OK_AND_ASSIGN(const at::Tensor logits, model->Forward(trained, Tokens(8, 2, 12)));
  (logits * logits).sum().backward();
  for (const at::Tensor& weight : TrainedWeights(*model, trained)) {
    ASSERT_TRUE(weight.grad().defined());
    EXPECT_TRUE(at::isfinite(weight.grad()).all().item<bool>());
  }
}

// Decay rates, step sizes, skips and first states, whatever shape a family gives them.
TEST_P(FamilyTest, DecaysNoWeightWithoutAScale) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto model, MakeTiny(GetParam()));
  for (const WeightSpec& spec : model->plan()) {
    const std::string last = spec.name.substr(spec.name.rfind('.') + 1);
    if (last != "A_log" && last != "D" && last != "dt_bias" && last != "init_states") continue;
    EXPECT_TRUE(!spec.decays || spec.shape.size() < 2) << spec.name;
  }
}

// Along one random direction a weight, in float64: the slope of a random functional of the logits.
TEST_P(FamilyTest, GradientsEqualFiniteDifferences) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto model, MakeTiny(GetParam(), 1, c10::kDouble));
  const at::Tensor tokens = Tokens(10, 2, 9);
  const ModelWeights trained = model->weights().Clone(/*requires_grad=*/true);
  EIGSVC_ASSERT_OK_AND_ASSIGN(const at::Tensor probe_shape, model->Forward(model->weights(), tokens));
  const at::Tensor functional =
      at::randn_like(probe_shape) / std::sqrt(static_cast<double>(probe_shape.numel()));
  {
    const at::AutoGradMode with_gradients(true);
    EIGSVC_ASSERT_OK_AND_ASSIGN(const at::Tensor logits, model->Forward(trained, tokens));
    (logits * functional).sum().backward();
  }
  const auto value = [&] { return (*model->Forward(trained, tokens) * functional).sum().item<double>(); };
  constexpr double kStep =
      3e-8;  // small beside the distance to a kink, and beside a key before it is normalised
  for (const at::Tensor& weight : TrainedWeights(*model, trained)) {
    at::Tensor place = weight.detach();
    const at::Tensor direction = at::randn_like(place), kept = place.clone();
    const double slope = (weight.grad() * direction).sum().item<double>();
    place.copy_(kept + direction * kStep);
    const double above = value();
    place.copy_(kept - direction * kStep);
    const double expected = (above - value()) / (2 * kStep);
    place.copy_(kept);
    EXPECT_NEAR(slope, expected, 1e-6 * std::max(1.0, std::abs(expected))) << weight.sizes();
  }
}

TEST_P(FamilyTest, StopsWhenToldTo) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto model, MakeTiny(GetParam()));
  StopToken stop;
  stop.Cancel();
  EXPECT_THAT(model->Forward(model->weights(), Tokens(9, 1, 5), {nullptr, &stop}),
              StatusIs(absl::StatusCode::kCancelled, HasSubstr("cancelled")));
}

TEST_P(FamilyTest, RefusesMissingExtraAndMisshapenKeys) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto model, MakeTiny(GetParam()));
  EIGSVC_ASSERT_OK(SaveModel(*model, model->weights(), {}, path_));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Archive whole, Archive::Open(path_));
  const std::string key = model->plan().back().key;
  auto tensors = whole.tensors();
  const ArchiveTensor original = tensors.at(key);

  tensors.erase(key);
  EXPECT_THAT(LoadModel(Archive(tensors, whole.settings(), "f"), {}, {}),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr(key)));
  tensors[key] = original;
  tensors["unheard.of"] = original;
  EXPECT_THAT(LoadModel(Archive(tensors, whole.settings(), "f"), {}, {}),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("unheard.of")));
  tensors.erase("unheard.of");
  ArchiveTensor narrow = original;
  narrow.shape[0] -= 1;
  tensors[key] = narrow;
  EXPECT_THAT(LoadModel(Archive(tensors, whole.settings(), "f"), {}, {}),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       AllOf(HasSubstr(key), HasSubstr(absl::StrCat("[", narrow.shape[0])),
                             HasSubstr(absl::StrCat("[", original.shape[0])))));
}

TEST_P(FamilyTest, RefusesNaN) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto model, MakeTiny(GetParam()));
  const ModelWeights weights = model->weights().Clone(/*requires_grad=*/false);
  const WeightSpec& spec = model->plan().back();
  const Weights& place = spec.layer == WeightSpec::kOuter ? weights.outer : weights.layers.at(spec.layer);
  place[spec.name].view({-1})[2].fill_(std::nan(""));
  EIGSVC_ASSERT_OK(SaveModel(*model, weights, {}, path_));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Archive archive, Archive::Open(path_));
  EXPECT_THAT(LoadModel(archive, {}, {}), StatusIs(absl::StatusCode::kDataLoss, HasSubstr(spec.key)));
}

TEST_P(FamilyTest, RefusesASettingItDoesNotKnow) {
  TinyModel misspelt = GetParam();
  misspelt.settings.Set("d_sate", int64_t{4});
  EXPECT_THAT(MakeTiny(misspelt), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("d_sate")));
}

INSTANTIATE_TEST_SUITE_P(Zoo, FamilyTest, ::testing::ValuesIn(testing::TinyModels()),
                         [](const auto& tiny) { return testing::TinyModelName(tiny.param); });

TEST(FamiliesTest, RefuseALayoutThatIsNotTheirsWhenFresh) {
  for (const FamilyEntry& family : Families()) {
    SCOPED_TRACE(family.name);
    const Settings settings = *Settings::Parse(R"({"layout": "nobody's"})", "a test's settings");
    EXPECT_THAT(InitializeModel(family, settings, 1, {}),
                StatusIs(absl::StatusCode::kNotFound,
                         AllOf(HasSubstr("nobody's"), HasSubstr(family.layouts.front()))));
  }
}

// `eigsvc models` shows a transition up to its first comma, which may not stand in the middle of a formula.
TEST(RegistryTest, TheFirstClauseOfATransitionIsWhole) {
  for (const FamilyEntry& family : Families()) {
    const std::string transition(family.transition), clause = transition.substr(0, transition.find(", "));
    EXPECT_EQ(std::count(clause.begin(), clause.end(), '('), std::count(clause.begin(), clause.end(), ')'))
        << family.name << ": " << clause;
    EXPECT_EQ(std::count(clause.begin(), clause.end(), '['), std::count(clause.begin(), clause.end(), ']'))
        << family.name << ": " << clause;
  }
}

TEST(RegistryTest, AnUnknownModelNamesTheKnownOnes) {
  EXPECT_THAT(FindFamily("mamba3"),
              StatusIs(absl::StatusCode::kNotFound, AllOf(HasSubstr("mamba3"), HasSubstr("mamba2"))));
}

}  // namespace
}  // namespace eigsvc
