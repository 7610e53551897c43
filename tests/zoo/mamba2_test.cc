#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "ATen/TensorOperators.h"
#include "ATen/core/IListRef.h"
#include "ATen/core/grad_mode.h"
#include "ATen/ops/cat.h"
#include "ATen/ops/exp.h"
#include "ATen/ops/eye.h"
#include "ATen/ops/linear.h"
#include "ATen/ops/log1p.h"
#include "ATen/ops/ones.h"
#include "ATen/ops/softplus.h"
#include "ATen/ops/tensor.h"
#include "ATen/ops/zeros.h"
#include "ATen/ops/zeros_like.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "models/zoo/registry.h"
#include "tests/testing/paths.h"
#include "tests/testing/recording_tap.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/tensors.h"
#include "tests/testing/tiny_models.h"

namespace eigsvc {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::MaxDifference;
using testing::NormalTensor;
using testing::RandomTokens;
using testing::RecordingTap;
using testing::RelativeDifference;
using testing::StatusIs;
using Model = std::shared_ptr<const SequenceModel>;

absl::StatusOr<Model> Initialize(absl::string_view json, c10::ScalarType dtype = c10::kDouble,
                                 uint64_t seed = 1) {
  LoadOptions options;
  options.dtype = dtype;
  const FamilyEntry* family = *FindFamily("mamba2");
  return InitializeModel(*family, *Settings::Parse(json, "a test's settings"), seed, options);
}

// A weight of a layer's mixer.
bool HasMixer(const Weights& layer, const std::string& name) { return layer.Has("mixer." + name); }
const at::Tensor& Mixer(const Weights& layer, const std::string& name) { return layer["mixer." + name]; }

// Weights that no initialiser leaves at one, zero or tiny.
ModelWeights Shaken(const SequenceModel& model, uint64_t seed) {
  ModelWeights weights = model.weights().Clone(/*requires_grad=*/false);
  Random random({seed});
  for (at::Tensor& tensor : weights.Distinct()) tensor.add_(NormalTensor(random, tensor.sizes(), 0.3));
  return weights;
}

class Mamba2Test : public ::testing::Test {
  at::NoGradGuard no_grad_;
};

TEST_F(Mamba2Test, GoldenEigenvalues) {
  EIGSVC_REQUIRE_SHARED();
  std::ifstream file(testing::SharedPath("golden/eigenvalues.json"));
  const nlohmann::json golden = nlohmann::json::parse(file).at("mamba2");
  const auto pre = golden.at("dt_pre_plus_bias").get<std::vector<double>>();
  const auto expected = golden.at("log_lambda").get<std::vector<double>>();
  const auto steps = static_cast<int64_t>(pre.size());
  // One-hot embeddings, which RMSNorm scales by √D: the projection's row for Δ then holds the wanted values.
  EIGSVC_ASSERT_OK_AND_ASSIGN(
      const Model model,
      Initialize(absl::StrCat(R"({"n_layer": 1, "expand": 1, "d_state": 2, "norm_epsilon": 0,
                                                     "d_model": )",
                              steps, R"(, "headdim": )", steps, R"(, "vocab_size": )", steps, "}")));
  const ModelWeights weights = model->weights().Clone(/*requires_grad=*/false);
  weights.outer["embedding.weight"].copy_(at::eye(steps, c10::kDouble));
  const Weights& layer = weights.layers[0];
  Mixer(layer, "A_log").fill_(golden.at("A_log").get<double>());
  Mixer(layer, "dt_bias").fill_(0.25);
  const at::Tensor row = Mixer(layer, "in_proj.weight").select(0, Mixer(layer, "in_proj.weight").size(0) - 1);
  row.copy_((at::tensor(pre, c10::kDouble) - 0.25) / std::sqrt(static_cast<double>(steps)));
  RecordingTap tap;
  at::Tensor tokens = at::zeros({1, steps}, c10::kLong);
  for (int64_t t = 0; t < steps; ++t) tokens[0][t].fill_(t);
  EIGSVC_ASSERT_OK(model->Forward(weights, tokens, {&tap}));
  EXPECT_LE(MaxDifference(tap.LogMagnitude(0).view({-1}), at::tensor(expected, c10::kDouble)), 1e-12);
}

