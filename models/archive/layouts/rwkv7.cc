#include "models/archive/layouts.h"

namespace eigsvc {

std::vector<Layout> Rwkv7Layouts() {
  return {
      {.family = "rwkv7",
       .name = "rwkv-lm",
       .mixer = "rwkv7",
       .embeddings = {"emb.weight"},
       .layer_keys = {"blocks.#.att.r_k", "blocks.#.att.w0", "blocks.#.att.receptance.weight",
                      "blocks.#.att.ln_x.weight", "blocks.#.ln1.weight", "blocks.#.ffn.key.weight"}},
      {.family = "rwkv7",
       .name = "rwkv-lm-demo",
       .mixer = "rwkv7",
       .embeddings = {"e.weight"},
       .layer_keys = {"rwkv#.r_k", "rwkv#.w0", "rwkv#.receptance.weight", "rwkv#.ln_x.weight", "ln#a.weight",
                      "ffn#.key.weight"},
       .first_layer = 1},
      {.family = "rwkv7",
       .name = "fla",
       .mixer = "rwkv7",
       .model_types = {"rwkv7"},
       .embeddings = {"model.embeddings.weight"},
       .layer_keys = {"model.layers.#.attn.r_k", "model.layers.#.attn.w_lora.lora.0.weight",
                      "model.layers.#.attn.r_proj.weight", "model.layers.#.attn.g_norm.weight",
                      "model.layers.#.attn_norm.weight", "model.layers.#.ffn.key.weight"}},
  };
}

}  // namespace eigsvc
