#include "models/archive/layouts.h"

namespace eigsvc {

std::vector<Layout> GptNeoxLayouts() {
  return {
      {.family = "gpt_neox",
       .name = "huggingface",
       .mixer = "attention",
       .model_types = {"gpt_neox"},
       .embeddings = {"gpt_neox.embed_in.weight"},
       .layer_keys = {"gpt_neox.layers.#.attention.query_key_value.weight",
                      "gpt_neox.layers.#.attention.dense.weight", "gpt_neox.layers.#.input_layernorm.weight",
                      "gpt_neox.layers.#.post_attention_layernorm.weight",
                      "gpt_neox.layers.#.mlp.dense_h_to_4h.weight"}},
  };
}

}  // namespace eigsvc
