#include "models/archive/layouts.h"

namespace eigsvc {

std::vector<Layout> Rwkv6Layouts() {
  return {
      {.family = "rwkv6",
       .name = "rwkv-lm",
       .mixer = "rwkv6",
       .embeddings = {"emb.weight"},
       .layer_keys = {"blocks.#.att.time_maa_w1", "blocks.#.att.time_decay_w1", "blocks.#.att.time_faaaa",
                      "blocks.#.att.receptance.weight", "blocks.#.att.ln_x.weight", "blocks.#.ln1.weight",
                      "blocks.#.ffn.key.weight"}},
      {.family = "rwkv6",
       .name = "fla",
       .mixer = "rwkv6",
       .model_types = {"rwkv6"},
       .embeddings = {"model.embeddings.weight"},
       .layer_keys = {"model.layers.#.attn.x_bias", "model.layers.#.attn.bonus",
                      "model.layers.#.attn.w_proj.linear.lora.0.weight",
                      "model.layers.#.attn.r_proj.linear.weight", "model.layers.#.attn.g_norm.weight",
                      "model.layers.#.attn_norm.weight", "model.layers.#.ffn.key.linear.weight"}},
  };
}

}  // namespace eigsvc
