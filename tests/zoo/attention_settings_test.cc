// What the attention families refuse, and what they read under several names.
#include <string>
#include <utility>
#include <vector>

#include "ATen/TensorOperators.h"
#include "ATen/core/grad_mode.h"
#include "ATen/ops/equal.h"
#include "ATen/ops/full.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "models/archive/archive.h"
#include "models/zoo/registry.h"
#include "tests/testing/paths.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/tensors.h"

namespace eigsvc {
namespace {

using ::testing::HasSubstr;
using testing::StatusIs;
using Model = std::shared_ptr<const SequenceModel>;

absl::StatusOr<Model> Fresh(const std::string& family, const std::string& settings) {
  return InitializeModel(**FindFamily(family), *Settings::Parse(settings, "a test's settings"), 1, {});
}

struct Refusal {
  std::string family, settings, message;
  absl::StatusCode code;
};
void PrintTo(const Refusal& refusal, std::ostream* out) { *out << refusal.family << " " << refusal.settings; }

class RefusedSettingsTest : public ::testing::TestWithParam<Refusal> {};

TEST_P(RefusedSettingsTest, AreNamed) {
  EXPECT_THAT(Fresh(GetParam().family, GetParam().settings),
              StatusIs(GetParam().code, HasSubstr(GetParam().message)));
}

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr auto kUnsupported = absl::StatusCode::kFailedPrecondition;
INSTANTIATE_TEST_SUITE_P(
    All, RefusedSettingsTest,
    ::testing::Values(
        Refusal{"llama", R"({"rope_scaling": {"rope_type": "mrope"}})", "\"mrope\"", kUnsupported},
        Refusal{"llama", R"({"rope_scaling": {"type": "linear"}})", "factor", kUnsupported},
        Refusal{"llama", R"({"rope_scaling": {"type": "linear", "factor": -1}})", "factor > 0", kInvalid},
        Refusal{"llama",
                R"({"rope_scaling": {"rope_type": "longrope", "long_factor": [1], "short_factor": [1]}})",
                "8 positive numbers", kInvalid},
        Refusal{"llama", R"({"partial_rotary_factor": 0.5})", "partial_rotary_factor", kUnsupported},
        Refusal{"llama", R"({"rope_parameters": {"full_attention": {"rope_theta": 1e4}}})", "full_attention",
                kUnsupported},
        Refusal{"olmo3", R"({"rope_parameters": {"rope_theta": 1e4}})", "sliding_attention", kUnsupported},
        Refusal{"mistral", R"({"sliding_window": 0})", "sliding_window", kInvalid},
        Refusal{"mistral", R"({"layer_types": ["full_attention", "full_attention"]})", "layer_types",
                kUnsupported},
        Refusal{"qwen2", R"({"layer_types": ["full_attention"]})", "layer_types", kInvalid},
        Refusal{"qwen2", R"({"layer_types": ["full_attention", "sliding_attention"]})", "no sliding_window",
                kUnsupported},
        Refusal{"qwen3", R"({"layer_types": ["full_attention", "linear_attention"]})", "\"linear_attention\"",
                kUnsupported},
        Refusal{"gemma2", R"({"use_bidirectional_attention": true})", "use_bidirectional_attention",
                kUnsupported},
        Refusal{"gemma2", R"({"query_pre_attn_scalar": 0})", "query_pre_attn_scalar", kInvalid},
        Refusal{"gemma2", R"({"attn_logit_softcapping": -1})", "attn_logit_softcapping", kInvalid},
        Refusal{"granite", R"({"logits_scaling": 0})", "logits_scaling", kInvalid},
        Refusal{"gpt_oss", R"({"num_local_experts": 4, "num_experts_per_tok": 5})", "num_experts_per_tok",
                kInvalid},
        Refusal{"transformer", R"({"attnres_block_size": 2})", "attnres_block_size", kUnsupported},
        Refusal{"transformer", R"({"hidden_act": "powlu"})", "\"powlu\"", kUnsupported},
        Refusal{"gpt_neox", R"({"rotary_pct": 0.1})", "rotated in pairs", kInvalid},
        Refusal{"gpt_neox", R"({"hidden_size": 65})", "65", kInvalid},
        Refusal{"zoology-transformer", R"({"layer_norm_epsilon": 1e-6})", "layer_norm_epsilon", kUnsupported},
        Refusal{"zoology-transformer", R"({"state_mixer": {"name": "MoE"}})", "\"MoE\"", kUnsupported},
        Refusal{"zoology-transformer", R"({"sequence_mixer": {"name": "zoology.mixers.based.Based"}})", "MHA",
                kUnsupported},
        Refusal{"llama", R"({"hidden_act": "mish"})", "hidden_act", kUnsupported},
        Refusal{"llama", R"({"head_dim": 7})", "7 dimensions", kInvalid},
        Refusal{"llama", R"({"num_attention_heads": 4, "num_key_value_heads": 3})",
                "\"num_key_value_heads\" = 3", kInvalid},
        Refusal{"llama", R"({"num_attention_heads": 4, "num_key_value_heads": 5})", "num_key_value_heads",
                kInvalid},
        Refusal{"llama", R"({"rope_theta": -5})", "rope_theta", kInvalid},
        Refusal{"llama", R"({"num_hidden_layers": 99999})", "num_hidden_layers", kInvalid},
        Refusal{"gpt2", R"({"n_embd": 65, "n_head": 4})", "65", kInvalid},
        Refusal{"gpt2", R"({"activation_function": "mish"})", "\"mish\"", kUnsupported},
        Refusal{"gpt2", R"({"n_layer": 0})", "n_layer", kInvalid},
        Refusal{"softmax-attention", R"({"num_heads": 5})", "\"num_heads\" = 5", kInvalid},
        Refusal{"softmax-attention", R"({"mixer": "moe"})", "\"moe\"", kUnsupported},
        Refusal{"softmax-attention", R"({"conv_type": "half"})", "\"half\"", kUnsupported},
        Refusal{"softmax-attention", R"({"dual": true})", "\"dual\"", kUnsupported},
        Refusal{"softmax-attention", R"({"norm": "batch"})", "\"batch\"", kUnsupported},
        Refusal{"softmax-attention", R"({"classifier": true, "pooling": "last"})", "\"last\"", kUnsupported},
        Refusal{"softmax-attention", R"({"dropout": 1})", "\"dropout\"", kInvalid},
        Refusal{"softmax-attention", R"({"norm_fn": "exp"})", "norm_fn", kInvalid},
        Refusal{"linear-attention", R"({"att_dropout": -0.5})", "\"att_dropout\"", kInvalid},
        Refusal{"linear-attention", R"({"layout": "ssm-benchmark", "use_gate": true})", "use_gate", kInvalid},
        Refusal{"linear-attention", R"({"layout": "zoology"})", "\"zoology\"", absl::StatusCode::kNotFound},
        Refusal{"norm-attention", R"({"norm_fn": "tanh"})", "\"tanh\"", kUnsupported},
        Refusal{"norm-attention", R"({"layout": "ssm-benchmark", "norm_fn": "elu"})", "\"elu\"",
                kUnsupported},
        Refusal{"norm-attention", R"({"approx_fn": "relu"})", "\"relu\"", kUnsupported},
        Refusal{"norm-attention", R"({"offset_init": "zero"})", "\"zero\"", kUnsupported},
        Refusal{"norm-attention", R"({"mode": "hybrid"})", "\"hybrid\"", kUnsupported}));

// A checkpoint in memory: the model's tensors under its own keys, with the settings given instead of its own.
Archive InMemory(const SequenceModel& model, const std::string& settings,
                 const std::string& drop_prefix = "") {
  absl::btree_map<std::string, ArchiveTensor> tensors;
  for (const WeightSpec& spec : model.plan()) {
    if (!spec.tied_to.empty()) continue;
    const Weights& place =
        spec.layer == WeightSpec::kOuter ? model.weights().outer : model.weights().layers[spec.layer];
    const auto kept = std::make_shared<at::Tensor>(
        (spec.transposed ? place[spec.name].t() : place[spec.name]).contiguous());
    ArchiveTensor tensor;
    tensor.shape = kept->sizes().vec();
    tensor.strides = kept->strides().vec();
    tensor.storage = {static_cast<const std::byte*>(kept->const_data_ptr()), kept->nbytes()};
    tensor.owner = kept;
    const bool drop = spec.key.rfind(drop_prefix, 0) == 0;
    tensors[drop ? spec.key.substr(drop_prefix.size()) : spec.key] = std::move(tensor);
  }
  return Archive(std::move(tensors), *Settings::Parse(settings, "config.json"), "model");
}

// Shapes decide these, so a wrong setting would go unnoticed.
TEST(ContradictingSettingsTest, AreErrorsThatNameBoth) {
  struct Case {
    std::string family, fresh, wrong, stated, stored;
  };
  const Case cases[] = {
      {"llama", R"({"intermediate_size": 48})", R"({"intermediate_size": 50})", "50", "48"},
      {"llama", R"({"layout": "meta", "hidden_dim": 48})", R"({"hidden_dim": 50})", "50", "48"},
      {"llama", R"({"vocab_size": 40})", R"({"vocab_size": 41})", "41", "40"},
      {"gpt2", R"({"vocab_size": 40})", R"({"vocab_size": 39})", "39", "40"},
      {"mamba2", R"({"vocab_size": 640})", R"({"vocab_size": 100})", "100", "640"}};
  for (const Case& c : cases) {
    EIGSVC_ASSERT_OK_AND_ASSIGN(const Model model, Fresh(c.family, c.fresh));
    const Settings all = model->description().settings.MergedWith(*Settings::Parse(c.wrong, "config.json"));
    EXPECT_THAT(
        LoadModel(InMemory(*model, all.ToJson()), {}, {}),
        StatusIs(absl::StatusCode::kFailedPrecondition,
                 ::testing::AllOf(HasSubstr("config.json"), HasSubstr(c.stated), HasSubstr(c.stored))))
        << c.family << " " << c.wrong;
  }
  // Padding is no contradiction, nor is Meta's "the tokenizer knows".
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Model padded, Fresh("mamba2", R"({"vocab_size": 640})"));
  const Settings smaller = padded->description().settings.MergedWith(
      *Settings::Parse(R"({"vocab_size": 630, "pad_vocab_size_multiple": null})", "config.json"));
  EIGSVC_EXPECT_OK(LoadModel(InMemory(*padded, smaller.ToJson()), {}, {}));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Model meta, Fresh("llama", R"({"layout": "meta"})"));
  Settings untold = meta->description().settings;
  untold.Set("vocab_size", int64_t{-1});
  EIGSVC_EXPECT_OK(LoadModel(InMemory(*meta, untold.ToJson()), {}, {}));
}