TEST_F(Mamba2Test, ConstantStepSizeGivesTheClosedForm) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Model model,
                              Initialize(R"({"n_layer": 1, "d_model": 16, "headdim": 8})"));
  const ModelWeights weights = Shaken(*model, 3);
  const Weights& layer = weights.layers[0];
  const int64_t heads = Mixer(layer, "A_log").size(0), rows = Mixer(layer, "in_proj.weight").size(0);
  Mixer(layer, "in_proj.weight").narrow(0, rows - heads, heads).zero_();
  RecordingTap tap;
  Random random({2});
  EIGSVC_ASSERT_OK(model->Forward(weights, RandomTokens(random, 2, 6, 64), {&tap}));
  const at::Tensor expected = -at::exp(Mixer(layer, "A_log")) * at::softplus(Mixer(layer, "dt_bias"));
  EXPECT_LE(MaxDifference(tap.LogMagnitude(0), expected.expand({2, 6, heads})), 1e-14);
}

// theory.md 1.5: A in [1,16] and Δ in [0.001, 0.1] put a fresh λ (before its input moves it) in [e^-1.6,
// e^-0.001].
TEST_F(Mamba2Test, FreshEigenvaluesCoverTheReferenceRange) {
  for (const char* layout : {"state-spaces", "huggingface", "paper"}) {
    EIGSVC_ASSERT_OK_AND_ASSIGN(
        const Model model,
        Initialize(absl::StrCat(R"({"layout": ")", layout, R"(", )",
                                std::string(layout) == "paper"
                                    ? R"("num_layers": 1, "hidden_dim": 512, "num_heads": 512})"
                                    : R"("n_layer": 1, "d_model": 512, "headdim": 2})")));
    const Weights& layer = model->weights().layers[0];
    const at::Tensor log_decay = -at::exp(Mixer(layer, "A_log")) * at::softplus(Mixer(layer, "dt_bias"));
    ASSERT_EQ(log_decay.numel(), 512);
    EXPECT_GE(log_decay.min().item<double>(), -1.6);
    EXPECT_LE(log_decay.max().item<double>(), -0.001);
    EXPECT_LT(log_decay.min().item<double>(), -0.8) << layout;  // 512 draws come near both ends
    EXPECT_GT(log_decay.max().item<double>(), -0.01) << layout;
    EXPECT_EQ(MaxDifference(Mixer(layer, "D"), at::ones({512})), 0);
  }
}

// The recurrence with the reported λ and the layer's own B, C and x is the layer.
class ReconstructionTest : public ::testing::TestWithParam<testing::TinyModel> {
  at::NoGradGuard no_grad_;
};

