#include "models/archive/layouts.h"

namespace eigsvc {

std::vector<Layout> MinGruLayouts() {
  return {
      {.family = "min-gru",
       .name = "lucidrains",
       .mixer = "min-gru",
       .embeddings = {"token_emb.weight"},
       .layer_keys = {"layers.#.2.to_hidden_and_gate.weight", "layers.#.1.weight", "layers.#.3.weight",
                      "layers.#.4.0.weight"}},
  };
}

std::vector<Layout> MinLstmLayouts() {
  return {
      {.family = "min-lstm",
       .name = "lucidrains",
       .mixer = "min-lstm",
       .embeddings = {"token_emb.weight"},
       .layer_keys = {"layers.#.2.to_hidden_and_f_i_gate.weight", "layers.#.1.weight", "layers.#.3.weight",
                      "layers.#.4.0.weight"}},
  };
}

}  // namespace eigsvc
