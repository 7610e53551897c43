#include "models/archive/layouts.h"

namespace eigsvc {

std::vector<Layout> Qwen35Layouts() {
  return {
      {.family = "qwen3_5",
       .name = "huggingface",
       .mixer = "gated_delta_net + attention",
       .model_types = {"qwen3_5", "qwen3_5_text", "qwen3_5_moe", "qwen3_5_moe_text"},
       .embeddings = {"model.embed_tokens.weight"},
       .layer_keys = {"model.layers.#.input_layernorm.weight",
                      "model.layers.#.post_attention_layernorm.weight"},
       .some_layer_keys = {"model.layers.#.linear_attn.in_proj_qkv.weight",
                           "model.layers.#.linear_attn.in_proj_z.weight",
                           "model.layers.#.linear_attn.in_proj_b.weight",
                           "model.layers.#.linear_attn.in_proj_a.weight",
                           "model.layers.#.linear_attn.conv1d.weight", "model.layers.#.linear_attn.A_log",
                           "model.layers.#.linear_attn.dt_bias"}},
      {.family = "qwen3_5",  // the text part of a model that also reads images
       .name = "huggingface",
       .mixer = "gated_delta_net + attention",
       .model_types = {"qwen3_5", "qwen3_5_text", "qwen3_5_moe", "qwen3_5_moe_text"},
       .embeddings = {"model.language_model.embed_tokens.weight"},
       .layer_keys = {"model.language_model.layers.#.input_layernorm.weight",
                      "model.language_model.layers.#.post_attention_layernorm.weight"},
       .some_layer_keys = {"model.language_model.layers.#.linear_attn.in_proj_qkv.weight",
                           "model.language_model.layers.#.linear_attn.in_proj_z.weight",
                           "model.language_model.layers.#.linear_attn.in_proj_b.weight",
                           "model.language_model.layers.#.linear_attn.in_proj_a.weight",
                           "model.language_model.layers.#.linear_attn.conv1d.weight",
                           "model.language_model.layers.#.linear_attn.A_log",
                           "model.language_model.layers.#.linear_attn.dt_bias"}},
  };
}

std::vector<Layout> Qwen3NextLayouts() {
  return {
      {.family = "qwen3_next",
       .name = "huggingface",
       .mixer = "gated_delta_net + attention",
       .model_types = {"qwen3_next"},
       .embeddings = {"model.embed_tokens.weight"},
       .layer_keys = {"model.layers.#.input_layernorm.weight",
                      "model.layers.#.post_attention_layernorm.weight"},
       .some_layer_keys = {"model.layers.#.linear_attn.in_proj_qkvz.weight",
                           "model.layers.#.linear_attn.in_proj_ba.weight",
                           "model.layers.#.linear_attn.conv1d.weight", "model.layers.#.linear_attn.A_log",
                           "model.layers.#.linear_attn.dt_bias"}},
  };
}

}  // namespace eigsvc
