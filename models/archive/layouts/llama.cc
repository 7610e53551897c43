#include "models/archive/layouts.h"

namespace eigsvc {
namespace {

// Llama's, and of its kin that store nothing else.
std::vector<absl::string_view> LlamaKeys() {
  return {"model.layers.#.self_attn.q_proj.weight", "model.layers.#.self_attn.k_proj.weight",
          "model.layers.#.self_attn.v_proj.weight", "model.layers.#.self_attn.o_proj.weight",
          "model.layers.#.input_layernorm.weight",  "model.layers.#.post_attention_layernorm.weight",
          "model.layers.#.mlp.gate_proj.weight"};
}

// OLMo's: norms of queries and keys, and norms after the blocks only.
std::vector<absl::string_view> OlmoKeys() {
  return {"model.layers.#.self_attn.q_proj.weight",
          "model.layers.#.self_attn.k_proj.weight",
          "model.layers.#.self_attn.v_proj.weight",
          "model.layers.#.self_attn.o_proj.weight",
          "model.layers.#.self_attn.q_norm.weight",
          "model.layers.#.self_attn.k_norm.weight",
          "model.layers.#.post_attention_layernorm.weight",
          "model.layers.#.post_feedforward_layernorm.weight",
          "model.layers.#.mlp.gate_proj.weight"};
}

}  // namespace

std::vector<Layout> LlamaLayouts() {
  return {
      {.family = "llama",
       .name = "meta",
       .mixer = "attention",
       .embeddings = {"tok_embeddings.weight"},
       .layer_keys = {"layers.#.attention.wq.weight", "layers.#.attention.wk.weight",
                      "layers.#.attention.wv.weight", "layers.#.attention.wo.weight",
                      "layers.#.attention_norm.weight", "layers.#.feed_forward.w1.weight"},
       .unwindowed = true},
      {.family = "llama",
       .name = "huggingface",
       .mixer = "attention",
       .model_types = {"llama"},
       .embeddings = {"model.embed_tokens.weight"},
       .layer_keys = LlamaKeys(),
       .unwindowed = true},
  };
}

std::vector<Layout> Qwen3Layouts() {
  return {
      {.family = "qwen3",
       .name = "huggingface",
       .mixer = "attention",
       .model_types = {"qwen3"},
       .embeddings = {"model.embed_tokens.weight"},
       .layer_keys = {"model.layers.#.self_attn.q_proj.weight", "model.layers.#.self_attn.k_proj.weight",
                      "model.layers.#.self_attn.v_proj.weight", "model.layers.#.self_attn.o_proj.weight",
                      "model.layers.#.self_attn.q_norm.weight", "model.layers.#.self_attn.k_norm.weight",
                      "model.layers.#.input_layernorm.weight",
                      "model.layers.#.post_attention_layernorm.weight",
                      "model.layers.#.mlp.gate_proj.weight"}},
  };
}

std::vector<Layout> MistralLayouts() {
  return {
      {.family = "mistral",
       .name = "huggingface",
       .mixer = "attention",
       .model_types = {"mistral"},
       .embeddings = {"model.embed_tokens.weight"},
       .layer_keys = LlamaKeys(),
       .relative = true},
  };
}

std::vector<Layout> MinistralLayouts() {
  return {
      {.family = "ministral",
       .name = "huggingface",
       .mixer = "attention",
       .model_types = {"ministral"},
       .embeddings = {"model.embed_tokens.weight"},
       .layer_keys = LlamaKeys(),
       .relative = true},
  };
}

std::vector<Layout> GraniteLayouts() {
  return {
      {.family = "granite",
       .name = "huggingface",
       .mixer = "attention",
       .model_types = {"granite"},
       .embeddings = {"model.embed_tokens.weight"},
       .layer_keys = LlamaKeys(),
       .relative = true,
       .unwindowed = true},
  };
}

std::vector<Layout> Qwen2Layouts() {
  return {
      {.family = "qwen2",
       .name = "huggingface",
       .mixer = "attention",
       .model_types = {"qwen2"},
       .embeddings = {"model.embed_tokens.weight"},
       .layer_keys = {"model.layers.#.self_attn.q_proj.weight", "model.layers.#.self_attn.k_proj.weight",
                      "model.layers.#.self_attn.v_proj.weight", "model.layers.#.self_attn.o_proj.weight",
                      "model.layers.#.self_attn.q_proj.bias", "model.layers.#.self_attn.k_proj.bias",
                      "model.layers.#.self_attn.v_proj.bias", "model.layers.#.input_layernorm.weight",
                      "model.layers.#.post_attention_layernorm.weight",
                      "model.layers.#.mlp.gate_proj.weight"}},
  };
}

std::vector<Layout> Olmo2Layouts() {
  return {
      {.family = "olmo2",
       .name = "huggingface",
       .mixer = "attention",
       .model_types = {"olmo2"},
       .embeddings = {"model.embed_tokens.weight"},
       .layer_keys = OlmoKeys(),
       .unwindowed = true},
  };
}

std::vector<Layout> Olmo3Layouts() {
  return {
      {.family = "olmo3",
       .name = "huggingface",
       .mixer = "attention",
       .model_types = {"olmo3"},
       .embeddings = {"model.embed_tokens.weight"},
       .layer_keys = OlmoKeys(),
       .relative = true},
  };
}

std::vector<Layout> Gemma2Layouts() {
  return {
      {.family = "gemma2",
       .name = "huggingface",
       .mixer = "attention",
       .model_types = {"gemma2"},
       .embeddings = {"model.embed_tokens.weight"},
       .layer_keys = {"model.layers.#.self_attn.q_proj.weight", "model.layers.#.self_attn.k_proj.weight",
                      "model.layers.#.self_attn.v_proj.weight", "model.layers.#.self_attn.o_proj.weight",
                      "model.layers.#.input_layernorm.weight",
                      "model.layers.#.post_attention_layernorm.weight",
                      "model.layers.#.pre_feedforward_layernorm.weight",
                      "model.layers.#.post_feedforward_layernorm.weight",
                      "model.layers.#.mlp.gate_proj.weight"}},
  };
}

std::vector<Layout> GptOssLayouts() {
  return {
      {.family = "gpt_oss",
       .name = "huggingface",
       .mixer = "attention",
       .model_types = {"gpt_oss"},
       .embeddings = {"model.embed_tokens.weight"},
       .layer_keys = {"model.layers.#.self_attn.q_proj.weight", "model.layers.#.self_attn.k_proj.weight",
                      "model.layers.#.self_attn.v_proj.weight", "model.layers.#.self_attn.o_proj.weight",
                      "model.layers.#.self_attn.sinks", "model.layers.#.input_layernorm.weight",
                      "model.layers.#.post_attention_layernorm.weight", "model.layers.#.mlp.router.weight",
                      "model.layers.#.mlp.experts.gate_up_proj"}},
  };
}

std::vector<Layout> TransformerLayouts() {
  return {
      {.family = "transformer",
       .name = "fla",
       .mixer = "attention",
       .model_types = {"transformer"},
       .embeddings = {"model.embeddings.weight"},
       .layer_keys = {"model.layers.#.attn.q_proj.weight", "model.layers.#.attn.k_proj.weight",
                      "model.layers.#.attn.v_proj.weight", "model.layers.#.attn.o_proj.weight",
                      "model.layers.#.attn_norm.weight", "model.layers.#.mlp_norm.weight",
                      "model.layers.#.mlp.gate_proj.weight"}},
  };
}

}  // namespace eigsvc
