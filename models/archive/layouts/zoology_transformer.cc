#include "models/archive/layouts.h"

namespace eigsvc {

std::vector<Layout> ZoologyTransformerLayouts() {
  return {
      {.family = "zoology-transformer",
       .name = "zoology",
       .mixer = "attention",
       .embeddings = {"backbone.embeddings.word_embeddings.weight"},
       .layer_keys = {"backbone.layers.#.sequence_mixer.Wqkv.weight",
                      "backbone.layers.#.sequence_mixer.out_proj.weight", "backbone.layers.#.norm1.weight",
                      "backbone.layers.#.norm2.weight"}},
  };
}

}  // namespace eigsvc