at::Tensor Logits(const SequenceModel& model) {
  Random random({1});
  return *model.Forward(model.weights(), testing::RandomTokens(random, 1, 9, 64));
}

TEST(AttentionSettingsTest, LlamaNeedsTheNumberOfHeads) {
  const at::NoGradGuard no_grad;
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Model model, Fresh("llama", "{}"));
  const std::string untold = R"({"model_type": "llama"})";
  EXPECT_THAT(LoadModel(InMemory(*model, untold), {}, {}),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("n_heads")));
  Settings heads;
  heads.Set("num_attention_heads", int64_t{4});
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Model loaded, LoadModel(InMemory(*model, untold), heads, {}));
  EXPECT_TRUE(at::equal(Logits(*loaded), Logits(*model)));
}

TEST(AttentionSettingsTest, WeightsOfMetasWithoutTheirParametersAreNotRunByDefaults) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Model model, Fresh("llama", R"({"layout": "meta"})"));
  const auto load = [&](const std::string& stored, const std::string& typed) {
    return LoadModel(InMemory(*model, stored), *Settings::Parse(typed, "--config"), {});
  };
  EXPECT_THAT(load("{}", R"({"n_heads": 4})"),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       AllOf(HasSubstr("rope_theta and norm_eps"), HasSubstr("params.json"))));
  EIGSVC_EXPECT_OK(load("{}", R"({"n_heads": 4, "rope_theta": 500000, "norm_eps": 1e-5})"));
  EIGSVC_EXPECT_OK(
      load(R"({"dim": 64, "n_layers": 2, "n_heads": 4})", "{}"));  // Llama 1's and 2's say no base
}

