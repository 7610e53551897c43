#include "models/archive/layouts.h"

namespace eigsvc {
namespace {

// Of state-spaces, transformers and flash-linear-attention, which differ in the embedding and in settings.
std::vector<absl::string_view> Mamba2Keys() {
  return {"backbone.layers.#.mixer.A_log",
          "backbone.layers.#.mixer.in_proj.weight",
          "backbone.layers.#.mixer.conv1d.weight",
          "backbone.layers.#.mixer.dt_bias",
          "backbone.layers.#.mixer.D",
          "backbone.layers.#.mixer.out_proj.weight"};
}

}  // namespace

std::vector<Layout> Mamba2Layouts() {
  return {
      {.family = "mamba2",
       .name = "state-spaces",
       .mixer = "mamba2",
       .embeddings = {"backbone.embedding.weight"},
       .layer_keys = Mamba2Keys()},
      {.family = "mamba2",
       .name = "state-spaces",
       .mixer = "mamba2 + attention",
       .embeddings = {"backbone.embedding.weight"},
       .layer_keys = {"backbone.layers.#.mixer.in_proj.weight", "backbone.layers.#.mixer.out_proj.weight"},
       .some_layer_keys = {"backbone.layers.#.mixer.A_log", "backbone.layers.#.mixer.conv1d.weight",
                           "backbone.layers.#.mixer.dt_bias", "backbone.layers.#.mixer.D"}},
      {.family = "mamba2",
       .name = "huggingface",
       .mixer = "mamba2",
       .model_types = {"mamba2"},
       .embeddings = {"backbone.embeddings.weight"},
       .layer_keys = Mamba2Keys()},
      {.family = "mamba2",
       .name = "fla",
       .mixer = "mamba2",
       .model_types = {"mamba2"},
       .embeddings = {"backbone.embeddings.weight"},
       .layer_keys = Mamba2Keys(),
       .settings = {"norm_eps", "fuse_norm"}},
      {.family = "mamba2",
       .name = "paper",
       .mixer = "mamba2",
       .embeddings = {"encoder.word_embeddings.weight", "encoder.weight"},
       .layer_keys = {"blocks.#.mamba.A_log", "blocks.#.mamba.in_proj.weight", "blocks.#.mamba.conv1d.weight",
                      "blocks.#.mamba.dt_bias", "blocks.#.mamba.D", "blocks.#.mamba.out_proj.weight"}},
      {.family = "mamba2",  // pseudo-LTI
       .name = "paper",
       .mixer = "mamba2",
       .embeddings = {"encoder.word_embeddings.weight", "encoder.weight"},
       .layer_keys = {"blocks.#.mamba.A", "blocks.#.mamba.beta", "blocks.#.mamba.in_proj.weight",
                      "blocks.#.mamba.dt_bias", "blocks.#.mamba.D", "blocks.#.mamba.out_proj.weight"}},
  };
}

}  // namespace eigsvc
