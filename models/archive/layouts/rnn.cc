#include "models/archive/layouts.h"

namespace eigsvc {
namespace {

// What whoever wrote a model around torch.nn's layers called its embedding.
std::vector<absl::string_view> TorchEmbeddings() {
  return {"encoder.weight",    "embedding.weight",       "embed.weight",       "emb.weight",
          "embeddings.weight", "word_embeddings.weight", "embed_tokens.weight"};
}

}  // namespace

std::vector<Layout> LstmLayouts() {
  return {
      {.family = "lstm",
       .name = "torch",
       .mixer = "lstm",
       .embeddings = TorchEmbeddings(),
       .layer_keys = {"rnn.weight_hh_l#", "rnn.weight_ih_l#"},
       .gates = 4},
      {.family = "lstm",
       .name = "torch",
       .mixer = "lstm",
       .embeddings = TorchEmbeddings(),
       .layer_keys = {"lstm.weight_hh_l#", "lstm.weight_ih_l#"},
       .gates = 4},
  };
}

std::vector<Layout> GruLayouts() {
  return {
      {.family = "gru",
       .name = "torch",
       .mixer = "gru",
       .embeddings = TorchEmbeddings(),
       .layer_keys = {"rnn.weight_hh_l#", "rnn.weight_ih_l#"},
       .gates = 3},
      {.family = "gru",
       .name = "torch",
       .mixer = "gru",
       .embeddings = TorchEmbeddings(),
       .layer_keys = {"gru.weight_hh_l#", "gru.weight_ih_l#"},
       .gates = 3},
  };
}

std::vector<Layout> RnnLayouts() {
  return {
      {.family = "rnn",
       .name = "torch",
       .mixer = "rnn",
       .embeddings = TorchEmbeddings(),
       .layer_keys = {"rnn.weight_hh_l#", "rnn.weight_ih_l#"},
       .gates = 1},
  };
}

}  // namespace eigsvc
