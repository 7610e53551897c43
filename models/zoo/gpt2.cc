// GPT-2 as Hugging Face stores it: LayerNorm, fused q, k, v projection, softmax attention, LayerNorm, MLP, on
// a pre-normed residual stream; learned positions, biases everywhere. Linear weights are stored as (in, out).
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "ATen/TensorOperators.h"
#include "ATen/ops/embedding.h"
#include "ATen/ops/gelu.h"
#include "ATen/ops/linear.h"
#include "ATen/ops/relu.h"
#include "absl/strings/str_cat.h"
#include "models/base/status_macros.h"
#include "models/base/status_util.h"
#include "models/layers/norm.h"
#include "models/zoo/attention_model.h"
#include "models/zoo/families.h"
#include "models/zoo/settings_reader.h"
#include "models/zoo/weight_loader.h"

namespace eigsvc {
namespace {

enum class Gpt2Activation { kGeluTanh, kGelu, kRelu };

struct Gpt2Config {
  std::string prefix;  // "transformer.", or nothing in the files of the hub
  int64_t layers = 0, width = 0, vocab_size = 0, heads = 0, positions = 0, mlp_width = 0;
  double norm_eps = 1e-5;
  double draw_deviation = 0.02;
  Gpt2Activation activation = Gpt2Activation::kGeluTanh;
  std::string activation_name;
  bool scaled = true;            // scores by 1/√d
  bool scaled_by_layer = false;  // and by 1/(layer + 1)
  bool tied = true;

