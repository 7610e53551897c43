#include "models/archive/layouts.h"

namespace eigsvc {

std::vector<Layout> Gpt2Layouts() {
  return {
      {.family = "gpt2",
       .name = "huggingface",
       .mixer = "attention",
       .model_types = {"gpt2"},
       .embeddings = {"wte.weight"},
       .layer_keys = {"h.#.attn.c_attn.weight", "h.#.attn.c_proj.weight", "h.#.ln_1.weight",
                      "h.#.mlp.c_fc.weight"}},
      {.family = "gpt2",
       .name = "huggingface",
       .mixer = "attention",
       .model_types = {"gpt2"},
       .embeddings = {"transformer.wte.weight"},
       .layer_keys = {"transformer.h.#.attn.c_attn.weight", "transformer.h.#.attn.c_proj.weight",
                      "transformer.h.#.ln_1.weight", "transformer.h.#.mlp.c_fc.weight"}},
  };
}

}  // namespace eigsvc
