// What the hybrids and recurrent families refuse, and what they read from where.
#include <unistd.h>

#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "ATen/core/grad_mode.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "models/archive/archive.h"
#include "models/zoo/registry.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/tensors.h"
#include "tests/testing/tiny_models.h"

namespace eigsvc {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::StatusIs;
using Model = std::shared_ptr<const SequenceModel>;

absl::StatusOr<Model> Initialize(const char* family, const std::string& json) {
  return InitializeModel(**FindFamily(family), *Settings::Parse(json, "a test's settings"), 1, {});
}

Archive Saved(const SequenceModel& model, const Settings& settings) {
  const std::string path = ::testing::TempDir() + absl::StrCat("eigsvc_hybrid_", getpid(), ".safetensors");
  EXPECT_THAT(SaveModel(model, model.weights(), {}, path), testing::IsOk());
  const Archive archive = *Archive::Open(path);
  std::remove(path.c_str());
  return Archive(archive.tensors(), settings, "model.safetensors");
}

struct Refusal {
  const char *family, *json, *named;
};
void PrintTo(const Refusal& refusal, std::ostream* out) { *out << refusal.family << " " << refusal.json; }

class RefusalTest : public ::testing::TestWithParam<Refusal> {};

TEST_P(RefusalTest, NamesTheSetting) {
  const absl::Status status = Initialize(GetParam().family, GetParam().json).status();
  EXPECT_FALSE(status.ok());
  EXPECT_THAT(std::string(status.message()), HasSubstr(GetParam().named));
}

INSTANTIATE_TEST_SUITE_P(
    Families, RefusalTest,
    ::testing::Values(
        Refusal{"mamba", R"({"hidden_act": "relu"})", "hidden_act"},
        Refusal{"mamba", R"({"dt_rank": "some"})", "dt_rank"},
        Refusal{"mamba", R"({"layout": "jax"})", "state-spaces"},
        Refusal{"mamba", R"({"ssm_cfg": {"layer": "Mamba2"}})", "Mamba2"},
        Refusal{"mamba2", R"({"attn_layer_idx": [2]})", "attn_layer_idx"},
        Refusal{"mamba2", R"({"attn_layer_idx": [0, 1]})", "attn_layer_idx"},
        Refusal{"mamba2", R"({"attn_layer_idx": [1], "attn_cfg": {"causal": false}})", "attn_cfg.causal"},
        Refusal{"mamba2", R"({"attn_layer_idx": [1], "attn_cfg": {"d_conv": 1}})", "attn_cfg.d_conv"},
        Refusal{"mamba2", R"({"attn_layer_idx": [1], "attn_cfg": {"num_heads_kv": 3}})",
                "attn_cfg.num_heads_kv"},
        Refusal{"mamba2", R"({"attn_layer_idx": [1], "attn_cfg": {"num_heads": 5}})", "attn_cfg.num_heads"},
        Refusal{"mamba2", R"({"attn_layer_idx": [1], "attn_cfg": {"head_dim": 0}})", "attn_cfg.head_dim"},
        Refusal{"mamba2", R"({"attn_layer_idx": [1], "attn_cfg": {"rotary_emb_dim": 3}})",
                "attn_cfg.rotary_emb_dim"},
        Refusal{"mamba2", R"({"attn_layer_idx": [1], "attn_cfg": {"rotary_emb_dim": 18}})",
                "attn_cfg.rotary_emb_dim"},
        Refusal{"mamba2", R"({"attn_layer_idx": [1], "attn_cfg": {"softmax_scale": 0}})",
                "attn_cfg.softmax_scale"},
        Refusal{"mamba2", R"({"attn_layer_idx": [1], "attn_cfg": {"window_size": 8}})",
                "attn_cfg.window_size"},
        Refusal{"mamba2", R"({"attn_layer_idx": [1], "attn_cfg": 4})", "attn_cfg"},
        Refusal{"mamba2", R"({"layout": "huggingface", "attn_layer_idx": [1]})", "attn_layer_idx"},
        Refusal{"mamba", R"({"layout": "fla", "d_intermediate": 64})", "d_intermediate"},
        Refusal{"falcon-mamba", R"({"mixer_rms_epsilon": 1})", "mixer_rms_epsilon"},
        Refusal{"jamba", R"({"attn_layer_period": 2, "attn_layer_offset": 2})", "attn_layer_offset"},
        Refusal{"jamba", R"({"num_experts": 2, "num_experts_per_tok": 3})", "num_experts_per_tok"},
        Refusal{"jamba", R"({"hidden_act": "gelu"})", "hidden_act"},
        Refusal{"jamba", R"({"num_attention_heads": 4, "num_key_value_heads": 3})", "num_key_value_heads"},
        Refusal{"bamba", R"({"hidden_act": "gelu"})", "hidden_act"},
        Refusal{"bamba", R"({"mamba_n_heads": 3})", "mamba_n_heads"},
        Refusal{"bamba", R"({"rope_parameters": {"rope_type": "yarn", "factor": 2}})", "yarn"},
        Refusal{"bamba", R"({"time_step_limit": [1, 0]})", "time_step_limit"},
        Refusal{"bamba", R"({"time_step_limit": [1]})", "time_step_limit"},
        Refusal{"granite-hybrid", R"({"hidden_act": "gelu"})", "hidden_act"},
        Refusal{"granite-hybrid", R"({"layer_types": ["mamba", "conv", "mamba"]})", "conv"},
        Refusal{"granite-hybrid", R"({"layer_types": ["mamba"], "num_hidden_layers": 2})", "layer_types"},
        Refusal{"granite-hybrid", R"({"position_embedding_type": "alibi"})", "alibi"},
        Refusal{"granite-hybrid", R"({"logits_scaling": 0})", "logits_scaling"},
        Refusal{"falcon-h1", R"({"hidden_act": "relu"})", "hidden_act"},
        Refusal{"falcon-h1", R"({"ssm_multipliers": [1, 2]})", "ssm_multipliers"},
        Refusal{"falcon-h1", R"({"mlp_multipliers": [1]})", "mlp_multipliers"},
        Refusal{"falcon-h1", R"({"key_multiplier": 0})", "key_multiplier"},
        Refusal{"nemotron-h", R"({"hybrid_override_pattern": "MX"})", "X"},
        Refusal{"nemotron-h", R"({"n_group": 3})", "n_group"},
        Refusal{"nemotron-h", R"({"moe_latent_size": 8})", "moe_latent_size"},
        Refusal{"nemotron-h", R"({"mamba_hidden_act": "gelu"})", "mamba_hidden_act"},
        Refusal{"nemotron-h", R"({"mlp_hidden_act": "swoosh"})", "mlp_hidden_act"},
        Refusal{"qwen3_next", R"({"hidden_act": "gelu"})", "hidden_act"},
        Refusal{"qwen3_next", R"({"layer_types": ["linear_attention", "mamba"]})", "mamba"},
        Refusal{"qwen3_next", R"({"layer_types": ["linear_attention"]})", "layer_types"},
        Refusal{"qwen3_next", R"({"linear_num_key_heads": 2, "linear_num_value_heads": 3})",
                "linear_num_value_heads"},
        Refusal{"qwen3_next", R"({"num_experts": 2, "num_experts_per_tok": 3})", "num_experts_per_tok"},
        Refusal{"qwen3_next", R"({"partial_rotary_factor": 0.1})", "partial_rotary_factor"},
        Refusal{"qwen3_next", R"({"rope_scaling": {"rope_type": "spiral"}})", "spiral"},
        Refusal{"qwen3_next", R"({"full_attention_interval": 0})", "full_attention_interval"},
        Refusal{"qwen3_next", R"({"linear_key_dim": 8})", "linear_key_dim"},
        Refusal{"kimi_linear", R"({"hidden_act": "situ"})", "hidden_act"},
        Refusal{"kimi_linear", R"({"layer_types": ["linear_attention", "mamba"]})", "mamba"},
        Refusal{"kimi_linear", R"({"mlp_layer_types": ["dense", "sparse"]})", "mlp_layer_types"},
        Refusal{"kimi_linear",
                R"({"linear_attn_config": {"kda_layers": [1, 2, 3], "full_attn_layers": [3]}})",
                "full_attn_layers"},
        Refusal{"kimi_linear",
                R"({"linear_attn_config": {"kda_layers": [0, 1, 2], "full_attn_layers": [3]}})",
                "kda_layers"},
        Refusal{"kimi_linear", R"({"linear_num_heads": 2, "linear_attn_config": {"num_heads": 3}})",
                "linear_attn_config.num_heads"},
        Refusal{"kimi_linear", R"({"linear_attn_config": {"gate_lower_bound": -5}})", "gate_lower_bound"},
        Refusal{"kimi_linear", R"({"linear_attn_config": {"use_full_rank_gate": true}})",
                "use_full_rank_gate"},
        Refusal{"kimi_linear", R"({"attn_res_block_size": 3})", "attn_res_block_size"},
        Refusal{"kimi_linear", R"({"routed_expert_hidden_size": 8})", "routed_expert_hidden_size"},
        Refusal{"kimi_linear", R"({"mla_use_output_gate": true})", "mla_use_output_gate"},
        Refusal{"kimi_linear", R"({"mla_use_nope": false})", "mla_use_nope"},
        Refusal{"kimi_linear", R"({"num_key_value_heads": 2})", "num_key_value_heads"},
        Refusal{"kimi_linear", R"({"q_lora_rank": 0})", "q_lora_rank"},
        Refusal{"kimi_linear", R"({"moe_router_activation_func": "softmax"})", "moe_router_activation_func"},
        Refusal{"kimi_linear", R"({"topk_method": "greedy"})", "topk_method"},
        Refusal{"kimi_linear", R"({"num_experts": 2, "num_experts_per_token": 3})", "num_experts_per_token"},
        Refusal{"kimi_linear", R"({"num_experts_per_token": 1})", "moe_renormalize"},
        Refusal{"kimi_linear", R"({"num_expert_group": 3})", "num_expert_group"},
        Refusal{"kimi_linear", R"({"num_expert_group": 2, "use_grouped_topk": false})", "use_grouped_topk"},
        Refusal{"kimi_linear", R"({"num_shared_experts": -1})", "num_shared_experts"},
        Refusal{"kimi_linear", R"({"layout": "fla"})", "moonshot"},
        Refusal{"kimi_linear", R"({"linear_key_dim": 8})", "linear_key_dim"},
        Refusal{"qwen3_5", R"({"mlp_only_layers": [0]})", "mlp_only_layers"},
        Refusal{"qwen3_5", R"({"decoder_sparse_step": 2})", "decoder_sparse_step"},
        Refusal{"qwen3_5", R"({"text_config": {"hidden_size": 512}})", "text_config"},
        Refusal{"qwen3_5", R"({"norm_topk_prob": false})", "norm_topk_prob"},
        Refusal{"qwen3_5", R"({"attn_output_gate": false})", "attn_output_gate"},
        Refusal{"qwen3_5", R"({"num_experts": 2, "num_experts_per_tok": 3})", "num_experts_per_tok"},
        Refusal{"qwen3_5", R"({"rope_parameters": {"rope_type": "mrope"}})", "mrope"},
        Refusal{"qwen3_5", R"({"linear_key_dim": 8})", "linear_key_dim"},
        Refusal{"lfm2", R"({"layer_types": ["conv", "mamba", "conv"]})", "mamba"},
        Refusal{"lfm2", R"({"layer_types": ["conv"]})", "layer_types"},
        Refusal{"lfm2", R"({"full_attn_idxs": [9]})", "full_attn_idxs"},
        Refusal{
            "lfm2",
            R"({"full_attn_idxs": [0], "layer_types": ["conv", "full_attention"], "num_hidden_layers": 2})",
            "full_attn_idxs"},
        Refusal{"lfm2", R"({"theta": 500, "rope_theta": 600})", "theta"},
        Refusal{"lfm2", R"({"block_use_swiglu": false})", "block_use_swiglu"},
        Refusal{"lfm2", R"({"use_pos_enc": false})", "use_pos_enc"},
        Refusal{"lfm2", R"({"block_ffn_dim_multiplier": 0})", "block_ffn_dim_multiplier"},
        Refusal{"lfm2", R"({"intermediate_size": 96, "block_ff_dim": 90})", "block_ff_dim"},
        Refusal{"lfm2", R"({"num_experts": 2, "num_experts_per_tok": 3})", "num_experts_per_tok"},
        Refusal{"lfm2", R"({"conv_L_cache": 0})", "conv_L_cache"},
        Refusal{"lfm2", R"({"hidden_act": "gelu"})", "hidden_act"},
        Refusal{"zamba2", R"({"use_long_context": true})", "use_long_context"},
        Refusal{"zamba2", R"({"layers_block_type": ["mamba", "attention", "mamba", "hybrid"]})", "attention"},
        Refusal{"zamba2", R"({"n_mamba_heads": 3})", "n_mamba_heads"},
        Refusal{"based", R"({"prenorm": false})", "prenorm"},
        Refusal{"based", R"({"parallel_block": true})", "parallel_block"},
        Refusal{"based", R"({"mlp_fc2_bias": false})", "mlp_fc2_bias"},
        Refusal{"based", R"({"mixer": {"_target_": "based.models.mixers.hyena.Hyena"}})", "Hyena"},
        Refusal{"based", R"({"alt_mixer": {"parallel_implementation": "tk"}})", "parallel_implementation"},
        Refusal{"based", R"({"alt_mixer": {"feature_map": {"_target_": "PosELU"}}})", "PosELU"},
        Refusal{"based", R"({"n_head": 5})", "n_head"},
        Refusal{"based", R"({"rotary_emb_scale_base": 512})", "rotary_emb_scale_base"},
        Refusal{"retnet", R"({"attn": [{"layers": [1], "num_heads": 2}]})", "\"attn\""},
        Refusal{"retnet", R"({"attn": {"layers": [1], "num_heads": 2, "window_size": 0}})",
                "attn.window_size"},
        Refusal{"linear_attn", R"({"feature_map": "cosine"})", "feature_map"},
        Refusal{"linear_attn", R"({"norm_feature_map": true})", "norm_feature_map"},
        Refusal{"linear_attn", R"({"tie_feature_map_qk": true})", "tie_feature_map_qk"},
        Refusal{"s4", R"({"layout": "state-spaces", "activation": "relu"})", "activation"},
        Refusal{"s4d", R"({"model": {"layer": {"mult_act": "gelu"}}})", "mult_act"},
        Refusal{"s4d", R"({"model": {"residual": "H"}})", "residual"},
        Refusal{"min-gru", R"({"expansion": -1})", "expansion"},
        Refusal{"min-gru", R"({"expansion": 2, "proj_out": false})", "proj_out"},
        Refusal{"min-lstm", R"({"hidden_size": 8})", "hidden_size"},
        Refusal{"lstm", R"({"tie_weights": true, "hidden_size": 8, "embedding_size": 6})", "embedding_size"},
        Refusal{"gru", R"({"num_layers": 0})", "num_layers"},
        Refusal{"rnn", R"({"nonlinearity": "sin"})", "sin"}));

TEST(HybridSettingsTest, TheShapesOfAStateDictSayWhatItsSettingsDoNot) {
  const std::pair<const char*, const char*> cases[] = {
      {"min-gru", R"({"dim": 24, "expansion": 1.5, "ff_hidden": 20, "depth": 3, "enable_conv": true})"},
      {"min-lstm", R"({"dim": 16, "expansion": 1})"},
      {"lstm", R"({"embedding_size": 6, "hidden_size": 9, "num_layers": 3, "bias": false})"},
      {"gru", R"({"embedding_size": 6, "hidden_size": 6, "tie_weights": true, "head_bias": false})"},
      {"mamba", R"({"d_model": 24, "d_state": 3, "dt_rank": 5, "bias": true, "tie_embeddings": false})"},
  };
  for (const auto& [family, json] : cases) {
    SCOPED_TRACE(family);
    EIGSVC_ASSERT_OK_AND_ASSIGN(const Model model, Initialize(family, json));
    const Settings said = std::string(family) == "mamba"
                              ? *Settings::Parse(R"({"tie_embeddings": false})", "--config")
                              : Settings();
    EIGSVC_ASSERT_OK_AND_ASSIGN(const Model loaded, LoadModel(Saved(*model, {}), said, {}));
    EXPECT_EQ(loaded->description().family, family);
    EXPECT_EQ(loaded->description().settings.ToJson(), model->description().settings.ToJson());
  }
}

TEST(HybridSettingsTest, TheShapesOfAttentionSayWhatAConfigurationDoesNot) {
  for (const char* family : {"jamba", "falcon-h1", "qwen3_next", "qwen3_5", "lfm2"}) {
    SCOPED_TRACE(family);
    EIGSVC_ASSERT_OK_AND_ASSIGN(
        const Model model,
        Initialize(family, R"({"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 24})"));
    const auto load = [&](const std::string& changed) {
      const Settings over = *Settings::Parse(changed, "config.json");
      return LoadModel(Saved(*model, model->description().settings.MergedWith(over)), {}, {});
    };
    EIGSVC_ASSERT_OK_AND_ASSIGN(const Model loaded,
                                load(R"({"num_key_value_heads": null, "head_dim": null})"));
    EXPECT_EQ(loaded->description().settings.ToJson(), model->description().settings.ToJson());
    for (const char* wrong : {"num_key_value_heads", "head_dim", "num_attention_heads"}) {
      EXPECT_THAT(load(absl::StrCat("{\"", wrong, "\": 8}")),
                  StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr(wrong)));
    }
  }
}