  Settings ToSettings() const {
    return Settings(nlohmann::json{{"family", "gpt2"},
                                   {"model_type", "gpt2"},
                                   {"architectures", {"GPT2LMHeadModel"}},
                                   {"vocab_size", vocab_size},
                                   {"n_embd", width},
                                   {"n_layer", layers},
                                   {"n_head", heads},
                                   {"n_positions", positions},
                                   {"n_inner", mlp_width},
                                   {"activation_function", activation_name},
                                   {"layer_norm_epsilon", norm_eps},
                                   {"scale_attn_weights", scaled},
                                   {"scale_attn_by_inverse_layer_idx", scaled_by_layer},
                                   {"tie_word_embeddings", tied},
                                   {"initializer_range", draw_deviation}},
                    "the model's settings");
  }
};

struct Gpt2Shapes {
  std::optional<int64_t> layers, width, vocab_size, positions, mlp_width;
};

absl::StatusOr<Gpt2Config> ReadGpt2(const Settings& settings, const Settings& typed,
                                    const Gpt2Shapes& shapes) {
  EIGSVC_RETURN_IF_ERROR(CheckKnownSettings(
      typed, "gpt2",
      {"vocab_size", "n_embd", "n_layer", "n_head", "n_positions", "n_ctx", "n_inner", "activation_function",
       "layer_norm_epsilon", "scale_attn_weights", "scale_attn_by_inverse_layer_idx", "tie_word_embeddings",
       "tie_embeddings", "add_cross_attention", "reorder_and_upcast_attn"}));
  constexpr int64_t kLargest = int64_t{1} << 24;
  const bool fresh = !shapes.layers.has_value();
  SettingsReader reader(settings);
  Gpt2Config config;
  config.prefix = "transformer.";
  config.layers = reader.IntWithin({"n_layer"}, 1, 4096, shapes.layers.value_or(2));
  config.width = reader.IntWithin({"n_embd"}, 1, kLargest, shapes.width.value_or(64));
  config.vocab_size = reader.StoredSize({"vocab_size"}, shapes.vocab_size, 1, kLargest, 64);
  config.heads = reader.IntWithin({"n_head"}, 1, 65536, fresh ? std::optional<int64_t>(4) : std::nullopt);
  config.positions = reader.IntWithin({"n_positions", "n_ctx"}, 1, kLargest, shapes.positions.value_or(1024));
  config.mlp_width = reader.IntWithin({"n_inner"}, 1, kLargest, shapes.mlp_width.value_or(4 * config.width));
  config.norm_eps = reader.Real({"layer_norm_epsilon"}, 1e-5);
  config.draw_deviation = reader.Real({"initializer_range"}, 0.02);
  config.scaled = reader.Bool({"scale_attn_weights"}, true);
  config.scaled_by_layer = reader.Bool({"scale_attn_by_inverse_layer_idx"}, false);
  config.tied = reader.Bool({"tie_embeddings", "tie_word_embeddings"}, true);
  config.activation_name = reader.Text({"activation_function"}, "gelu_new");
  const bool cross_attention = reader.Bool({"add_cross_attention"}, false);
  EIGSVC_RETURN_IF_ERROR(reader.status());
  if (cross_attention) {
    return absl::FailedPreconditionError(
        "setting \"add_cross_attention\" is true: decoders of an encoder are not supported");
  }
  if (config.activation_name == "gelu_new" || config.activation_name == "gelu_pytorch_tanh") {
    config.activation = Gpt2Activation::kGeluTanh;
  } else if (config.activation_name == "gelu") {
    config.activation = Gpt2Activation::kGelu;
  } else if (config.activation_name == "relu") {
    config.activation = Gpt2Activation::kRelu;
  } else {
    return absl::FailedPreconditionError(
        absl::StrCat("setting \"activation_function\" is \"", config.activation_name,
                     "\"; supported: gelu_new, gelu_pytorch_tanh, gelu, relu"));
  }
  if (config.width % config.heads != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("n_embd ", config.width, " does not divide into n_head = ", config.heads, " heads"));
  }
  if (!(config.norm_eps >= 0 && std::isfinite(config.norm_eps)) || !(config.draw_deviation >= 0)) {
    return absl::InvalidArgumentError(
        "layer_norm_epsilon and initializer_range must be non-negative numbers");
  }
  return config;
}

WeightPlan Gpt2Plan(const Gpt2Config& config) {
  WeightPlan plan;
  const auto add = [&](int layer, const std::string& name, const std::string& key, std::vector<int64_t> shape,
                       Draw draw, bool transposed = false) {
    plan.push_back({layer, name, key, std::move(shape), std::move(draw), transposed});
  };
  const auto norm = [&](int layer, const std::string& name, const std::string& key) {
    add(layer, name + ".weight", key + ".weight", {config.width}, DrawConstant(1));
    add(layer, name + ".bias", key + ".bias", {config.width}, DrawConstant(0));
  };
  const Draw draw = DrawNormal(config.draw_deviation);
  // What adds to the residual stream starts smaller the deeper the model (the reference's initialiser).
  const Draw residual =
      DrawNormal(config.draw_deviation / std::sqrt(2.0 * static_cast<double>(config.layers)));
  add(WeightSpec::kOuter, "embedding", config.prefix + "wte.weight", {config.vocab_size, config.width}, draw);
  add(WeightSpec::kOuter, "positions", config.prefix + "wpe.weight", {config.positions, config.width}, draw);
  norm(WeightSpec::kOuter, "ln_f", config.prefix + "ln_f");
  add(WeightSpec::kOuter, "head", "lm_head.weight", {config.vocab_size, config.width}, draw);
  if (config.tied) plan.back().tied_to = "embedding";
  for (int layer = 0; layer < config.layers; ++layer) {
    const std::string prefix = absl::StrCat(config.prefix, "h.", layer, ".");
    const auto linear = [&](const std::string& name, int64_t out, int64_t in, const Draw& how) {
      add(layer, name + ".weight", prefix + name + ".weight", {out, in}, how, /*transposed=*/true);
      add(layer, name + ".bias", prefix + name + ".bias", {out}, DrawConstant(0));
    };
    norm(layer, "ln_1", prefix + "ln_1");
    linear("attn.c_attn", 3 * config.width, config.width, draw);
    linear("attn.c_proj", config.width, config.width, residual);
    norm(layer, "ln_2", prefix + "ln_2");
    linear("mlp.c_fc", config.mlp_width, config.width, draw);
    linear("mlp.c_proj", config.width, config.mlp_width, residual);
  }
  return plan;
}

ModelDescription Gpt2Description(const Gpt2Config& config) {
  ModelDescription description;
  description.family = "gpt2";
  description.layout = "huggingface";
  description.width = config.width;
  description.vocab_size = config.vocab_size;
  description.max_positions = config.positions;
  description.settings = config.ToSettings();
  const int64_t head_size = config.width / config.heads;
  DescribeAttention({config.heads, config.heads, head_size, head_size}, config.layers, description);
  return description;
}

class Gpt2 final : public AttentionModel {
 public:
  Gpt2(const Gpt2Config& config, WeightPlan plan, ModelWeights weights, at::ScalarType dtype)
      : AttentionModel(Gpt2Description(config), std::move(plan), std::move(weights), dtype),
        config_(config) {}

