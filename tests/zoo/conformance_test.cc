// What every family promises, checked on small models of all of them.
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "ATen/TensorOperators.h"
#include "ATen/core/IListRef.h"
#include "ATen/core/grad_mode.h"
#include "ATen/ops/cat.h"
#include "ATen/ops/equal.h"
#include "ATen/ops/isfinite.h"
#include "ATen/ops/randn_like.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "models/archive/archive.h"
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

// log λ of a layer's only transition, by the room that knows the closed forms; of several writes a step
// (Gated DeltaProduct) |λ|: a general solver finds those, whose error is absolute, and a fresh model has some
// near Π(1 - β_j) = 1e-6, of which the logarithm loses six digits.
at::Tensor Magnitude(const RecordingTap& tap, int layer) {
  const Transition& transition = tap.seen.at(layer).at(0).transition;
  const at::Tensor log_magnitude = ComputeEigenvalues(transition)->log_magnitude;
  const auto* kind = std::get_if<DiagonalPlusLowRank>(&transition.kind);
  return kind != nullptr && kind->u.size(-1) > 1 ? log_magnitude.exp() : log_magnitude;
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
  EXPECT_THAT(family->initialize(model->description().settings.MergedWith(typed), 1, {}), refused);
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

// Each layer reports every mixer in each gauge and rotation that the model lists; the moduli of a rotation
// are one.
TEST_P(FamilyTest, ReportsInEveryConventionItLists) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto model, MakeTiny(GetParam()));
  const auto& mixers = model->description().mixers;
  std::map<Gauge, double> largest;  // |log|λ||
  for (const Gauge gauge : model->description().conventions.gauges) {
    for (const Rotation rotation : model->description().conventions.rotations) {
      RecordingTap tap;
      LayerContext context{&tap};
      context.convention.gauge = gauge;
      context.convention.rotation = rotation;
      EIGSVC_ASSERT_OK(model->Forward(model->weights(), Tokens(3, 2, 13), context));
      for (int layer = 0; layer < model->description().layers; ++layer) {
        ASSERT_EQ(tap.seen[layer].size(), mixers[layer].size()) << "layer " << layer;
        for (const RecordingTap::Seen& seen : tap.seen[layer]) {
          EIGSVC_ASSERT_OK_AND_ASSIGN(const Eigenvalues found, ComputeEigenvalues(seen.transition));
          EXPECT_TRUE(at::isfinite(found.log_magnitude).all().item<bool>());
          largest[gauge] = std::max(largest[gauge], MaxMagnitude(found.log_magnitude));
        }
      }
    }
  }
  // A normaliser that is no part of the state leaves softmax attention nothing but a sum.
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
    const auto& seen = tap.seen[layer];
    ASSERT_EQ(seen.size(), mixers.size()) << "layer " << layer;
    for (size_t i = 0; i < mixers.size(); ++i) {
      const Transition& transition = seen[i].transition;
      EXPECT_EQ(seen[i].mixer, mixers[i].mixer);
      EXPECT_EQ(seen[i].unit_kind, mixers[i].unit_kind);
      EXPECT_EQ(transition.constant, mixers[i].constant);
      EXPECT_EQ(TransitionFormName(FormOf(transition.kind)), TransitionFormName(mixers[i].form));
      EXPECT_GT(transition.noise_floor, 0);
      EXPECT_LT(transition.noise_floor, 1e-2);
      EIGSVC_ASSERT_OK_AND_ASSIGN(const Eigenvalues eigenvalues, ComputeEigenvalues(transition));
      EXPECT_EQ(eigenvalues.layout.multiplicities[0], mixers[i].multiplicity);
      const int64_t rows = transition.constant ? 1 : kBatch;
      const int64_t steps = transition.constant ? 1 : kSteps - transition.first_step;
      const std::vector<int64_t> shape = {rows, steps, mixers[i].units, mixers[i].eigenvalues_per_unit};
      EXPECT_EQ(eigenvalues.log_magnitude.sizes().vec(), shape);
      EXPECT_TRUE(at::isfinite(eigenvalues.log_magnitude).all().item<bool>());
      EXPECT_FALSE(eigenvalues.log_magnitude.requires_grad());
    }
  }
}