TEST(HybridSettingsTest, TheKeysSayWhichLayersAttend) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(
      const Model mamba,
      Initialize("mamba2", R"({"n_layer": 3, "attn_layer_idx": [0, 2], "d_intermediate": 100,
                               "attn_cfg": {"causal": true, "num_heads": 2, "mlp_dim": 8, "d_conv": 4}})"));
  const auto load = [&](const SequenceModel& model, const std::string& changed) {
    const Settings over = *Settings::Parse(changed, "config.json");
    return LoadModel(Saved(model, model.description().settings.MergedWith(over)), {}, {});
  };
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Model silent,
                              load(*mamba, R"({"attn_layer_idx": null, "d_intermediate": null})"));
  EXPECT_THAT(*silent->description().settings.Ints("attn_layer_idx"), ElementsAre(0, 2));
  for (const char* wrong : {R"({"attn_layer_idx": [0]})", R"({"attn_layer_idx": [0, 1, 2]})",
                            R"({"d_intermediate": 0})", R"({"d_intermediate": 129})",
                            R"({"attn_cfg": {"num_heads": null}})", R"({"attn_cfg": {"causal": null}})"}) {
    const std::string setting = Settings::Parse(wrong, "")->Keys()[0];
    EXPECT_THAT(load(*mamba, wrong), StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr(setting)));
  }
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Model lfm2,
                              Initialize("lfm2", R"({"full_attn_idxs": [0], "num_hidden_layers": 3})"));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Model told,
                              load(*lfm2, R"({"layer_types": null, "full_attn_idxs": null})"));
  EXPECT_THAT(*told->description().settings.Texts("layer_types"),
              ElementsAre("full_attention", "conv", "conv"));
}