TEST_P(ReconstructionTest, TheReportedEigenvaluesRunTheLayer) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Model model, testing::MakeTiny(GetParam(), 1, c10::kDouble));
  const ModelWeights weights = Shaken(*model, 5);
  const Weights& layer = weights.layers[0];
  const int64_t heads = Mixer(layer, "A_log").size(0), width = model->description().width;
  constexpr int64_t kBatch = 2, kSteps = 21;
  // What is not the recurrence drops out: no skip, no gate to speak of, an output projection that shows the
  // first channels. The layer's output is then x + projection(normalised y).
  RecordingTap tap;
  Random random({6});
  const at::Tensor x = NormalTensor(random, {kBatch, kSteps, width});
  EIGSVC_ASSERT_OK_AND_ASSIGN(const at::Tensor out, model->Layer(0, layer, x, nullptr, {&tap}));
  const at::Tensor decay = at::exp(tap.LogMagnitude(0));

  const Settings& settings = model->description().settings;
  const bool paper = GetParam().layout == "paper";
  const int64_t taps = Mixer(layer, "conv1d.weight").size(2),
                conv_rows = Mixer(layer, "conv1d.weight").size(0);
  const int64_t inner = paper                            ? Mixer(layer, "out_proj.weight").size(1)
                        : layer.Has("mixer.norm.weight") ? layer["mixer.norm.weight"].size(0)
                                                         : Mixer(layer, "D").size(0);
  const int64_t p_size = inner / heads;
  const int64_t groups =
      paper ? 1 : settings.IntOr("n_groups", *settings.IntOr("ssm_cfg.ngroups", 1)).value();
  const int64_t order = (conv_rows - inner) / 2 / groups;

  const double eps = settings.RealOr("norm_eps", 1e-5).value();
  const auto mean_square = [](const at::Tensor& t) { return (t * t).mean(-1, /*keepdim=*/true); };
  const auto layer_norm = [&](const at::Tensor& t) {
    const at::Tensor centred = t - t.mean(-1, /*keepdim=*/true);
    return centred / (mean_square(centred) + eps).sqrt() * layer["norm.weight"] + layer["norm.bias"];
  };
  const bool prenorm = !paper || *settings.Bool("prenorm");
  at::Tensor u = x;
  if (prenorm)
    u = layer.Has("norm.bias") ? layer_norm(x) : x / (mean_square(x) + eps).sqrt() * layer["norm.weight"];
  at::Tensor projected = at::linear(u, Mixer(layer, "in_proj.weight"));
  if (HasMixer(layer, "in_proj.bias")) projected = projected + Mixer(layer, "in_proj.bias");
  const int64_t rows = projected.size(-1);
  const at::Tensor dt_raw = projected.narrow(-1, rows - heads, heads);
  const at::Tensor xbc = projected.narrow(-1, rows - heads - conv_rows, conv_rows);

  at::Tensor mixed = at::zeros_like(xbc);
  for (int64_t t = 0; t < kSteps; ++t) {
    for (int64_t k = 0; k < taps; ++k) {
      const int64_t source = t - taps + 1 + k;
      if (source >= 0)
        mixed.select(1, t).add_(xbc.select(1, source) *
                                Mixer(layer, "conv1d.weight").select(2, k).select(1, 0));
    }
  }
  if (HasMixer(layer, "conv1d.bias")) mixed = mixed + Mixer(layer, "conv1d.bias");
  mixed = mixed / (1 + at::exp(-mixed));
  const at::Tensor xs = mixed.narrow(-1, 0, inner).view({kBatch, kSteps, heads, p_size});
  const at::Tensor bs = mixed.narrow(-1, inner, groups * order).view({kBatch, kSteps, groups, order});
  const at::Tensor cs =
      mixed.narrow(-1, inner + groups * order, groups * order).view({kBatch, kSteps, groups, order});
  // Δ follows from λ: one more way for a wrong λ to show.
  const at::Tensor dt = tap.LogMagnitude(0) / -at::exp(Mixer(layer, "A_log"));

  at::Tensor y = at::zeros({kBatch, kSteps, heads, p_size}, c10::kDouble);
  for (int64_t head = 0; head < heads; ++head) {
    const int64_t group = head / (heads / groups);
    at::Tensor h = at::zeros({kBatch, p_size, order}, c10::kDouble);
    if (HasMixer(layer, "init_states")) h = h + Mixer(layer, "init_states")[head];
    for (int64_t t = 0; t < kSteps; ++t) {
      const at::Tensor input = dt.select(1, t).select(1, head).view({kBatch, 1, 1}) *
                               xs.select(1, t).select(1, head).unsqueeze(-1) *
                               bs.select(1, t).select(1, group).unsqueeze(1);
      h = decay.select(1, t).select(1, head).view({kBatch, 1, 1}) * h + input;
      y.select(1, t).select(1, head).copy_((h * cs.select(1, t).select(1, group).unsqueeze(1)).sum(-1));
    }
  }
  y = (y + xs * Mixer(layer, "D").view({heads, -1})).view({kBatch, kSteps, inner});

  at::Tensor expected;
  if (paper) {
    at::Tensor z = at::linear(y, Mixer(layer, "out_proj.weight"));
    z = 0.5 * z * (1 + (z / std::sqrt(2.0)).erf());
    if (layer.Has("glu.linear.weight")) {
      const at::Tensor both = at::linear(z, layer["glu.linear.weight"]) + layer["glu.linear.bias"];
      z = both.narrow(-1, 0, width) / (1 + at::exp(-both.narrow(-1, width, width)));
    }
    expected = prenorm ? x + z : layer_norm(x + z);
  } else {
    const int64_t mlp = Mixer(layer, "out_proj.weight").size(1) - inner;
    const at::Tensor gate = projected.narrow(-1, 2 * mlp, inner);
    const at::Tensor silu = gate / (1 + at::exp(-gate));
    const bool norm_first =
        settings.BoolOr("norm_before_gate", *settings.BoolOr("ssm_cfg.norm_before_gate", false)).value();
    if (!norm_first) y = y * silu;
    if (layer.Has("mixer.norm.weight")) {
      const int64_t norm_groups = *settings.Int("gated_norm_groups");
      const at::Tensor grouped = y.view({kBatch, kSteps, norm_groups, -1});
      y = (grouped / (mean_square(grouped) + eps).sqrt()).view({kBatch, kSteps, inner}) *
          layer["mixer.norm.weight"];
    }
    if (norm_first) y = y * silu;
    if (mlp > 0) {
      const at::Tensor first = projected.narrow(-1, 0, mlp);
      y = at::cat({first / (1 + at::exp(-first)) * projected.narrow(-1, mlp, mlp), y}, -1);
    }
    at::Tensor z = at::linear(y, Mixer(layer, "out_proj.weight"));
    if (HasMixer(layer, "out_proj.bias")) z = z + Mixer(layer, "out_proj.bias");
    expected = x + z;
  }
  EXPECT_LE(RelativeDifference(out, expected), 1e-11);
  // And λ itself from the definition.
  at::Tensor step = at::log1p(at::exp(dt_raw + Mixer(layer, "dt_bias")));
  std::vector<double> limit = {0, 1e300};
  for (const char* key : {"ssm_cfg.dt_limit", "time_step_limit", "dt_limit"}) {
    if (settings.Has(key)) limit = *settings.Reals(key);
  }
  step = step.clamp(limit[0], limit[1]);
  EXPECT_LE(MaxDifference(tap.LogMagnitude(0), step * -at::exp(Mixer(layer, "A_log"))), 1e-11);
}

