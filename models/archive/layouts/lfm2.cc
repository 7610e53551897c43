#include "models/archive/layouts.h"

namespace eigsvc {

std::vector<Layout> Lfm2Layouts() {
  return {
      {.family = "lfm2",
       .name = "huggingface",
       .mixer = "convolution + attention",
       .model_types = {"lfm2", "lfm2_moe"},
       .embeddings = {"model.embed_tokens.weight"},
       .layer_keys = {"model.layers.#.operator_norm.weight", "model.layers.#.ffn_norm.weight"}},
  };
}

}  // namespace eigsvc
