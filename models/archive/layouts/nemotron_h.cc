#include "models/archive/layouts.h"

namespace eigsvc {

std::vector<Layout> NemotronHLayouts() {
  return {
      {.family = "nemotron-h",
       .name = "huggingface",
       .mixer = "mamba2 + attention",
       .model_types = {"nemotron_h"},
       .embeddings = {"backbone.embeddings.weight"},
       .layer_keys = {"backbone.layers.#.norm.weight"},
       .some_layer_keys = {"backbone.layers.#.mixer.A_log", "backbone.layers.#.mixer.dt_bias",
                           "backbone.layers.#.mixer.D", "backbone.layers.#.mixer.in_proj.weight",
                           "backbone.layers.#.mixer.conv1d.weight", "backbone.layers.#.mixer.q_proj.weight"}},
  };
}

}  // namespace eigsvc