// Llama 2's rotary base is 10 000, Llama 3's 500 000, and the keys of both are the same.
TEST(AttentionSettingsTest, WeightsWithoutAConfigurationAreNotRunByDefaults) {
  const at::NoGradGuard no_grad;
  for (const char* const family : {"llama", "qwen3", "olmo2"}) {
    SCOPED_TRACE(family);
    EIGSVC_ASSERT_OK_AND_ASSIGN(const Model model, Fresh(family, "{}"));
    const auto load = [&](const std::string& typed) {
      return LoadModel(InMemory(*model, "{}"), *Settings::Parse(typed, "--config"), {});
    };
    EXPECT_THAT(load("{}"),
                StatusIs(absl::StatusCode::kFailedPrecondition,
                         AllOf(HasSubstr("rope_theta and rms_norm_eps"), HasSubstr("config.json"))));
    EXPECT_THAT(load(R"({"num_attention_heads": 4, "rope_theta": 300})"),
                StatusIs(absl::StatusCode::kFailedPrecondition,
                         HasSubstr("no configuration says the rms_norm_eps of")));
    EIGSVC_ASSERT_OK_AND_ASSIGN(
        const Model stated, load(R"({"num_attention_heads": 4, "rope_theta": 300, "rms_norm_eps": 1e-5})"));
    EIGSVC_ASSERT_OK_AND_ASSIGN(
        const Model typed,
        load(absl::StrCat(R"({"num_attention_heads": 4, "model_type": ")", family, "\"}")));
    EXPECT_TRUE(at::equal(Logits(*typed), Logits(*model)));
    EXPECT_GT(testing::MaxDifference(Logits(*stated), Logits(*model)), 1e-6);
  }
}

