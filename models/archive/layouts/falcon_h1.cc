#include "models/archive/layouts.h"

namespace eigsvc {

std::vector<Layout> FalconH1Layouts() {
  return {
      {.family = "falcon-h1",
       .name = "huggingface",
       .mixer = "mamba2 beside attention",
       .model_types = {"falcon_h1"},
       .embeddings = {"model.embed_tokens.weight"},
       .layer_keys = {"model.layers.#.mamba.A_log", "model.layers.#.mamba.dt_bias",
                      "model.layers.#.mamba.in_proj.weight", "model.layers.#.self_attn.q_proj.weight",
                      "model.layers.#.self_attn.o_proj.weight", "model.layers.#.input_layernorm.weight",
                      "model.layers.#.pre_ff_layernorm.weight",
                      "model.layers.#.feed_forward.gate_proj.weight"}},
  };
}

}  // namespace eigsvc
