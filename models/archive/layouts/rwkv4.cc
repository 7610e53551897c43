#include "models/archive/layouts.h"

namespace eigsvc {

std::vector<Layout> Rwkv4Layouts() {
  return {
      {.family = "rwkv4",
       .name = "rwkv-lm",
       .mixer = "rwkv4",
       .embeddings = {"emb.weight"},
       .layer_keys = {"blocks.#.att.time_first", "blocks.#.att.time_mix_k", "blocks.#.att.receptance.weight",
                      "blocks.#.ln1.weight", "blocks.#.ffn.key.weight"}},
      {.family = "rwkv4",
       .name = "huggingface",
       .mixer = "rwkv4",
       .model_types = {"rwkv"},
       .embeddings = {"rwkv.embeddings.weight"},
       .layer_keys = {"rwkv.blocks.#.attention.time_first", "rwkv.blocks.#.attention.time_mix_key",
                      "rwkv.blocks.#.attention.receptance.weight", "rwkv.blocks.#.ln1.weight",
                      "rwkv.blocks.#.feed_forward.key.weight"}},
  };
}

}  // namespace eigsvc