TEST(AttentionSettingsTest, RotaryScalingIsReadFromOldAndNewSettings) {
  const at::NoGradGuard no_grad;
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Model plain, Fresh("llama", "{}"));
  const auto load = [&](const std::string& rotary) {
    return LoadModel(
        InMemory(*plain, absl::StrCat(R"({"model_type": "llama", "num_attention_heads": 4, )", rotary, "}")),
        {}, {});
  };
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Model old_style,
                              load(R"("rope_theta": 300, "rope_scaling": {"type": "linear", "factor": 3})"));
  EIGSVC_ASSERT_OK_AND_ASSIGN(
      const Model new_style,
      load(R"("rope_parameters": {"rope_type": "linear", "factor": 3.0, "rope_theta": 300})"));
  EXPECT_TRUE(at::equal(Logits(*old_style), Logits(*new_style)));
  EXPECT_GT(testing::MaxDifference(Logits(*old_style), Logits(*plain)), 1e-6);
  EXPECT_THAT(load(R"("use_scaled_rope": true)"),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("rope_scaling")));
}

// As its configuration class has it; whoever states any rotary parameter states all of them.
TEST(AttentionSettingsTest, GptOssWithoutRotaryParametersHasAStretchedContext) {
  for (const auto& [settings, type] : std::vector<std::pair<std::string, std::string>>{
           {"{}", "yarn"},
           {R"({"rope_theta": 300, "rope_scaling": null})", "yarn"},
           {R"({"rope_parameters": null, "rope_scaling": {}})", "yarn"},
           {R"({"rope_parameters": {"rope_theta": 300}})", "default"},
           {R"({"rope_scaling": {"rope_type": "linear", "factor": 2}})", "linear"}}) {
    SCOPED_TRACE(settings);
    EIGSVC_ASSERT_OK_AND_ASSIGN(const Model model, Fresh("gpt_oss", settings));
    const Settings& resolved = model->description().settings;
    EXPECT_EQ(*resolved.Text("rope_parameters.rope_type"), type);
    if (type != "yarn") continue;
    EXPECT_EQ(*resolved.Real("rope_parameters.factor"), 32);
    EXPECT_EQ(*resolved.Real("rope_parameters.original_max_position_embeddings"), 4096);
    EXPECT_FALSE(*resolved.Bool("rope_parameters.truncate"));
  }
}

