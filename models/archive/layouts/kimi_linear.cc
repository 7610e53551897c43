#include "models/archive/layouts.h"

namespace eigsvc {

std::vector<Layout> KimiLinearLayouts() {
  return {
      {.family = "kimi_linear",
       .name = "moonshot",
       .mixer = "kda + attention",
       .model_types = {"kimi_linear"},
       .embeddings = {"model.embed_tokens.weight"},
       .layer_keys = {"model.layers.#.input_layernorm.weight",
                      "model.layers.#.post_attention_layernorm.weight",
                      "model.layers.#.self_attn.o_proj.weight"},
       .some_layer_keys = {"model.layers.#.self_attn.A_log", "model.layers.#.self_attn.dt_bias",
                           "model.layers.#.self_attn.f_a_proj.weight",
                           "model.layers.#.self_attn.f_b_proj.weight",
                           "model.layers.#.self_attn.g_a_proj.weight",
                           "model.layers.#.self_attn.g_b_proj.weight",
                           "model.layers.#.self_attn.q_conv1d.weight"}},
      {.family = "kimi_linear",
       .name = "huggingface",
       .mixer = "kda + attention",
       .model_types = {"kimi_linear"},
       .embeddings = {"model.embed_tokens.weight"},
       .layer_keys = {"model.layers.#.input_layernorm.weight",
                      "model.layers.#.post_attention_layernorm.weight",
                      "model.layers.#.self_attn.o_proj.weight"},
       .some_layer_keys = {"model.layers.#.self_attn.forget_gate.A_log",
                           "model.layers.#.self_attn.forget_gate.dt_bias",
                           "model.layers.#.self_attn.forget_gate.f_a_proj.weight",
                           "model.layers.#.self_attn.forget_gate.f_b_proj.weight",
                           "model.layers.#.self_attn.g_a_proj.weight",
                           "model.layers.#.self_attn.g_b_proj.weight",
                           "model.layers.#.self_attn.conv1d.weight"}},
  };
}

}  // namespace eigsvc