std::vector<testing::TinyModel> Mamba2Models() {
  std::vector<testing::TinyModel> models;
  for (const testing::TinyModel& model : testing::TinyModels()) {
    // Pseudo-LTI has another recurrence, which its twin runs (tests/conformance/oracles/mamba2.py); that with
    // attention begins with a layer of it.
    if (model.family == "mamba2" && model.variant != "pseudo_lti" && model.variant != "attention") {
      models.push_back(model);
    }
  }
  return models;
}
INSTANTIATE_TEST_SUITE_P(Mamba2, ReconstructionTest, ::testing::ValuesIn(Mamba2Models()),
                         [](const auto& tiny) { return testing::TinyModelName(tiny.param); });

TEST_F(Mamba2Test, StepSizesAreClampedAfterSoftplus) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Model model, Initialize(R"({"n_layer": 1, "dt_limit": [0.02, 0.05]})"));
  RecordingTap tap;
  Random random({7});
  EIGSVC_ASSERT_OK(model->Forward(model->weights(), RandomTokens(random, 4, 32, 64), {&tap}));
  const at::Tensor dt = tap.LogMagnitude(0) / -at::exp(Mixer(model->weights().layers[0], "A_log"));
  EXPECT_NEAR(dt.min().item<double>(), 0.02, 1e-12);
  EXPECT_NEAR(dt.max().item<double>(), 0.05, 1e-12);
}

TEST_F(Mamba2Test, GroupingOfTheGatedNormIsASettingThatMatters) {
  const std::string rest = R"("d_model": 16, "headdim": 8, "ngroups": 2})";
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Model grouped, Initialize("{" + rest));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Model whole, Initialize(R"({"gated_norm_groups": 1, )" + rest));
  EXPECT_EQ(*grouped->description().settings.Int("gated_norm_groups"), 2);
  Random random({8});
  const at::Tensor tokens = RandomTokens(random, 2, 12, 64);
  const ModelWeights weights = Shaken(*grouped, 9);
  EIGSVC_ASSERT_OK_AND_ASSIGN(const at::Tensor a, grouped->Forward(weights, tokens));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const at::Tensor b, whole->Forward(weights, tokens));
  EXPECT_GT(RelativeDifference(a, b), 1e-3);
}

TEST_F(Mamba2Test, ALayerWalkedInSegmentsEqualsOneWalkedInChunks) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Model model,
                              Initialize(R"({"n_layer": 1, "d_model": 16, "d_state": 4, "headdim": 2})"));
  constexpr int64_t kSteps = 40001;  // several segments of work
  Random random({10});
  const at::Tensor x = NormalTensor(random, {1, kSteps, 16});
  const Weights& layer = model->weights().layers[0];
  RecordingTap whole_tap;
  EIGSVC_ASSERT_OK_AND_ASSIGN(const at::Tensor whole, model->Layer(0, layer, x, nullptr, {&whole_tap}));
  LayerState state;
  std::vector<at::Tensor> parts;
  for (int64_t begin = 0; begin < kSteps; begin += 10000) {
    EIGSVC_ASSERT_OK_AND_ASSIGN(
        at::Tensor part,
        model->Layer(0, layer, x.narrow(1, begin, std::min<int64_t>(10000, kSteps - begin)), &state, {}));
    parts.push_back(std::move(part));
  }
  EXPECT_LE(RelativeDifference(at::cat(parts, 1), whole), 1e-12);
  ASSERT_EQ(whole_tap.seen.at(0).size(), 1u);
  EXPECT_EQ(whole_tap.LogMagnitude(0).size(1), kSteps);
}