TEST(AttentionSettingsTest, Gpt2FilesWithoutPrefixAndWithOldMasksLoad) {
  const at::NoGradGuard no_grad;
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Model model, Fresh("gpt2", R"({"n_positions": 16})"));
  const Archive bare = InMemory(*model, R"({"n_head": 4})", "transformer.");
  auto tensors = bare.tensors();
  const ArchiveTensor positions = tensors.at("wpe.weight"), norm = tensors.at("ln_f.weight");
  tensors["h.0.attn.bias"] = positions;
  tensors["h.1.attn.bias"] = positions;
  tensors["h.0.attn.masked_bias"] = norm;
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Model loaded,
                              LoadModel(Archive(tensors, bare.settings(), "model"), {}, {}));
  EXPECT_TRUE(at::equal(Logits(*loaded), Logits(*model)));
  EXPECT_EQ(loaded->description().max_positions, 16);
}

TEST(AttentionSettingsTest, SequencesBeyondTheLearnedPositionsAreRefused) {
  const at::NoGradGuard no_grad;
  Random random({1});
  const at::Tensor tokens = testing::RandomTokens(random, 1, 9, 64);
  for (const auto& [family, settings] : std::vector<std::pair<std::string, std::string>>{
           {"gpt2", R"({"n_positions": 8})"}, {"softmax-attention", R"({"max_pos_embed": 8})"}}) {
    EIGSVC_ASSERT_OK_AND_ASSIGN(const Model model, Fresh(family, settings));
    EXPECT_THAT(model->Forward(model->weights(), tokens), StatusIs(kInvalid, HasSubstr("truncate")));
  }
}

TEST(AttentionSettingsTest, SoftmaxAndLinearAttentionAreToldApartBySettings) {
  const at::NoGradGuard no_grad;
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Model model, Fresh("linear-attention", "{}"));
  EXPECT_THAT(LoadModel(InMemory(*model, R"({"num_heads": 1})"), {}, {}),
              StatusIs(kUnsupported, HasSubstr("attention_fn")));
  EIGSVC_ASSERT_OK_AND_ASSIGN(
      const Model linear,
      LoadModel(InMemory(*model, R"({"num_heads": 1, "attention_fn": "lin-attention"})"), {}, {}));
  EXPECT_EQ(linear->description().family, "linear-attention");
  EXPECT_TRUE(at::equal(Logits(*linear), Logits(*model)));
  EIGSVC_ASSERT_OK_AND_ASSIGN(
      const Model softmax,
      LoadModel(InMemory(*model, R"({"num_heads": 1, "attention_fn": "sm-attention"})"), {}, {}));
  EXPECT_EQ(softmax->description().family, "softmax-attention");
  EXPECT_THAT(LoadModel(InMemory(*model, R"({"num_heads": 1, "attention_fn": "norm-attention"})"), {}, {}),
              StatusIs(kUnsupported, HasSubstr("norm-attention")));
}

// zoology's attention over windows and its sparse ones have MHA's keys and shapes.
TEST(AttentionSettingsTest, ZoologysMixerIsAskedFor) {
  const at::NoGradGuard no_grad;
  EIGSVC_ASSERT_OK_AND_ASSIGN(
      const Model model, Fresh("zoology-transformer", R"({"sequence_mixer": {"kwargs": {"num_heads": 2}}})"));
  for (const auto& [settings, named] : std::vector<std::pair<std::string, std::string>>{
           {"{}", "sequence_mixer.name"},
           {R"({"num_heads": 2})", "sequence_mixer.name"},
           {R"({"sequence_mixer": {"kwargs": {"num_heads": 2}}})", "sequence_mixer.name"},
           {R"({"sequence_mixer": {"name": "zoology.mixers.slide_attn.SlidingAttn", "kwargs": {}}})",
            "SlidingAttn"},
           {R"({"sequence_mixer": {"name": "MHA"}})", "num_heads"}}) {
    EXPECT_THAT(LoadModel(InMemory(*model, settings), {}, {}), StatusIs(kUnsupported, HasSubstr(named)))
        << settings;
  }
  EIGSVC_ASSERT_OK_AND_ASSIGN(
      const Model loaded,
      LoadModel(InMemory(*model, R"({"sequence_mixer": {"name": "MHA", "kwargs": {"num_heads": 2}}})"), {},
                {}));
  EXPECT_TRUE(at::equal(Logits(*loaded), Logits(*model)));
}

