#include "models/archive/layouts.h"

namespace eigsvc {

std::vector<Layout> LinearAttnLayouts() {
  return {
      {.family = "linear_attn",
       .name = "fla",
       .mixer = "linear_attention",
       .model_types = {"linear_attn"},
       .embeddings = {"model.embeddings.weight"},
       .layer_keys = FlaLayerKeys(),
       .some_layer_keys = {"model.layers.#.attn.q_proj.weight", "model.layers.#.attn.k_proj.weight",
                           "model.layers.#.attn.v_proj.weight", "model.layers.#.attn.norm.weight"}},
      {.family = "linear_attn",  // whose norm has no weights; RetNet's are known without a configuration
       .name = "fla",
       .mixer = "linear_attention",
       .model_types = {"linear_attn"},
       .embeddings = {"model.embeddings.weight"},
       .layer_keys = FlaLayerKeys(),
       .some_layer_keys = {"model.layers.#.attn.q_proj.weight", "model.layers.#.attn.k_proj.weight"},
       .relative = true},
  };
}

}  // namespace eigsvc
