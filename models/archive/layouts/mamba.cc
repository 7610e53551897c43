#include "models/archive/layouts.h"

namespace eigsvc {
namespace {

// Of every project's and of FalconMamba, which differ in the embedding and in settings.
std::vector<absl::string_view> MambaKeys() {
  return {"backbone.layers.#.mixer.A_log",          "backbone.layers.#.mixer.in_proj.weight",
          "backbone.layers.#.mixer.conv1d.weight",  "backbone.layers.#.mixer.x_proj.weight",
          "backbone.layers.#.mixer.dt_proj.weight", "backbone.layers.#.mixer.D",
          "backbone.layers.#.mixer.out_proj.weight"};
}

}  // namespace

std::vector<Layout> MambaLayouts() {
  return {
      {.family = "mamba",
       .name = "state-spaces",
       .mixer = "mamba",
       .embeddings = {"backbone.embedding.weight"},
       .layer_keys = MambaKeys()},
      {.family = "mamba",
       .name = "state-spaces",
       .mixer = "mamba + attention",
       .embeddings = {"backbone.embedding.weight"},
       .layer_keys = {"backbone.layers.#.mixer.in_proj.weight", "backbone.layers.#.mixer.out_proj.weight"},
       .some_layer_keys = {"backbone.layers.#.mixer.A_log", "backbone.layers.#.mixer.conv1d.weight",
                           "backbone.layers.#.mixer.x_proj.weight", "backbone.layers.#.mixer.dt_proj.weight",
                           "backbone.layers.#.mixer.D"}},
      {.family = "mamba",
       .name = "huggingface",
       .mixer = "mamba",
       .model_types = {"mamba"},
       .embeddings = {"backbone.embeddings.weight"},
       .layer_keys = MambaKeys()},
      {.family = "mamba",
       .name = "fla",
       .mixer = "mamba",
       .model_types = {"mamba"},
       .embeddings = {"backbone.embeddings.weight"},
       .layer_keys = MambaKeys(),
       .settings = {"norm_eps", "fuse_norm"}},
  };
}

std::vector<Layout> FalconMambaLayouts() {
  return {
      {.family = "falcon-mamba",
       .name = "huggingface",
       .mixer = "mamba",
       .model_types = {"falcon_mamba"},
       .embeddings = {"backbone.embeddings.weight"},
       .layer_keys = MambaKeys(),
       .relative = true},
  };
}

}  // namespace eigsvc
