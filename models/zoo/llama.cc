// Llama (arXiv 2302.13971) as Meta and Hugging Face store it: RMSNorm, grouped-query attention with rotary
// embeddings, RMSNorm, SwiGLU, on a pre-normed residual stream. The two layouts differ in keys and in which
// dimensions of q and k make a rotary pair.
#include <cmath>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "ATen/TensorOperators.h"
#include "ATen/ops/embedding.h"
#include "ATen/ops/linear.h"
#include "absl/strings/str_cat.h"
#include "models/base/status_macros.h"
#include "models/layers/mlp.h"
#include "models/layers/norm.h"
#include "models/layers/rope.h"
#include "models/zoo/attention_model.h"
#include "models/zoo/families.h"
#include "models/zoo/llama_config.h"
#include "models/zoo/weight_loader.h"

namespace eigsvc {
namespace {

// Keys of one layout, after the layer's prefix.
struct LlamaKeys {
  const char *embedding, *norm, *head, *layers;
  const char *attention_norm, *wq, *wk, *wv, *wo, *mlp_norm, *gate, *up, *down;
};
constexpr LlamaKeys kMetaKeys = {"tok_embeddings", "norm",         "output",          "layers.",
                                 "attention_norm", "attention.wq", "attention.wk",    "attention.wv",
                                 "attention.wo",   "ffn_norm",     "feed_forward.w1", "feed_forward.w3",
                                 "feed_forward.w2"};
constexpr LlamaKeys kHuggingFaceLlamaKeys = {"model.embed_tokens",
                                             "model.norm",
                                             "lm_head",
                                             "model.layers.",
                                             "input_layernorm",
                                             "self_attn.q_proj",
                                             "self_attn.k_proj",
                                             "self_attn.v_proj",
                                             "self_attn.o_proj",
                                             "post_attention_layernorm",
                                             "mlp.gate_proj",
                                             "mlp.up_proj",
                                             "mlp.down_proj"};

WeightPlan LlamaPlan(const LlamaConfig& config) {
  const LlamaKeys& keys = config.layout == "meta" ? kMetaKeys : kHuggingFaceLlamaKeys;
  const Draw draw = DrawNormal(config.draw_deviation);
  WeightPlan plan;
  const auto add = [&](int layer, const std::string& name, const std::string& key, std::vector<int64_t> shape,
                       Draw how) {
    plan.push_back({layer, name, key, std::move(shape), std::move(how)});
  };
  add(WeightSpec::kOuter, "embedding", absl::StrCat(keys.embedding, ".weight"),
      {config.vocab_size, config.width}, draw);
  add(WeightSpec::kOuter, "norm", absl::StrCat(keys.norm, ".weight"), {config.width}, DrawConstant(1));
  add(WeightSpec::kOuter, "head", absl::StrCat(keys.head, ".weight"), {config.vocab_size, config.width},
      draw);
  if (config.tied) plan.back().tied_to = "embedding";
  for (int layer = 0; layer < config.layers; ++layer) {
    const std::string prefix = absl::StrCat(keys.layers, layer, ".");
    const auto linear = [&](const char* name, const char* key, int64_t out, int64_t in, bool bias) {
      add(layer, name, absl::StrCat(prefix, key, ".weight"), {out, in}, draw);
      if (bias)
        add(layer, absl::StrCat(name, ".bias"), absl::StrCat(prefix, key, ".bias"), {out}, DrawConstant(0));
    };
    const auto norm = [&](const char* name, const char* key) {
      add(layer, name, absl::StrCat(prefix, key, ".weight"), {config.width}, DrawConstant(1));
    };
    const int64_t query_rows = config.heads * config.head_size, key_rows = config.groups * config.head_size;
    norm("attention_norm", keys.attention_norm);
    linear("wq", keys.wq, query_rows, config.width, config.attention_bias);
    linear("wk", keys.wk, key_rows, config.width, config.attention_bias);
    linear("wv", keys.wv, key_rows, config.width, config.attention_bias);
    linear("wo", keys.wo, config.width, query_rows, config.attention_bias);
    norm("mlp_norm", keys.mlp_norm);
    linear("gate", keys.gate, config.mlp_width, config.width, config.mlp_bias);
    linear("up", keys.up, config.mlp_width, config.width, config.mlp_bias);
    linear("down", keys.down, config.width, config.mlp_width, config.mlp_bias);
  }
  return plan;
}

ModelDescription LlamaDescription(const LlamaConfig& config) {
  ModelDescription description;
  description.family = "llama";
  description.layout = config.layout;
  description.width = config.width;
  description.vocab_size = config.vocab_size;
  description.settings = config.ToSettings();
  DescribeAttention({config.heads, config.groups, config.head_size, config.head_size}, config.layers,
                    description);
  return description;
}

class Llama final : public AttentionModel {
 public:
  Llama(const LlamaConfig& config, WeightPlan plan, ModelWeights weights, at::ScalarType dtype)
      : AttentionModel(LlamaDescription(config), std::move(plan), std::move(weights), dtype),
        config_(config),
        rotary_(RotaryFrequencies(config.head_size, config.rotary_base, config.scaling, dtype),
                config.layout == "meta" ? RotaryPairs::kInterleaved : RotaryPairs::kHalves) {}