// Two thirds of what is stated, times a factor, up to a multiple; or what is stated.
TEST(HybridSettingsTest, Lfm2MakesTheWidthOfItsNetworkOfTheOneStated) {
  const std::pair<const char*, int64_t> cases[] = {
      {R"({"intermediate_size": 100})", 256},
      {R"({"block_ff_dim": 100, "block_multiple_of": 1})", 66},
      {R"({"intermediate_size": 100, "block_multiple_of": 8, "block_ffn_dim_multiplier": 1.5})", 104},
      {R"({"intermediate_size": 100, "block_multiple_of": 8, "block_ffn_dim_multiplier": null})", 66},
      {R"({"intermediate_size": 100, "block_auto_adjust_ff_dim": false})", 100},
      {R"({"intermediate_size": 100, "num_experts": 2})", 100},
  };
  for (const auto& [json, hidden] : cases) {
    EIGSVC_ASSERT_OK_AND_ASSIGN(const Model model, Initialize("lfm2", json));
    EXPECT_EQ(model->weights().layers[0]["feed_forward.up_proj.weight"].size(0), hidden) << json;
  }
}

TEST(HybridSettingsTest, WhatNothingTellsIsAskedFor) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Model rnn, Initialize("rnn", R"({"nonlinearity": "relu"})"));
  EXPECT_THAT(LoadModel(Saved(*rnn, {}), {}, {}),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("nonlinearity")));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Model jamba, Initialize("jamba", "{}"));
  EXPECT_THAT(LoadModel(Saved(*jamba, {}), {}, {}),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("hidden_size")));
}