 private:
  at::Tensor DoEmbed(const ModelWeights& weights, const at::Tensor& tokens,
                     int64_t first_position) const override {
    return at::embedding(weights.outer["embedding"], tokens) +
           weights.outer["positions"].narrow(0, first_position, tokens.size(1));
  }

  at::Tensor DoHead(const ModelWeights& weights, const at::Tensor& x) const override {
    return at::linear(Normed(weights.outer, "ln_f", x), weights.outer["head"]);
  }

  double Scale(int index) const override {
    const double scale =
        config_.scaled ? 1 / std::sqrt(static_cast<double>(config_.width / config_.heads)) : 1;
    return config_.scaled_by_layer ? scale / (index + 1) : scale;
  }

  AttentionHeads Project(const Weights& weights, const at::Tensor& x, int64_t, LayerState&) const override {
    const at::Tensor projected = Affine(weights, "attn.c_attn", Normed(weights, "ln_1", x));
    const std::vector<at::Tensor> parts = projected.unflatten(-1, {3 * config_.heads, -1}).chunk(3, 2);
    return {parts[0], parts[1], parts[2]};
  }

  at::Tensor Finish(const Weights& weights, const at::Tensor& x, const at::Tensor& attended) const override {
    // Sums go into the fresh buffer of the product.
    const at::Tensor middle = Affine(weights, "attn.c_proj", attended).add_(x);
    const at::Tensor hidden = Activated(Affine(weights, "mlp.c_fc", Normed(weights, "ln_2", middle)));
    return Affine(weights, "mlp.c_proj", hidden).add_(middle);
  }

  at::Tensor Activated(const at::Tensor& x) const {
    if (config_.activation == Gpt2Activation::kRelu) return at::relu(x);
    return at::gelu(x, config_.activation == Gpt2Activation::kGelu ? "none" : "tanh");
  }

  at::Tensor Normed(const Weights& weights, const std::string& name, const at::Tensor& x) const {
    return LayerNorm(x, weights[name + ".weight"], weights[name + ".bias"], config_.norm_eps);
  }

  static at::Tensor Affine(const Weights& weights, const std::string& name, const at::Tensor& x) {
    return at::linear(x, weights[name + ".weight"], weights[name + ".bias"]);
  }

  const Gpt2Config config_;
};

absl::StatusOr<std::shared_ptr<const SequenceModel>> LoadGpt2(const Archive& archive,
                                                              const Detection& detection,
                                                              const LoadOptions& options) {
  const std::string prefix = archive.tensors().contains("transformer.wte.weight") ? "transformer." : "";
  Gpt2Shapes shapes;
  shapes.layers = detection.layers;
  shapes.vocab_size = StoredSize(archive, prefix + "wte.weight", 0);
  shapes.width = StoredSize(archive, prefix + "wte.weight", 1);
  shapes.positions = StoredSize(archive, prefix + "wpe.weight", 0);
  shapes.mlp_width = StoredSize(archive, prefix + "h.0.mlp.c_fc.weight", 1);
  EIGSVC_ASSIGN_OR_RETURN(Gpt2Config config, ReadGpt2(detection.settings, detection.typed, shapes));
  config.prefix = prefix;
  WeightPlan plan = Gpt2Plan(config);
  // Old files carry the causal mask.
  EIGSVC_ASSIGN_OR_RETURN(ModelWeights weights,
                          LoadWeights(archive, plan, {"*.attn.bias", "*.attn.masked_bias"}, options));
  return std::make_shared<Gpt2>(config, std::move(plan), std::move(weights), options.dtype);
}

absl::StatusOr<std::shared_ptr<const SequenceModel>> InitializeGpt2(const Settings& settings, uint64_t seed,
                                                                    const LoadOptions& options) {
  EIGSVC_ASSIGN_OR_RETURN(const Gpt2Config config, ReadGpt2(settings, settings, {}));
  WeightPlan plan = Gpt2Plan(config);
  EIGSVC_ASSIGN_OR_RETURN(ModelWeights weights, InitializeWeights(plan, seed, options));
  return std::make_shared<Gpt2>(config, std::move(plan), std::move(weights), options.dtype);
}

}  // namespace

FamilyEntry Gpt2Family() {
  return {"gpt2",
          {"huggingface"},
          "GPT-2: softmax attention with learned positions and a GELU MLP",
          "λ_i = ν_{i-1}/ν_i of the softmax normalisers, per head and step from the second on, real > 0",
          /*trainable=*/true,
          LoadGpt2,
          InitializeGpt2,
          "Radford et al. 2019; arXiv 2405.15731"};
}

}  // namespace eigsvc
