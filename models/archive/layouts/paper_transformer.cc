#include "models/archive/layouts.h"

namespace eigsvc {

std::vector<Layout> SoftmaxAttentionLayouts() {
  return {
      {.family = "softmax-attention",
       .name = "paper",
       .mixer = "attention",
       .attention_fns = {"sm-attention", "sm", "softmax"},
       .embeddings = {"encoder.word_embeddings.weight", "encoder.weight"},
       .layer_keys = {"layers.#.attention.Wqkv.weight", "layers.#.attention.out_proj.weight",
                      "layers.#.norm.weight"}},
      {.family = "softmax-attention",
       .name = "ssm-benchmark",
       .mixer = "attention",
       .attention_fns = {"sm-attention", "sm", "softmax"},
       .embeddings = {"encoder.word_embeddings.weight", "encoder.weight"},
       .layer_keys = {"layers.#.attention.Wqk.weight", "layers.#.attention.Wv.weight",
                      "layers.#.attention.out_proj.weight", "layers.#.lambd", "layers.#.norm.weight"}},
  };
}

std::vector<Layout> LinearAttentionLayouts() {
  return {
      {.family = "linear-attention",
       .name = "paper",
       .mixer = "linear_attention",
       .attention_fns = {"lin-attention", "linear"},
       .embeddings = {"encoder.word_embeddings.weight", "encoder.weight"},
       .layer_keys = {"layers.#.attention.Wqkv.weight", "layers.#.attention.out_proj.weight",
                      "layers.#.norm.weight"},
       .relative = true},
      {.family = "linear-attention",
       .name = "ssm-benchmark",
       .mixer = "linear_attention",
       .attention_fns = {"lin-attention", "linear"},
       .embeddings = {"encoder.word_embeddings.weight", "encoder.weight"},
       .layer_keys = {"layers.#.attention.Wqk.weight", "layers.#.attention.Wv.weight",
                      "layers.#.attention.out_proj.weight", "layers.#.lambd", "layers.#.norm.weight"},
       .relative = true},
  };
}

std::vector<Layout> NormAttentionLayouts() {
  return {
      {.family = "norm-attention",
       .name = "paper",
       .mixer = "norm_attention",
       .attention_fns = {"norm-attention"},
       .embeddings = {"encoder.word_embeddings.weight", "encoder.weight"},
       .layer_keys = {"layers.#.attention.Wvqkn.weight", "layers.#.attention.out_proj.weight",
                      "layers.#.norm.weight"}},
      {.family = "norm-attention",
       .name = "ssm-benchmark",
       .mixer = "norm_attention",
       .attention_fns = {"norm-attention"},
       .embeddings = {"encoder.word_embeddings.weight", "encoder.weight"},
       .layer_keys = {"layers.#.attention.Wqk.weight", "layers.#.attention.Wv.weight",
                      "layers.#.attention.Wn.weight", "layers.#.attention.out_proj.weight", "layers.#.lambd",
                      "layers.#.norm.weight"}},
  };
}

}  // namespace eigsvc
