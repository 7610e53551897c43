#include "tests/testing/tiny_models.h"

#include <cctype>

#include "absl/strings/str_cat.h"
#include "models/base/status_macros.h"

namespace eigsvc::testing {
namespace {

struct Variant {
  absl::string_view family, layout, name, settings;
};

// What the defaults of a small model do not reach.
constexpr Variant kVariants[] = {
    {"mamba2", "state-spaces", "groups",
     R"({"d_model": 24, "headdim": 6, "d_state": 5, "ngroups": 2, "d_conv": 3, "tie_embeddings": false})"},
    {"mamba2", "state-spaces", "options",
     R"({"d_model": 24, "headdim": 6, "d_state": 5, "rms_norm": false, "rmsnorm": false, "bias": true,
         "conv_bias": false, "D_has_hdim": true, "d_ssm": 36, "dt_limit": [0.01, 0.5], "n_layer": 1})"},
    {"mamba2", "huggingface", "groups",
     R"({"hidden_size": 24, "head_dim": 6, "state_size": 5, "n_groups": 4, "conv_kernel": 2,
         "gated_norm_groups": 1, "time_step_limit": [0.01, {"__float__": "Infinity"}], "use_bias": true})"},
    {"mamba2", "paper", "post_norm",
     R"({"hidden_dim": 24, "num_heads": 2, "expansion": 2, "state_dim": 5, "prenorm": false, "glu": false,
         "learnable_init_states": true})"},
    {"llama", "meta", "groups",
     R"({"dim": 24, "n_heads": 6, "n_kv_heads": 2, "hidden_dim": 20, "n_layers": 1})"},
    {"llama", "huggingface", "options",
     R"({"hidden_size": 24, "num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 10,
         "intermediate_size": 20, "attention_bias": true, "mlp_bias": true, "tie_word_embeddings": true,
         "rope_scaling": {"rope_type": "llama3", "factor": 4, "low_freq_factor": 1, "high_freq_factor": 4,
                          "original_max_position_embeddings": 32}})"},
    {"llama", "huggingface", "dynamic",
     R"({"max_position_embeddings": 6, "rope_scaling": {"type": "dynamic", "factor": 2}})"},
    {"mistral", "huggingface", "window",
     R"({"hidden_size": 24, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 10,
         "sliding_window": 5, "rope_parameters": {"rope_type": "yarn", "factor": 4,
                                                  "original_max_position_embeddings": 8}})"},
    {"mistral", "huggingface", "no_window", R"({"sliding_window": null})"},
    {"ministral", "huggingface", "one_step",
     R"({"sliding_window": 1, "layer_types": ["full_attention", "sliding_attention"]})"},
    {"qwen2", "huggingface", "upper_window",
     R"({"use_sliding_window": true, "sliding_window": 4, "max_window_layers": 1, "num_key_value_heads": 2})"},
    {"qwen3", "huggingface", "layer_types",
     R"({"use_sliding_window": true, "sliding_window": 3, "attention_bias": true, "tie_word_embeddings": true,
         "layer_types": ["sliding_attention", "full_attention"]})"},
    {"olmo2", "huggingface", "groups",
     R"({"num_key_value_heads": 2, "attention_bias": true, "initializer_range": 0.2})"},
    {"olmo3", "huggingface", "window",
     R"({"num_hidden_layers": 4, "sliding_window": 4, "rope_scaling": {"rope_type": "yarn", "factor": 2,
                                                                      "original_max_position_embeddings": 8}})"},
    {"gemma2", "huggingface", "window",
     R"({"sliding_window": 4, "num_key_value_heads": 2, "head_dim": 6, "query_pre_attn_scalar": 10,
         "attn_logit_softcapping": 0.5, "final_logit_softcapping": 0.3, "tie_word_embeddings": false})"},
    {"gemma2", "huggingface", "uncapped",
     R"({"attn_logit_softcapping": null, "final_logit_softcapping": null, "sliding_window": 2})"},
    {"granite", "huggingface", "multipliers",
     R"({"embedding_multiplier": 2, "residual_multiplier": 0.5, "attention_multiplier": 0.1,
         "logits_scaling": 4, "mlp_bias": true})"},
    {"gpt_oss", "huggingface", "window",
     R"({"sliding_window": 3, "num_key_value_heads": 2, "num_local_experts": 5, "num_experts_per_tok": 3,
         "hidden_size": 24, "intermediate_size": 10})"},
    {"transformer", "fla", "window",
     R"({"hidden_size": 24, "num_heads": 4, "num_kv_heads": 2, "window_size": 4, "qkv_bias": true,
         "qk_norm": true, "intermediate_size": 20})"},
    {"gpt_neox", "huggingface", "sequential",
     R"({"hidden_size": 48, "num_attention_heads": 3, "use_parallel_residual": false, "rotary_pct": 0.5,
         "hidden_act": "relu", "attention_bias": false})"},
    {"zoology-transformer", "zoology", "glu",
     R"({"d_model": 24, "sequence_mixer": {"kwargs": {"num_heads": 3}}, "state_mixer": {"name": "GLU"},
         "max_position_embeddings": 0, "tie_embeddings": false, "pad_vocab_size_multiple": 10})"},
    {"zoology-transformer", "zoology", "no_state_mixer",
     R"({"d_model": 24, "state_mixer": {"name": "torch.nn.Identity"}})"},
    {"gpt2", "huggingface", "options",
     R"({"n_embd": 24, "n_head": 3, "n_inner": 20, "n_positions": 19, "activation_function": "relu",
         "scale_attn_by_inverse_layer_idx": true, "tie_word_embeddings": false})"},
    {"softmax-attention", "paper", "conv_and_gate",
     R"({"hidden_dim": 24, "state_dim": 12, "num_heads": 3, "mixer": "hybrid", "use_gate": true, "dim_conv": 4,
         "max_pos_embed": 0})"},
    {"softmax-attention", "paper", "no_mixer",
     R"({"hidden_dim": 24, "state_dim": 36, "num_heads": 2, "mixer": "none", "dim_conv": 3, "conv_type": "partial"})"},
    {"softmax-attention", "paper", "glu", R"({"hidden_dim": 24, "num_heads": 2, "mixer": "glu"})"},
    {"retnet", "fla", "hybrid",
     R"({"hidden_size": 24, "num_heads": 2, "expand_k": 0.5, "expand_v": 1, "use_output_gate": false,
         "elementwise_affine": false, "num_hidden_layers": 3, "tie_word_embeddings": true,
         "attn": {"layers": [1], "num_heads": 2, "num_kv_heads": 1, "qkv_bias": true}})"},
    {"gla", "fla", "shared_keys",
     R"({"hidden_size": 24, "num_heads": 4, "num_kv_heads": 2, "expand_k": 0.5, "expand_v": 1,
         "use_short_conv": true, "conv_size": 3, "clamp_min": -0.04, "feature_map": "relu", "fuse_norm": false})"},
    {"hgrn", "fla", "unbounded",
     R"({"hidden_size": 12, "expand_ratio": 2, "use_lower_bound": false, "use_short_conv": true})"},
    {"hgrn2", "fla", "convolved", R"({"hidden_size": 24, "expand_ratio": 4, "use_short_conv": true})"},
    {"delta_net", "fla", "negative",
     R"({"hidden_size": 24, "num_heads": 2, "use_gate": true, "allow_neg_eigval": true,
         "use_short_conv": false, "qk_activation": "elu", "expand_v": 2})"},
    {"delta_net", "fla", "sums",
     R"({"hidden_size": 24, "num_heads": 2, "qk_norm": "sum", "qk_activation": "elu",
         "use_beta": false, "conv_size": 2})"},
    {"gated_deltanet", "fla", "shared_keys",
     R"({"hidden_size": 24, "head_dim": 6, "num_heads": 2, "num_v_heads": 4, "expand_v": 1, "use_gate": false,
         "use_short_conv": false, "allow_neg_eigval": true})"},
    {"gated_deltaproduct", "fla", "three",
     R"({"hidden_size": 24, "head_dim": 6, "num_heads": 2, "num_householder": 3, "use_forget_gate": true,
         "allow_neg_eigval": true})"},
    {"kda", "fla", "bounded",
     R"({"hidden_size": 24, "head_dim": 6, "num_heads": 1, "num_v_heads": 2, "expand_v": 2, "safe_gate": true,
         "lower_bound": -5.0, "allow_neg_eigval": true})"},
};

