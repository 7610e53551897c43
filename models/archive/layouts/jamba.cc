#include "models/archive/layouts.h"

namespace eigsvc {

std::vector<Layout> JambaLayouts() {
  return {
      {.family = "jamba",
       .name = "huggingface",
       .mixer = "mamba + attention",
       .model_types = {"jamba"},
       .embeddings = {"model.embed_tokens.weight"},
       .layer_keys = {"model.layers.#.input_layernorm.weight", "model.layers.#.pre_ff_layernorm.weight"},
       .some_layer_keys = {"model.layers.#.mamba.A_log", "model.layers.#.mamba.x_proj.weight",
                           "model.layers.#.mamba.dt_layernorm.weight"}},
  };
}

}  // namespace eigsvc
