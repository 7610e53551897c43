#include "models/archive/layouts.h"

namespace eigsvc {

std::vector<Layout> BambaLayouts() {
  return {
      {.family = "bamba",
       .name = "huggingface",
       .mixer = "mamba2 + attention",
       .model_types = {"bamba"},
       .embeddings = {"model.embed_tokens.weight"},
       .layer_keys = {"model.layers.#.input_layernorm.weight", "model.layers.#.pre_ff_layernorm.weight",
                      "model.layers.#.feed_forward.gate_proj.weight"},
       .some_layer_keys = {"model.layers.#.mamba.A_log", "model.layers.#.mamba.dt_bias"}},
  };
}

std::vector<Layout> GraniteHybridLayouts() {
  return {
      {.family = "granite-hybrid",
       .name = "huggingface",
       .mixer = "mamba2 + attention",
       .model_types = {"granitemoehybrid"},
       .embeddings = {"model.embed_tokens.weight"},
       .layer_keys = {"model.layers.#.input_layernorm.weight",
                      "model.layers.#.post_attention_layernorm.weight",
                      "model.layers.#.shared_mlp.input_linear.weight",
                      "model.layers.#.shared_mlp.output_linear.weight"}},
  };
}

}  // namespace eigsvc
