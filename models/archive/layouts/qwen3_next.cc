#include "models/archive/layouts.h"

namespace eigsvc {

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