// What transformers and Moonshot's own code take a silent configuration of Kimi-Linear for differs.
TEST(HybridSettingsTest, WhatReleasesDisagreeOnIsAskedFor) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Model kimi, Initialize("kimi_linear", "{}"));
  for (const char* name : {"routed_scaling_factor", "rms_norm_eps"}) {
    const Settings silent = *Settings::Parse(absl::StrCat("{\"", name, "\": null}"), "config.json");
    EXPECT_THAT(LoadModel(Saved(*kimi, kimi->description().settings.MergedWith(silent)), {}, {}),
                StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr(name)));
  }
}

TEST(HybridSettingsTest, KindsOfLayersAreSaidByMoonshotsListsOrByKeys) {
  const auto kinds = [](const SequenceModel& model) {
    std::string initials;
    for (const auto& mixers : model.description().mixers) initials += mixers.at(0).mixer[0];
    return initials;
  };
  for (const char* layout : {"moonshot", "huggingface"}) {
    EIGSVC_ASSERT_OK_AND_ASSIGN(
        const Model listed,
        Initialize("kimi_linear", absl::StrCat(R"({"moe_layer_freq": 2, "layout": ")", layout,
                                               R"(", "linear_attn_config": {"kda_layers": [1, 3, 4],
                                                                            "full_attn_layers": [2]}})")));
    EXPECT_EQ(kinds(*listed), "kakk");
    EXPECT_EQ(listed->description().settings.Texts("mlp_layer_types").value(),
              (std::vector<std::string>{"dense", "dense", "sparse", "dense"}));
    const Settings silent =
        *Settings::Parse(R"({"layer_types": null, "linear_attn_config": null})", "config.json");
    EIGSVC_ASSERT_OK_AND_ASSIGN(
        const Model loaded,
        LoadModel(Saved(*listed, listed->description().settings.MergedWith(silent)), {}, {}));
    EXPECT_EQ(kinds(*loaded), "kakk");
  }
}

