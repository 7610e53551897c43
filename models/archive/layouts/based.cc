#include "models/archive/layouts.h"

namespace eigsvc {

std::vector<Layout> BasedLayouts() {
  return {
      {.family = "based",
       .name = "hazyresearch",
       .mixer = "convolution + linear attention + attention",
       .model_types = {"gpt2"},  // whose configuration it extends
       .embeddings = {"transformer.embeddings.word_embeddings.weight"},
       .layer_keys = {"transformer.layers.#.norm1.weight", "transformer.layers.#.norm2.weight",
                      "transformer.layers.#.mlp.fc1.weight", "transformer.layers.#.mlp.fc2.weight",
                      "transformer.layers.#.mixer.out_proj.weight"},
       .some_layer_keys = {"transformer.layers.#.mixer.proj_q.weight",
                           "transformer.layers.#.mixer.proj_k.weight"}},
      {.family = "based",
       .name = "hazyresearch",
       .mixer = "convolution + linear attention + attention",
       .model_types = {"gpt2"},
       .embeddings = {"model.transformer.embeddings.word_embeddings.weight"},
       .layer_keys = {"model.transformer.layers.#.norm1.weight", "model.transformer.layers.#.norm2.weight",
                      "model.transformer.layers.#.mlp.fc1.weight",
                      "model.transformer.layers.#.mlp.fc2.weight",
                      "model.transformer.layers.#.mixer.out_proj.weight"},
       .some_layer_keys = {"model.transformer.layers.#.mixer.proj_q.weight",
                           "model.transformer.layers.#.mixer.proj_k.weight"}},
  };
}

}  // namespace eigsvc
