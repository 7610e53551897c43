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
    {"mamba2", "state-spaces", "attention",
     R"({"d_model": 24, "headdim": 6, "d_state": 5, "n_layer": 3, "attn_layer_idx": [0, 2], "d_intermediate": 20,
         "attn_cfg": {"causal": true, "num_heads": 4, "num_heads_kv": 2, "head_dim": 10, "d_conv": 3, "mlp_dim": 30,
                      "rotary_emb_dim": 4, "rotary_emb_interleaved": true, "softmax_scale": 0.4}})"},
    {"mamba2", "huggingface", "groups",
     R"({"hidden_size": 24, "head_dim": 6, "state_size": 5, "n_groups": 4, "conv_kernel": 2,
         "gated_norm_groups": 1, "time_step_limit": [0.01, {"__float__": "Infinity"}], "use_bias": true})"},
    {"mamba2", "fla", "options",
     R"({"hidden_size": 24, "head_dim": 6, "state_size": 5, "n_groups": 2, "norm_before_gate": true,
         "D_has_hdim": true, "dt_limit": [0.01, "Infinity"], "norm_eps": 1e-4, "tie_word_embeddings": false})"},
    {"mamba2", "paper", "post_norm",
     R"({"hidden_dim": 24, "num_heads": 2, "expansion": 2, "state_dim": 5, "prenorm": false, "glu": false,
         "learnable_init_states": true})"},
    {"mamba2", "paper", "pseudo_lti",
     R"({"hidden_dim": 24, "num_heads": 2, "state_dim": 6, "pseudoLTI": true, "dropout": 0.1})"},
    {"mamba", "state-spaces", "options",
     R"({"d_model": 24, "d_state": 3, "d_conv": 3, "expand": 1.5, "dt_rank": 5, "rms_norm": false, "bias": true,
         "conv_bias": false, "tie_embeddings": false, "n_layer": 1})"},
    {"mamba", "state-spaces", "attention",
     R"({"d_model": 24, "d_state": 3, "attn_layer_idx": [1], "d_intermediate": 20, "rms_norm": false,
         "attn_cfg": {"num_heads": 3, "qkv_proj_bias": false, "out_proj_bias": false, "rotary_emb_dim": 8}})"},
    {"mamba", "fla", "rank", R"({"hidden_size": 24, "state_size": 5, "dt_rank": "auto", "norm_eps": 1e-4})"},
    {"falcon-mamba", "huggingface", "options",
     R"({"hidden_size": 24, "state_size": 5, "conv_kernel": 2, "time_step_rank": 3, "mixer_rms_eps": 1e-3})"},
    {"jamba", "huggingface", "options",
     R"({"hidden_size": 24, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 20,
         "num_experts": 3, "num_experts_per_tok": 1, "attn_layer_period": 2, "attn_layer_offset": 0,
         "expert_layer_period": 1, "expert_layer_offset": 0, "mamba_d_state": 5, "mamba_dt_rank": 3,
         "mamba_conv_bias": false, "mamba_proj_bias": true, "num_hidden_layers": 2, "tie_word_embeddings": true})"},
    {"bamba", "huggingface", "options",
     R"({"hidden_size": 24, "num_attention_heads": 3, "num_key_value_heads": 1, "attention_bias": true,
         "mlp_bias": true, "mamba_n_heads": 6, "mamba_n_groups": 3, "mamba_d_state": 5, "attn_layer_indices": [0],
         "mamba_proj_bias": true, "time_step_limit": [0.01, 0.5], "num_hidden_layers": 2})"},
    {"granite-hybrid", "huggingface", "options",
     R"({"hidden_size": 24, "num_attention_heads": 3, "num_key_value_heads": 1, "position_embedding_type": "rope",
         "attention_multiplier": 0.2, "embedding_multiplier": 3, "logits_scaling": 2, "residual_multiplier": 0.5,
         "num_local_experts": 0, "mamba_n_heads": 4, "mamba_d_state": 5, "num_hidden_layers": 2})"},
    {"falcon-h1", "huggingface", "options",
     R"({"hidden_size": 24, "num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 6, "mamba_d_ssm": 30,
         "mamba_n_heads": 6, "mamba_n_groups": 2, "mamba_d_state": 5, "mamba_rms_norm": true,
         "mamba_norm_before_gate": false, "ssm_multipliers": [0.7, 1.3, 0.5, 2, 0.3], "ssm_in_multiplier": 0.8,
         "ssm_out_multiplier": 1.2, "attention_in_multiplier": 1.1, "attention_out_multiplier": 0.9,
         "key_multiplier": 0.5, "mlp_multipliers": [0.7, 1.4], "lm_head_multiplier": 0.5,
         "embedding_multiplier": 2, "projectors_bias": true, "attention_bias": true, "mlp_bias": true})"},
    {"nemotron-h", "huggingface", "options",
     R"({"hidden_size": 24, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 5,
         "hybrid_override_pattern": "ME*-", "mamba_num_heads": 6, "mamba_head_dim": 4, "n_groups": 3,
         "ssm_state_size": 5, "n_routed_experts": 6, "num_experts_per_tok": 3, "n_group": 3, "topk_group": 2,
         "routed_scaling_factor": 1.5, "mlp_bias": true, "use_bias": true, "mlp_hidden_act": "silu"})"},
    {"qwen3_next", "huggingface", "options",
     R"({"hidden_size": 24, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 12, "attention_bias": true,
         "layer_types": ["full_attention", "linear_attention"], "num_hidden_layers": 2, "linear_num_key_heads": 3,
         "linear_num_value_heads": 3, "linear_key_head_dim": 6, "linear_value_head_dim": 10, "linear_conv_kernel_dim": 3,
         "num_experts": 5, "num_experts_per_tok": 3, "norm_topk_prob": false, "mlp_only_layers": [0],
         "intermediate_size": 20, "partial_rotary_factor": 0.5, "rope_theta": 500, "tie_word_embeddings": true})"},
    {"kimi_linear", "moonshot", "options",
     R"({"hidden_size": 24, "num_attention_heads": 3, "kv_lora_rank": 5, "q_lora_rank": 7, "qk_rope_head_dim": 3,
         "qk_nope_head_dim": 6, "v_head_dim": 5, "attention_bias": true, "num_hidden_layers": 2,
         "layer_types": ["full_attention", "linear_attention"], "linear_num_heads": 2, "linear_head_dim": 6,
         "linear_conv_kernel_dim": 3, "first_k_dense_replace": 0, "moe_intermediate_size": 10, "num_experts": 6,
         "num_experts_per_token": 3, "num_expert_group": 3, "topk_group": 2, "moe_renormalize": false,
         "routed_scaling_factor": 1.5, "num_shared_experts": 2, "rms_norm_eps": 1e-4})"},
    {"kimi_linear", "huggingface", "nothing_shared",
     R"({"hidden_size": 24, "num_attention_heads": 2, "num_hidden_layers": 2, "linear_num_heads": 1,
         "linear_head_dim": 10, "linear_conv_kernel_dim": 1, "num_shared_experts": null, "intermediate_size": 20,
         "layer_types": ["linear_attention", "full_attention"], "mlp_layer_types": ["sparse", "dense"],
         "tie_word_embeddings": true})"},
    {"qwen3_5", "huggingface", "experts",
     R"({"hidden_size": 24, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 12, "attention_bias": true,
         "layer_types": ["full_attention", "linear_attention"], "num_hidden_layers": 2, "linear_num_key_heads": 3,
         "linear_num_value_heads": 3, "linear_key_head_dim": 6, "linear_value_head_dim": 10, "linear_conv_kernel_dim": 3,
         "num_experts": 5, "num_experts_per_tok": 3, "rope_parameters": {"partial_rotary_factor": 0.5},
         "tie_word_embeddings": true})"},
    {"lfm2", "huggingface", "experts",
     R"({"hidden_size": 24, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 10, "conv_bias": true,
         "conv_L_cache": 4, "layer_types": ["full_attention", "conv"], "num_hidden_layers": 2, "num_dense_layers": 1,
         "intermediate_size": 20, "num_experts": 5, "num_experts_per_tok": 3, "moe_intermediate_size": 10,
         "routed_scaling_factor": 1.5, "tie_word_embeddings": true})"},
    {"lfm2", "huggingface", "single_tap",
     R"({"hidden_size": 24, "conv_L_cache": 1, "full_attn_idxs": [0], "num_hidden_layers": 2,
         "block_auto_adjust_ff_dim": false, "intermediate_size": 20, "rope_theta": 100})"},
    {"zamba2", "huggingface", "two_blocks",
     R"({"hidden_size": 24, "num_hidden_layers": 5, "num_attention_heads": 4, "n_mamba_heads": 6,
         "mamba_ngroups": 2, "mamba_d_state": 5, "num_mem_blocks": 2, "use_shared_attention_adapter": true,
         "use_mem_rope": true, "adapter_rank": 3, "add_bias_linear": true, "intermediate_size": 20,
         "layers_block_type": ["hybrid", "mamba", "hybrid", "hybrid", "hybrid"], "tie_word_embeddings": true})"},
    {"recurrent-gemma", "huggingface", "options",
     R"({"hidden_size": 24, "num_attention_heads": 3, "num_key_value_heads": 3, "lru_width": 18, "conv1d_width": 2,
         "attention_window_size": 4, "attention_bias": true, "block_types": ["attention", "recurrent"],
         "num_hidden_layers": 2, "tie_word_embeddings": false})"},
    {"recurrent-gemma", "deepmind", "window",
     R"({"width": 24, "num_heads": 3, "lru_width": 18, "attention_window_size": 4,
         "block_types": ["recurrent", "attention"], "num_layers": 2})"},
    {"min-gru", "lucidrains", "options",
     R"({"dim": 24, "expansion": 1, "enable_conv": true, "conv_kernel_size": 2, "ff_hidden": 20, "depth": 1})"},
    {"min-lstm", "lucidrains", "options",
     R"({"dim": 24, "expansion": 1, "proj_out": true, "enable_conv": true})"},
    {"lstm", "torch", "options",
     R"({"embedding_size": 8, "hidden_size": 6, "bias": false, "head_bias": false, "num_layers": 1})"},
    {"gru", "torch", "tied",
     R"({"embedding_size": 6, "hidden_size": 6, "tie_weights": true, "num_layers": 3})"},
    {"rnn", "torch", "relu", R"({"embedding_size": 8, "hidden_size": 6, "nonlinearity": "relu"})"},
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
    {"softmax-attention", "paper", "max_pooling",
     R"({"hidden_dim": 24, "num_heads": 2, "classifier": true, "pooling": "max", "output_dim": 5, "mixer_dim": 20})"},
    {"softmax-attention", "ssm-benchmark", "classifier",
     R"({"hidden_dim": 24, "state_dim": 12, "num_heads": 3, "classifier": true, "mlp_dim": 20})"},
    {"linear-attention", "paper", "conv_and_gate",
     R"({"hidden_dim": 24, "state_dim": 12, "num_heads": 3, "mixer": "glu", "use_gate": true, "dim_conv": 4,
         "max_pos_embed": 0})"},
    {"linear-attention", "paper", "sum_pooling",
     R"({"hidden_dim": 24, "num_heads": 2, "classifier": true, "pooling": "sum", "output_dim": 5, "dim_conv": 3,
         "conv_type": "partial"})"},
    {"norm-attention", "paper", "exp",
     R"({"hidden_dim": 24, "num_heads": 1, "norm_fn": "exp", "approx_fn": "none", "dim_conv": 4, "mixer": "none"})"},
    {"norm-attention", "paper", "sigmoid_and_gate",
     R"({"hidden_dim": 24, "num_heads": 3, "norm_fn": "sigmoid", "offset_init": "uniform", "use_gate": true,
         "dim_conv": 3, "conv_type": "partial", "scale_B": false})"},
    {"norm-attention", "paper", "elu_classifier",
     R"({"hidden_dim": 24, "num_heads": 2, "norm_fn": "elu", "offset": false, "classifier": true,
         "pooling": "cls"})"},
    {"norm-attention", "ssm-benchmark", "softplus",
     R"({"hidden_dim": 24, "state_dim": 12, "num_heads": 3, "norm_fn": "softplus"})"},
    {"norm-attention", "ssm-benchmark", "sigmoid",
     R"({"hidden_dim": 24, "state_dim": 36, "num_heads": 2, "norm_fn": "sigmoid", "classifier": true})"},
    {"lru", "paper", "layer_norm",
     R"({"hidden_dim": 12, "state_dim": 7, "norm": "layer", "prenorm": true, "activation": "half_glu2"})"},
    {"lru", "paper", "mean_pooling",
     R"({"hidden_dim": 12, "state_dim": 7, "pooling": "mean", "output_dim": 5})"},
    {"lru", "minimal-lru", "last_pooling",
     R"({"hidden_dim": 12, "state_dim": 7, "norm": "layer", "pooling": "last", "r_min": 0.5, "r_max": 0.9})"},
    {"s4", "paper", "options",
     R"({"hidden_dim": 10, "state_dim": 6, "activation": "half_glu1", "prenorm": true, "norm": "layer",
         "C_init": "lecun_normal", "seq_len": 20})"},
    {"s4", "paper", "gelu", R"({"hidden_dim": 10, "state_dim": 6, "activation": "gelu", "pooling": "mean"})"},
    {"s4", "state-spaces", "rank_and_channels",
     R"({"d_model": 12, "d_state": 6, "rank": 2, "channels": 2, "n_ssm": 3, "norm": "batch", "prenorm": false,
         "dt_transform": "softplus", "pooling": "mean"})"},
    {"s4", "state-spaces", "version_3",
     R"({"d_model": 12, "d_state": 6, "version": "3", "backbone": "example", "n_ssm": 12})"},
    {"s4d", "minimal", "mean", R"({"d_model": 12, "d_state": 6, "prenorm": false})"},
    {"s4d", "state-spaces", "bilinear",
     R"({"d_model": 12, "d_state": 6, "disc": "bilinear", "real_transform": "softplus", "channels": 2,
         "norm": "batch", "token_embedding": false})"},
    {"s4d", "state-spaces", "version_3", R"({"d_model": 12, "d_state": 6, "version": "3", "n_ssm": 4})"},
    {"s5", "paper", "bilinear",
     R"({"hidden_dim": 12, "state_dim": 12, "num_blocks": 2, "conj_sym": false, "discretization": "bilinear",
         "clip_eigs": true, "C_init": "trunc_standard_normal", "norm": "layer"})"},
    {"rwkv4", "rwkv-lm", "narrow_time_mix", R"({"n_embd": 24, "dim_att": 10, "dim_ffn": 20, "n_layer": 1})"},
    {"rwkv4", "huggingface", "rescaled",
     R"({"hidden_size": 24, "rescale_every": 1, "intermediate_size": 20, "tie_word_embeddings": true})"},
    {"rwkv6", "rwkv-lm", "wide_time_mix",
     R"({"n_embd": 24, "head_size": 6, "dim_att": 30, "dim_ffn": 20, "n_layer": 1, "head_size_divisor": 2})"},
    {"rwkv6", "fla", "unequal_heads",
     R"({"hidden_size": 24, "num_heads": 3, "expand_k": 0.5, "expand_v": 2, "norm_first": false,
         "norm_bias": false, "norm_eps": 1e-4, "intermediate_size": 20, "tie_word_embeddings": true})"},
    {"based", "hazyresearch", "options",
     R"({"n_embd": 24, "n_head": 4, "n_head_kv": 2, "n_layer": 4, "n_inner": 20, "activation_function": "gelu_new",
         "alt_mixer_layers": [0], "alt_mixer_2_layers": [1, 3], "mixer": {"kernel_size": 1, "use_bias": false},
         "alt_mixer": {"num_heads": 3, "feature_dim": 3, "head_dim": 10, "parallel_implementation": "fla_parallel"},
         "alt_mixer_2": {"window_size": 7}, "rms_norm": true, "residual_in_fp32": true, "qkv_proj_bias": false,
         "max_position_embeddings": 64, "scale_attn_by_inverse_layer_idx": true, "tie_word_embeddings": false,
         "pad_vocab_size_multiple": 8, "rotary_emb_fraction": 0.7})"},
    {"xlstm", "nx-ai", "mlstm_only",
     R"({"embedding_dim": 12, "slstm_at": [], "num_blocks": 1, "bias": true, "add_post_blocks_norm": false,
         "mlstm_block": {"mlstm": {"num_heads": 3, "qkv_proj_blocksize": 2, "conv1d_kernel_size": 3,
                                   "_inner_embedding_dim": 18}}})"},
    {"xlstm", "nx-ai", "slstm_only",
     R"({"embedding_dim": 12, "slstm_at": [0, 1], "tie_weights": true,
         "slstm_block": {"slstm": {"num_heads": 3, "conv1d_kernel_size": 0, "backend": "cuda",
                                   "group_norm_weight": false},
                         "feedforward": {"act_fn": "relu^2", "bias": true, "_proj_up_dim": 20}}})"},
    {"xlstm", "huggingface", "fused",
     R"({"hidden_size": 24, "num_heads": 3, "qk_dim_factor": 0.25, "v_dim_factor": 1.5, "weight_mode": "fused",
         "ffn_proj_factor": 1, "ffn_round_up_to_multiple_of": 10, "gate_soft_cap": 2, "output_logit_soft_cap": 3})"},
    {"retnet", "fla", "hybrid",
     R"({"hidden_size": 24, "num_heads": 2, "expand_k": 0.5, "expand_v": 1, "use_output_gate": false,
         "elementwise_affine": false, "num_hidden_layers": 3, "tie_word_embeddings": true,
         "attn": {"layers": [1], "num_heads": 2, "num_kv_heads": 1, "qkv_bias": true, "window_size": 5}})"},
    {"linear_attn", "fla", "normalised",
     R"({"hidden_size": 24, "num_heads": 4, "num_kv_heads": 2, "expand_k": 0.5, "feature_map": "hedgehog",
         "norm_feature_map": true, "norm_q": true, "norm_k": true, "elementwise_affine": false})"},
    {"linear_attn", "fla", "dpfp",
     R"({"hidden_size": 24, "num_heads": 2, "expand_v": 2, "feature_map": "dpfp"})"},
    {"linear_attn", "fla", "hybrid",
     R"({"hidden_size": 24, "num_heads": 2, "feature_map": "elu", "norm_feature_map": true, "num_hidden_layers": 3,
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

std::vector<TinyModel> TinyTokenModels() {
  std::vector<TinyModel> models;
  for (const TinyModel& tiny : TinyModels()) {
    const auto model = MakeTiny(tiny);
    // One that cannot be made is kept, to fail where it is used.
    if (!model.ok() || ((*model)->description().pooling.empty() &&
                        (*model)->description().classes == (*model)->description().vocab_size)) {
      models.push_back(tiny);
    }
  }
  return models;
}

absl::StatusOr<std::shared_ptr<const SequenceModel>> MakeTiny(const TinyModel& model, uint64_t seed,
                                                              c10::ScalarType dtype) {
  EIGSVC_ASSIGN_OR_RETURN(const FamilyEntry* family, FindFamily(model.family));
  LoadOptions options;
  options.dtype = dtype;
  return InitializeModel(*family, model.settings, seed, options);
}

}  // namespace eigsvc::testing
