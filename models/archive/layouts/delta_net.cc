#include "models/archive/layouts.h"

namespace eigsvc {

std::vector<Layout> DeltaNetLayouts() {
  return {
      {.family = "delta_net",
       .name = "fla",
       .mixer = "delta_net",
       .model_types = {"delta_net"},
       .embeddings = {"model.embeddings.weight"},
       .layer_keys = FlaLayerKeys(),
       .some_layer_keys = {"model.layers.#.attn.q_proj.weight", "model.layers.#.attn.k_proj.weight",
                           "model.layers.#.attn.o_norm.weight"}},
  };
}

std::vector<Layout> GatedDeltaNetLayouts() {
  return {
      {.family = "gated_deltanet",
       .name = "fla",
       .mixer = "gated_delta_net",
       .model_types = {"gated_deltanet"},
       .embeddings = {"model.embeddings.weight"},
       .layer_keys = FlaLayerKeys(),
       .some_layer_keys = {"model.layers.#.attn.q_proj.weight", "model.layers.#.attn.k_proj.weight",
                           "model.layers.#.attn.o_norm.weight", "model.layers.#.attn.A_log",
                           "model.layers.#.attn.a_proj.weight", "model.layers.#.attn.b_proj.weight"}},
  };
}

std::vector<Layout> KdaLayouts() {
  return {
      {.family = "kda",
       .name = "fla",
       .mixer = "kda",
       .model_types = {"kda"},
       .embeddings = {"model.embeddings.weight"},
       .layer_keys = FlaLayerKeys(),
       .some_layer_keys = {"model.layers.#.attn.q_proj.weight", "model.layers.#.attn.f_proj.0.weight",
                           "model.layers.#.attn.f_proj.1.weight", "model.layers.#.attn.o_norm.weight",
                           "model.layers.#.attn.A_log", "model.layers.#.attn.b_proj.weight"}},
  };
}

}  // namespace eigsvc