Settings TinySettings(absl::string_view family, absl::string_view layout, absl::string_view json) {
  Settings settings = *Settings::Parse(json, "a test's settings");
  settings.Set("family", family);
  settings.Set("layout", layout);
  settings.Set("vocab_size", kTinyVocabulary);
  return settings;
}

}  // namespace

std::string TinyModelName(const TinyModel& model) {
  std::string name =
      absl::StrCat(model.family, "_", model.layout, model.variant.empty() ? "" : "_", model.variant);
  for (char& c : name) {
    if (!std::isalnum(static_cast<unsigned char>(c))) c = '_';
  }
  return name;
}

void PrintTo(const TinyModel& model, std::ostream* out) { *out << TinyModelName(model); }

std::vector<TinyModel> TinyModels() {
  std::vector<TinyModel> models;
  for (const FamilyEntry& family : Families()) {
    if (!family.trainable) continue;
    for (const std::string& layout : family.layouts) {
      const std::string name(family.name);
      models.push_back({name, layout, "", TinySettings(name, layout, "{}")});
      for (const Variant& variant : kVariants) {
        if (variant.family != name || variant.layout != layout) continue;
        models.push_back(
            {name, layout, std::string(variant.name), TinySettings(name, layout, variant.settings)});
      }
    }
  }
  return models;
}

absl::StatusOr<std::shared_ptr<const SequenceModel>> MakeTiny(const TinyModel& model, uint64_t seed,
                                                              c10::ScalarType dtype) {
  EIGSVC_ASSIGN_OR_RETURN(const FamilyEntry* family, FindFamily(model.family));
  LoadOptions options;
  options.dtype = dtype;
  return family->initialize(model.settings, seed, options);
}

}  // namespace eigsvc::testing