TEST(AttentionSettingsTest, WhatTheWeightsOfNormAttentionDoNotTellIsAskedFor) {
  const at::NoGradGuard no_grad;
  EIGSVC_ASSERT_OK_AND_ASSIGN(
      const Model model,
      Fresh("norm-attention", R"({"num_heads": 2, "norm_fn": "exp", "classifier": true})"));
  std::string settings = R"({"num_heads": 2)";
  for (const auto& [name, value] :
       std::vector<std::pair<std::string, std::string>>{{"norm_fn", R"("exp")"},
                                                        {"approx_fn", R"("elu")"},
                                                        {"scale_B", "true"},
                                                        {"pooling", R"("mean")"}}) {
    EXPECT_THAT(LoadModel(InMemory(*model, settings + "}"), {}, {}), StatusIs(kUnsupported, HasSubstr(name)));
    absl::StrAppend(&settings, ", \"", name, "\": ", value);
  }
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Model loaded, LoadModel(InMemory(*model, settings + "}"), {}, {}));
  EXPECT_TRUE(at::equal(Logits(*loaded), Logits(*model)));
}

TEST(StackTest, RealInputsAreTakenByModelsOfRealInputsOnly) {
  const at::NoGradGuard no_grad;
  Random random({2});
  const at::Tensor tokens = testing::RandomTokens(random, 1, 9, 64);
  const at::Tensor values = testing::NormalTensor(random, {1, 9, 3});
  EIGSVC_ASSERT_OK_AND_ASSIGN(
      const Model real, Fresh("norm-attention", R"({"embedding": false, "input_dim": 3, "output_dim": 5})"));
  EXPECT_EQ(real->description().channels, 3);
  EXPECT_EQ(real->description().classes, 5);
  EIGSVC_ASSERT_OK_AND_ASSIGN(const at::Tensor logits, real->Forward(real->weights(), values));
  EXPECT_EQ(logits.sizes(), at::IntArrayRef({1, 9, 5}));
  EXPECT_THAT(real->Forward(real->weights(), tokens), StatusIs(kInvalid, HasSubstr("3 real numbers")));
  EXPECT_THAT(real->Forward(real->weights(), values.narrow(2, 0, 2)),
              StatusIs(kInvalid, HasSubstr("have 2")));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Model words, Fresh("norm-attention", "{}"));
  EXPECT_THAT(words->Forward(words->weights(), values), StatusIs(kInvalid, HasSubstr("takes tokens")));
}

// Padding changes nothing: a row of a padded batch is answered as by itself.
TEST(StackTest, PoolingLooksAtRealStepsOnly) {
  const at::NoGradGuard no_grad;
  Random random({3});
  const at::Tensor tokens = testing::RandomTokens(random, 2, 12, 64);
  const at::Tensor lengths = at::full({2}, 12, at::TensorOptions(at::kLong));
  lengths[1] = 7;
  for (const std::string pooling : {"mean", "max", "sum", "cls"}) {
    SCOPED_TRACE(pooling);
    EIGSVC_ASSERT_OK_AND_ASSIGN(
        const Model model,
        Fresh("softmax-attention", absl::StrCat(R"({"classifier": true, "pooling": ")", pooling, "\"}")));
    EXPECT_EQ(model->description().pooling, pooling);
    at::Tensor x = *model->Embed(model->weights(), tokens, 0);
    for (size_t i = 0; i < model->weights().layers.size(); ++i) {
      x = *model->Layer(static_cast<int>(i), model->weights().layers[i], x, nullptr, {});
    }
    EIGSVC_ASSERT_OK_AND_ASSIGN(const at::Tensor pooled, model->Pool(model->weights(), x, lengths));
    EIGSVC_ASSERT_OK_AND_ASSIGN(const at::Tensor logits, model->Head(model->weights(), pooled));
    ASSERT_EQ(logits.sizes(), at::IntArrayRef({2, 1, 10}));
    EIGSVC_ASSERT_OK_AND_ASSIGN(const at::Tensor alone,
                                model->Forward(model->weights(), tokens.narrow(0, 1, 1).narrow(1, 0, 7)));
    EXPECT_LE(testing::MaxDifference(logits.narrow(0, 1, 1), alone), 1e-5);
  }
}

}  // namespace
}  // namespace eigsvc