TEST_P(FamilyTest, NeverLooksAhead) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto model, MakeTiny(GetParam(), 1, c10::kDouble));
  const at::Tensor tokens = Tokens(4, 1, 14);
  at::Tensor other = tokens.clone();
  other.narrow(1, 8, 6).fill_(3);
  RecordingTap tap, other_tap;
  EIGSVC_ASSERT_OK_AND_ASSIGN(const at::Tensor logits, model->Forward(model->weights(), tokens, {&tap}));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const at::Tensor others, model->Forward(model->weights(), other, {&other_tap}));
  EXPECT_LE(MaxDifference(logits.narrow(1, 0, 8), others.narrow(1, 0, 8)), 1e-12);
  EXPECT_GT(MaxDifference(logits.narrow(1, 8, 6), others.narrow(1, 8, 6)), 1e-6);
  for (const auto& [layer, seen] : tap.seen) {
    const int64_t kept = seen[0].transition.constant ? 1 : 8 - seen[0].transition.first_step;
    EXPECT_LE(MaxDifference(Magnitude(tap, layer).narrow(1, 0, kept),
                            Magnitude(other_tap, layer).narrow(1, 0, kept)),
              1e-12);
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
    const int64_t row_index = seen[0].transition.constant ? 0 : 1;
    EXPECT_LE(MaxDifference(Magnitude(tap, layer).narrow(0, row_index, 1), Magnitude(row_tap, layer)), 1e-12);
  }
}

TEST_P(FamilyTest, ChunksOfTimeEqualTheWhole) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto model, MakeTiny(GetParam(), 1, c10::kDouble));
  const at::Tensor tokens = Tokens(6, 2, 19);
  RecordingTap whole_tap;
  EIGSVC_ASSERT_OK_AND_ASSIGN(const at::Tensor whole, model->Forward(model->weights(), tokens, {&whole_tap}));
  std::vector<LayerState> states(model->weights().layers.size());
  for (LayerState& state : states) state.length = tokens.size(1);
  std::vector<std::vector<at::Tensor>> decays(states.size());
  std::vector<at::Tensor> parts;
  int64_t begin = 0;
  for (const int64_t steps : {1, 2, 9, 1, 6}) {
    EIGSVC_ASSERT_OK_AND_ASSIGN(at::Tensor x,
                                model->Embed(model->weights(), tokens.narrow(1, begin, steps), begin));
    RecordingTap tap;
    for (size_t i = 0; i < states.size(); ++i) {
      const int layer = static_cast<int>(i);
      EIGSVC_ASSERT_OK_AND_ASSIGN(x, model->Layer(layer, model->weights().layers[i], x, &states[i], {&tap}));
      EXPECT_EQ(states[i].position, begin + steps);
      // A chunk whose only step has no eigenvalue may report nothing.
      if (tap.seen.count(layer) > 0) decays[i].push_back(Magnitude(tap, layer));
    }
    EIGSVC_ASSERT_OK_AND_ASSIGN(at::Tensor logits, model->Head(model->weights(), x));
    parts.push_back(std::move(logits));
    begin += steps;
  }
  EXPECT_LE(RelativeDifference(at::cat(parts, 1), whole), 1e-12);
  for (size_t i = 0; i < states.size(); ++i) {
    const at::Tensor expected = Magnitude(whole_tap, static_cast<int>(i)), joined = at::cat(decays[i], 1);
    ASSERT_EQ(joined.sizes(), expected.sizes());
    EXPECT_LE(MaxDifference(joined, expected), 1e-11);
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

TEST_P(FamilyTest, GivesEveryWeightAGradient) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto model, MakeTiny(GetParam()));
  const at::AutoGradMode with_gradients(true);
  const ModelWeights trained = model->weights().Clone(/*requires_grad=*/true);
  ASSERT_EQ(trained.Distinct().size(), model->weights().Distinct().size());
  EIGSVC_ASSERT_OK_AND_ASSIGN(const at::Tensor logits, model->Forward(trained, Tokens(8, 2, 12)));
  (logits * logits).sum().backward();
  for (const at::Tensor& weight : trained.Distinct()) {
    ASSERT_TRUE(weight.grad().defined());
    EXPECT_TRUE(at::isfinite(weight.grad()).all().item<bool>());
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
  for (const at::Tensor& weight : trained.Distinct()) {
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

TEST(RegistryTest, AnUnknownModelNamesTheKnownOnes) {
  EXPECT_THAT(FindFamily("mamba3"),
              StatusIs(absl::StatusCode::kNotFound, AllOf(HasSubstr("mamba3"), HasSubstr("mamba2"))));
}

}  // namespace
}  // namespace eigsvc