 private:
  at::Tensor DoEmbed(const ModelWeights& weights, const at::Tensor& tokens, int64_t) const override {
    return at::embedding(weights.outer["embedding"], tokens);
  }

  at::Tensor DoHead(const ModelWeights& weights, const at::Tensor& x) const override {
    return at::linear(RmsNorm(x, weights.outer["norm"], config_.norm_eps), weights.outer["head"]);
  }

  double Scale(int) const override { return 1 / std::sqrt(static_cast<double>(config_.head_size)); }

  AttentionHeads Project(const Weights& weights, const at::Tensor& x, int64_t first,
                         LayerState&) const override {
    const at::Tensor normed = RmsNorm(x, weights["attention_norm"], config_.norm_eps);
    const auto heads = [&](const char* name, int64_t count) {
      return Linear(normed, weights[name], Bias(weights, name)).unflatten(-1, {count, config_.head_size});
    };
    return {rotary_.Turn(heads("wq", config_.heads), first), rotary_.Turn(heads("wk", config_.groups), first),
            heads("wv", config_.groups)};
  }

  at::Tensor Finish(const Weights& weights, const at::Tensor& x, const at::Tensor& attended) const override {
    // Sums go into the fresh buffer of the product.
    const at::Tensor middle = Linear(attended, weights["wo"], Bias(weights, "wo")).add_(x);
    return SwiGlu(RmsNorm(middle, weights["mlp_norm"], config_.norm_eps),
                  {weights["gate"], Bias(weights, "gate"), weights["up"], Bias(weights, "up"),
                   weights["down"], Bias(weights, "down")})
        .add_(middle);
  }

  static at::Tensor Bias(const Weights& weights, const char* name) {
    const std::string key = absl::StrCat(name, ".bias");
    return weights.Has(key) ? weights[key] : at::Tensor();
  }

  const LlamaConfig config_;
  const Rotary rotary_;
};

absl::StatusOr<std::shared_ptr<const SequenceModel>> LoadLlama(const Archive& archive,
                                                               const Detection& detection,
                                                               const LoadOptions& options) {
  EIGSVC_ASSIGN_OR_RETURN(const LlamaConfig config, LlamaConfigOf(archive, detection));
  WeightPlan plan = LlamaPlan(config);
  // Tables of angles, which are computed here.
  EIGSVC_ASSIGN_OR_RETURN(ModelWeights weights,
                          LoadWeights(archive, plan, {"*.rotary_emb.inv_freq", "rope.freqs"}, options));
  return std::make_shared<Llama>(config, std::move(plan), std::move(weights), options.dtype);
}

absl::StatusOr<std::shared_ptr<const SequenceModel>> InitializeLlama(const Settings& settings, uint64_t seed,
                                                                     const LoadOptions& options) {
  EIGSVC_ASSIGN_OR_RETURN(const LlamaConfig config, LlamaConfigOf(settings));
  WeightPlan plan = LlamaPlan(config);
  EIGSVC_ASSIGN_OR_RETURN(ModelWeights weights, InitializeWeights(plan, seed, options));
  return std::make_shared<Llama>(config, std::move(plan), std::move(weights), options.dtype);
}

}  // namespace

FamilyEntry LlamaFamily() {
  return {
      "llama",
      {"meta", "huggingface"},
      "Llama: grouped-query softmax attention with rotary embeddings and a gated MLP",
      "λ_i = ν_{i-1}/ν_i of the softmax normalisers, per query head and step from the second on, real > 0",
      /*trainable=*/true,
      LoadLlama,
      InitializeLlama,
      "arXiv 2302.13971; arXiv 2405.15731"};
}

}  // namespace eigsvc