TEST_F(Mamba2Test, ALongLayerStopsBetweenItsSegments) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Model model,
                              Initialize(R"({"n_layer": 1, "d_model": 16, "headdim": 4})"));
  const at::Tensor x = at::ones({1, 400000, 16}, c10::kDouble);  // seconds of work
  StopToken stop;
  absl::Time cancelled;
  std::thread canceller([&] {
    absl::SleepFor(absl::Milliseconds(50));
    cancelled = absl::Now();
    stop.Cancel();
  });
  const absl::Status status =
      model->Layer(0, model->weights().layers[0], x, nullptr, {nullptr, &stop}).status();
  const absl::Time returned = absl::Now();
  canceller.join();
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kCancelled, HasSubstr("cancelled")));
  EXPECT_LT(returned - cancelled, absl::Seconds(2));  // a segment, with room for a busy machine
}

// --- Settings ---

Archive ArchiveOf(const SequenceModel& model, const Settings& settings) {
  const std::string path = ::testing::TempDir() + absl::StrCat("eigsvc_mamba2_", getpid(), ".safetensors");
  EXPECT_THAT(SaveModel(model, model.weights(), {}, path), testing::IsOk());
  const Archive archive = *Archive::Open(path);
  std::remove(path.c_str());
  return Archive(archive.tensors(), settings, "model.safetensors");
}

Settings Parse(absl::string_view json) { return *Settings::Parse(json, "config.json"); }

TEST_F(Mamba2Test, GroupsThatShapesDoNotTellAreAskedFor) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Model model, Initialize(R"({"ngroups": 2, "d_state": 6})", c10::kFloat));
  const Archive bare = ArchiveOf(*model, {});
  EXPECT_THAT(LoadModel(bare, {}, {}),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       AllOf(HasSubstr("ngroups"), HasSubstr("12"), HasSubstr("--config"))));
  for (const char* json : {R"({"ngroups": 2})", R"({"d_state": 6})", R"({"ssm_cfg": {"ngroups": 2}})"}) {
    EIGSVC_ASSERT_OK_AND_ASSIGN(const Model loaded, LoadModel(bare, Parse(json), {}));
    EXPECT_EQ(*loaded->description().settings.Int("ssm_cfg.ngroups"), 2) << json;
    EXPECT_EQ(*loaded->description().settings.Int("ssm_cfg.d_state"), 6) << json;
  }
  // The reference's own configuration, which leaves ngroups out, means 1.
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Model one,
                              LoadModel(bare, Parse(R"({"ssm_cfg": {"layer": "Mamba2"}})"), {}));
  EXPECT_EQ(*one->description().settings.Int("ssm_cfg.ngroups"), 1);
  EXPECT_THAT(LoadModel(bare, Parse(R"({"ngroups": 5})"), {}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("ngroups")));
}

TEST_F(Mamba2Test, PaddedVocabulariesAreRead) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Model model,
                              Initialize(R"({"vocab_size": 50, "pad_vocab_size_multiple": 16})"));
  EXPECT_EQ(model->description().vocab_size, 64);
  const Archive archive = ArchiveOf(*model, {});
  for (const char* json : {R"({"ngroups": 1, "vocab_size": 50, "pad_vocab_size_multiple": 16})",
                           R"({"ngroups": 1, "vocab_size": 50})", R"({"ngroups": 1})"}) {
    EIGSVC_ASSERT_OK_AND_ASSIGN(const Model loaded, LoadModel(archive, Parse(json), {}));
    EXPECT_EQ(loaded->description().vocab_size, 64) << json;
  }
  EXPECT_THAT(
      LoadModel(archive, Parse(R"({"ngroups": 1, "vocab_size": 65, "pad_vocab_size_multiple": 16})"), {}),
      StatusIs(absl::StatusCode::kFailedPrecondition, AllOf(HasSubstr("[64, 64]"), HasSubstr("[80, 64]"))));
}

TEST_F(Mamba2Test, WhatItDoesNotRunIsRefusedByName) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Model model, Initialize("{}", c10::kFloat));
  const Archive archive = ArchiveOf(*model, {});
  const std::pair<const char*, const char*> cases[] = {
      {R"({"ngroups": 1, "attn_layer_idx": [1]})", "attn_layer_idx"},
      {R"({"ngroups": 1, "d_intermediate": 128})", "d_intermediate"},
      {R"({"ngroups": 1, "ssm_cfg": {"layer": "Mamba1"}})", "Mamba1"},
      {R"({"ngroups": 1, "hidden_act": "relu"})", "relu"},
  };
  for (const auto& [json, named] : cases) {
    EXPECT_THAT(LoadModel(archive, Parse(json), {}),
                StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr(named)));
  }
}