TEST(HybridSettingsTest, LayersOfSeveralKindsAreDescribed) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Model model,
                              Initialize("nemotron-h", R"({"hybrid_override_pattern": "M-*E"})"));
  const auto& mixers = model->description().mixers;
  ASSERT_EQ(mixers.size(), 4u);
  EXPECT_EQ(mixers[0].at(0).mixer, "mamba2");
  EXPECT_TRUE(mixers[1].empty());
  EXPECT_EQ(mixers[2].at(0).mixer, "attention");
  EXPECT_TRUE(mixers[3].empty());
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Model beside, Initialize("falcon-h1", "{}"));
  EXPECT_EQ(beside->description().mixers[0].size(), 2u);
}

// Zamba2's blocks are stored once and are one tensor to an optimiser.
TEST(HybridSettingsTest, SharedBlocksAreOneTensor) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(
      const Model model,
      Initialize("zamba2",
                 R"({"num_hidden_layers": 3, "layers_block_type": ["hybrid", "mamba", "hybrid"]})"));
  const auto& layers = model->weights().layers;
  const char* shared = "shared_transformer.self_attn.q_proj.weight";
  const char* own = "shared_transformer.feed_forward.gate_up_adapter.0.weight";
  EXPECT_TRUE(layers[0][shared].is_same(layers[2][shared]));
  EXPECT_FALSE(layers[0][own].is_same(layers[2][own]));
  const ModelWeights clone = model->weights().Clone(/*requires_grad=*/true);
  EXPECT_TRUE(clone.layers[0][shared].is_same(clone.layers[2][shared]));
  for (const WeightSpec& spec : model->plan()) {
    if (spec.layer == 2 && spec.name == own) {
      EXPECT_EQ(spec.key,
                "model.layers.0.shared_transformer.feed_forward.gate_up_proj_adapter_list.1.0.weight");
    }
  }
}

}  // namespace
}  // namespace eigsvc
