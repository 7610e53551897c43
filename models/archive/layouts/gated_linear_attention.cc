#include "models/archive/layouts.h"

namespace eigsvc {

std::vector<Layout> RetNetLayouts() {
  return {
      {.family = "retnet",
       .name = "fla",
       .mixer = "retention",
       .model_types = {"retnet"},
       .embeddings = {"model.embeddings.weight"},
       .layer_keys = FlaLayerKeys(),
       .some_layer_keys = {"model.layers.#.attn.q_proj.weight", "model.layers.#.attn.k_proj.weight"}},
  };
}

std::vector<Layout> GlaLayouts() {
  return {
      {.family = "gla",
       .name = "fla",
       .mixer = "gla",
       .model_types = {"gla"},
       .embeddings = {"model.embeddings.weight"},
       .layer_keys = FlaLayerKeys(),
       .some_layer_keys = {"model.layers.#.attn.gk_proj.0.weight", "model.layers.#.attn.gk_proj.1.weight",
                           "model.layers.#.attn.q_proj.weight"}},
  };
}

std::vector<Layout> HgrnLayouts() {
  return {
      {.family = "hgrn",
       .name = "fla",
       .mixer = "hgrn",
       .model_types = {"hgrn"},
       .embeddings = {"model.embeddings.weight"},
       .layer_keys = FlaLayerKeys(),
       .some_layer_keys = {"model.layers.#.attn.i_proj.weight", "model.layers.#.attn.f_proj.weight",
                           "model.layers.#.attn.g_norm.weight", "model.layers.#.attn.g_proj.weight"}},
  };
}

std::vector<Layout> Hgrn2Layouts() {
  return {
      {.family = "hgrn2",
       .name = "fla",
       .mixer = "hgrn2",
       .model_types = {"hgrn2"},
       .embeddings = {"model.embeddings.weight"},
       .layer_keys = FlaLayerKeys(),
       .some_layer_keys = {"model.layers.#.attn.q_proj.weight", "model.layers.#.attn.i_proj.weight",
                           "model.layers.#.attn.f_proj.weight"}},
  };
}

}  // namespace eigsvc
