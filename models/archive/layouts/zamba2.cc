#include "models/archive/layouts.h"

namespace eigsvc {

std::vector<Layout> Zamba2Layouts() {
  return {
      {.family = "zamba2",
       .name = "huggingface",
       .mixer = "mamba2 + shared attention",
       .model_types = {"zamba2"},
       .embeddings = {"model.embed_tokens.weight"},
       .some_layer_keys = {"model.layers.#.linear.weight", "model.layers.#.mamba_decoder.mamba.A_log",
                           "model.layers.#.shared_transformer.self_attn.q_proj.weight",
                           "model.layers.#.shared_transformer.feed_forward.gate_up_proj.weight"}},
  };
}

}  // namespace eigsvc
