#include "models/archive/layouts.h"

namespace eigsvc {

std::vector<Layout> RecurrentGemmaLayouts() {
  return {
      {.family = "recurrent-gemma",
       .name = "huggingface",
       .mixer = "rg-lru + attention",
       .model_types = {"recurrent_gemma"},
       .embeddings = {"model.embed_tokens.weight"},
       .layer_keys = {"model.layers.#.temporal_pre_norm.weight", "model.layers.#.channel_pre_norm.weight",
                      "model.layers.#.mlp_block.gate_proj.weight"},
       .some_layer_keys = {"model.layers.#.temporal_block.rg_lru.recurrent_param"}},
      {.family = "recurrent-gemma",
       .name = "deepmind",
       .mixer = "rg-lru + attention",
       .embeddings = {"embedder.input_embedding"},
       .layer_keys = {"blocks.#.temporal_pre_norm.scale", "blocks.#.channel_pre_norm.scale",
                      "blocks.#.mlp_block.ffw_up.w"},
       .some_layer_keys = {"blocks.#.recurrent_block.rg_lru.a_param"}},
  };
}

}  // namespace eigsvc