// transformers' models have RMSNorm whatever rms_norm says; state-spaces' weights show which norm they have.
TEST_F(Mamba2Test, RmsNormIsReadWhereItMeansSomething) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Model named, Initialize(R"({"layout": "huggingface"})", c10::kFloat));
  const Settings without = named->description().settings.MergedWith(Parse(R"({"rms_norm": false})"));
  EIGSVC_EXPECT_OK(LoadModel(ArchiveOf(*named, without), {}, {}));
  for (const char* const norm : {"true", "false"}) {
    EIGSVC_ASSERT_OK_AND_ASSIGN(const Model model,
                                Initialize(absl::StrCat(R"({"rms_norm": )", norm, "}"), c10::kFloat));
    const Archive archive = ArchiveOf(*model, {});
    EIGSVC_EXPECT_OK(LoadModel(archive, Parse(R"({"ngroups": 1})"), {}));
    const std::string other = std::string(norm) == "true" ? "false" : "true";
    EXPECT_THAT(LoadModel(archive, Parse(absl::StrCat(R"({"ngroups": 1, "rms_norm": )", other, "}")), {}),
                StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("\"rms_norm\" is " + other)));
  }
}

TEST_F(Mamba2Test, ContradictorySettingsAreRefused) {
  const std::pair<const char*, const char*> cases[] = {
      {R"({"d_model": 10, "headdim": 16})", "headdim"},
      {R"({"num_heads": 3})", "num_heads"},
      {R"({"ngroups": 3})", "ngroups"},
      {R"({"gated_norm_groups": 7})", "gated_norm_groups"},
      {R"({"dt_limit": [1, 0.5]})", "dt_limit"},
      {R"({"dt_limit": 1})", "dt_limit"},
      {R"({"d_model": 0})", "d_model"},
      {R"({"expand": -1})", "expand"},
      {R"({"n_layer": 1000000})", "n_layer"},
      {R"({"d_ssm": 4096})", "d_ssm"},
      {R"({"norm_epsilon": -1})", "norm_epsilon"},
      {R"({"layout": "paper", "num_heads": 7})", "num_heads"},
      {R"({"layout": "paper", "num_heads": 4, "state_dim": 6, "pseudoLTI": true})", "channels of B"},
      {R"({"layout": "paper", "num_heads": 4, "ngroups": 2, "pseudoLTI": true})", "ngroups"},
      {R"({"layout": "paper", "dropout": 1})", "dropout"},
  };
  for (const auto& [json, named] : cases) {
    EXPECT_THAT(Initialize(json), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(named))) << json;
  }
  EXPECT_THAT(Initialize(R"({"layout": "safari"})"),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("state-spaces")));
}

TEST_F(Mamba2Test, ThePaperLayoutAsksForWhatItsWeightsDoNotTell) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Model model,
                              Initialize(R"({"layout": "paper", "prenorm": false})", c10::kFloat));
  const Archive bare = ArchiveOf(*model, {});
  EXPECT_THAT(LoadModel(bare, {}, {}), StatusIs(absl::StatusCode::kFailedPrecondition,
                                                AllOf(HasSubstr("prenorm"), HasSubstr("--config"))));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Model loaded, LoadModel(bare, Parse(R"({"prenorm": false})"), {}));
  EXPECT_EQ(loaded->description().settings.ToJson(), model->description().settings.ToJson());
  const std::pair<const char*, const char*> cases[] = {
      {R"({"prenorm": true, "pooling": "sum"})", "pooling"},
      {R"({"prenorm": true, "dual": true})", "dual"},
      {R"({"prenorm": true, "pseudoLTI": true})", "blocks.0.mamba.A"},
      {R"({"prenorm": true, "version": "mamba1"})", "version"},
      {R"({"prenorm": true, "norm": "batch"})", "norm"},
      {R"({"prenorm": true, "output_dim": 2})", "pooling"},
  };
  for (const auto& [json, named] : cases) {
    EXPECT_THAT(LoadModel(bare, Parse(json), {}),
                StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr(named)));
  }
}

}  // namespace
}  // namespace eigsvc
