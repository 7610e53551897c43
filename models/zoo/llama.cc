// Llama (arXiv 2302.13971) as Meta and Hugging Face store it, and its relatives: grouped-query softmax
// attention with rotary embeddings and a gated MLP, on a normed residual stream. Meta's and Hugging Face's
// layouts differ in keys and in which dimensions of q and k make a rotary pair.
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "ATen/ops/scalar_tensor.h"
#include "absl/strings/str_cat.h"
#include "models/base/status_macros.h"
#include "models/mixers/attention.h"
#include "models/mixers/experts.h"
#include "models/mixers/feed_forward.h"
#include "models/zoo/decoder.h"
#include "models/zoo/families.h"
#include "models/zoo/llama_settings.h"

namespace eigsvc {
namespace {

using Norms = LlamaKin::Norms;
using Windows = LlamaKin::Windows;

constexpr LlamaKin kLlama = {
    .family = "llama",
    .summary = "Llama: grouped-query softmax attention with rotary embeddings and a gated MLP",
    .reference = "arXiv 2302.13971; arXiv 2405.15731",
    .mlp_bias = true,
};
constexpr LlamaKin kMistral = {
    .family = "mistral",
    .summary = "Mistral: a Llama whose attention sees a sliding window",
    .reference = "arXiv 2310.06825; arXiv 2405.15731",
    .attention_bias = false,
    .windows = Windows::kEveryLayer,
    .trained_positions = 131072,
};
constexpr LlamaKin kMinistral = {
    .family = "ministral",
    .summary = "Ministral: a Mistral whose layers see a window or everything",
    .reference = "mistral.ai/news/ministraux; arXiv 2405.15731",
    .attention_bias = false,
    .windows = Windows::kLayerTypes,
    .trained_positions = 131072,
};
constexpr LlamaKin kQwen2 = {
    .family = "qwen2",
    .summary = "Qwen2: a Llama with biases of q, k and v, and windows in its upper layers where they are on",
    .reference = "arXiv 2407.10671; arXiv 2405.15731",
    .attention_bias = false,
    .qkv_bias = true,
    .windows = Windows::kUpperLayers,
    .trained_positions = 32768,
};
constexpr LlamaKin kQwen3 = {
    .family = "qwen3",
    .summary = "Qwen3: a Llama whose queries and keys are normalised over each head",
    .reference = "arXiv 2505.09388; arXiv 2405.15731",
    .qk_norm = AttentionSpec::QkNorm::kPerHead,
    .windows = Windows::kUpperLayers,
    .trained_positions = 32768,
};
constexpr LlamaKin kOlmo2 = {
    .family = "olmo2",
    .summary = "OLMo-2: norms after each sublayer, and over all of q and all of k",
    .reference = "arXiv 2501.00656; arXiv 2405.15731",
    .norm_eps = 1e-5,
    .norms = Norms::kAfter,
    .qk_norm = AttentionSpec::QkNorm::kWhole,
};
constexpr LlamaKin kOlmo3 = {
    .family = "olmo3",
    .summary = "OLMo-3: an OLMo-2 of which three layers in four see a sliding window",
    .reference = "github.com/allenai/OLMo-core; arXiv 2405.15731",
    .norm_eps = 1e-5,
    .norms = Norms::kAfter,
    .qk_norm = AttentionSpec::QkNorm::kWhole,
    .windows = Windows::kLayerTypes,
    .full_layer_period = 4,
    .rotary_base = 500000,
    .nested_rotary = true,
};
constexpr LlamaKin kGemma2 = {
    .family = "gemma2",
    .summary =
        "Gemma-2: capped scores and logits, norms before and after each sublayer, every other layer windowed",
    .reference = "arXiv 2408.00118; arXiv 2405.15731",
    .norm = NormSpec::Kind::kRmsPlusOne,
    .norms = Norms::kBoth,
    .activation = "hidden_activation",
    .default_activation = "gelu_pytorch_tanh",
    .windows = Windows::kLayerTypes,
    .full_layer_period = 2,
    .trained_positions = 8192,
    .score_cap = 50,
    .logits_cap = 30,
    .query_scalar = 256,
    .scaled_embedding = true,
    .tied = true,
};
constexpr LlamaKin kGranite = {
    .family = "granite",
    .summary = "Granite: a Llama whose embedding, scores, residuals and logits have multipliers",
    .reference = "github.com/ibm-granite/granite-3.0-language-models; arXiv 2405.15731",
    .mlp_bias = true,
    .multipliers = true,
};
constexpr LlamaKin kGptOss = {
    .family = "gpt_oss",
    .summary = "gpt-oss: attention with sinks, every other layer windowed, and a mixture of experts",
    .reference = "arXiv 2508.10925; arXiv 2405.15731",
    .norm_eps = 1e-5,
    .windows = Windows::kLayerTypes,
    .default_window = 128,
    .full_layer_period = 2,
    .rotary_base = 150000,
    .silent_rotary =
        R"({"rope_parameters": {"rope_type": "yarn", "factor": 32, "beta_fast": 32, "beta_slow": 1,
        "truncate": false, "original_max_position_embeddings": 4096}})",
    .trained_positions = 131072,
    .sinks = true,
    .experts = true,
};
constexpr LlamaKin kFlaTransformer = {
    .family = "transformer",
    .summary = "the softmax transformer of flash-linear-attention, a Llama that may see a sliding window",
    .reference = "github.com/fla-org/flash-linear-attention; arXiv 2405.15731",
    .layout = "fla",
    .attention_bias = false,
    .default_activation = "swish",
    .windows = Windows::kEveryLayer,
};

void UseMetaKeys(DecoderSpec& spec) {
  spec.embedding_key = "tok_embeddings";
  spec.norm_key = "norm";
  spec.head_key = "output";
  spec.layer_prefix = "layers.#.";
  spec.layer_keys = {{"self_attn.q_proj", "attention.wq"},  {"self_attn.k_proj", "attention.wk"},
                     {"self_attn.v_proj", "attention.wv"},  {"self_attn.o_proj", "attention.wo"},
                     {"input_layernorm", "attention_norm"}, {"post_attention_layernorm", "ffn_norm"},
                     {"mlp.gate_proj", "feed_forward.w1"},  {"mlp.up_proj", "feed_forward.w3"},
                     {"mlp.down_proj", "feed_forward.w2"}};
}

void UseFlaKeys(DecoderSpec& spec) {
  spec.embedding_key = "model.embeddings";
  spec.layer_keys = {
      {"self_attn.", "attn."}, {"input_layernorm", "attn_norm"}, {"post_attention_layernorm", "mlp_norm"}};
}

// x + [norm](scale·module([norm](x))): the names of the norms are Hugging Face's.
Sublayer SublayerOf(const LlamaKin& kin, std::unique_ptr<const Module> module, double scale, bool attends) {
  Sublayer sublayer;
  Branch branch{std::move(module)};
  branch.output_scale = scale;
  switch (kin.norms) {
    case Norms::kBefore:
      branch.norm = attends ? "input_layernorm" : "post_attention_layernorm";
      break;
    case Norms::kAfter:
      sublayer.post_norm = attends ? "post_attention_layernorm" : "post_feedforward_layernorm";
      break;
    case Norms::kBoth:
      branch.norm = attends ? "input_layernorm" : "pre_feedforward_layernorm";
      sublayer.post_norm = attends ? "post_attention_layernorm" : "post_feedforward_layernorm";
      break;
  }
  sublayer.branches.push_back(std::move(branch));
  return sublayer;
}

DecoderSpec LlamaSpec(const LlamaKin& kin, const std::string& layout, LlamaSettings settings,
                      at::ScalarType dtype) {
  DecoderSpec spec;
  spec.description.family = std::string(kin.family);
  spec.description.layout = layout;
  spec.description.conventions.gauges = {Gauge::kDsf, Gauge::kRaw};
  spec.description.width = settings.attention.width;
  spec.description.vocab_size = settings.vocab_size;
  spec.description.settings = std::move(settings.resolved);
  spec.norm = settings.norm;
  // Gemma's factor is rounded as the embedding is.
  spec.embedding_scale = kin.scaled_embedding
                             ? at::scalar_tensor(settings.embedding_scale, dtype).item<double>()
                             : settings.embedding_scale;
  spec.logits_scale = settings.logits_scale;
  spec.logits_cap = settings.logits_cap;
  spec.tied = settings.tied;
  spec.draw_deviation = settings.draw_deviation;
  // Tables of angles, which are computed here.
  spec.ignored_keys = {"*.rotary_emb.inv_freq", "rope.freqs"};
  if (layout == "meta") UseMetaKeys(spec);
  if (layout == "fla") UseFlaKeys(spec);

  const auto rotary = std::make_shared<Rotary>(std::move(settings.rotary), dtype);
  const auto window_rotary =
      kin.nested_rotary ? std::make_shared<Rotary>(std::move(settings.window_rotary), dtype) : rotary;
  for (const int64_t window : settings.windows) {
    AttentionSpec attention = settings.attention;
    attention.window = window;
    attention.rotary = window > 0 ? window_rotary : rotary;
    std::unique_ptr<const Module> network;
    if (kin.experts) {
      network = std::make_unique<Experts>("mlp.", settings.experts);
    } else {
      network = std::make_unique<GatedFeedForward>("mlp.", settings.mlp);
    }
    std::vector<Sublayer>& sublayers = spec.layers.emplace_back();
    sublayers.push_back(SublayerOf(kin, std::make_unique<Attention>("self_attn.", std::move(attention)),
                                   settings.residual_scale, /*attends=*/true));
    sublayers.push_back(SublayerOf(kin, std::move(network), settings.residual_scale, /*attends=*/false));
  }
  return spec;
}

template <const LlamaKin& kKin>
absl::StatusOr<std::shared_ptr<const SequenceModel>> LoadLlama(const Archive& archive,
                                                               const Detection& detection,
                                                               const LoadOptions& options) {
  EIGSVC_ASSIGN_OR_RETURN(LlamaSettings settings, ReadLlama(kKin, detection.settings, detection.typed,
                                                            detection.layout, &archive, detection.layers));
  return LoadDecoder(LlamaSpec(kKin, detection.layout, std::move(settings), options.dtype), archive, options);
}

template <const LlamaKin& kKin>
absl::StatusOr<std::shared_ptr<const SequenceModel>> InitializeLlama(const Settings& settings, uint64_t seed,
                                                                     const LoadOptions& options) {
  EIGSVC_ASSIGN_OR_RETURN(const std::string layout, settings.TextOr("layout", kKin.layout));
  EIGSVC_ASSIGN_OR_RETURN(LlamaSettings read, ReadLlama(kKin, settings, settings, layout, nullptr, 0));
  return InitializeDecoder(LlamaSpec(kKin, layout, std::move(read), options.dtype), seed, options);
}

template <const LlamaKin& kKin>
FamilyEntry Entry(std::vector<std::string> layouts = {std::string(kKin.layout)}) {
  constexpr const char* kPlain =
      "λ_i = ν_{i-1}/ν_i of the softmax normalisers, per query head and step from the second on, real > 0";
  constexpr const char* kWindowed =
      "λ_i = ν_{i-1}/ν_i of the softmax normalisers, over the window where a layer has one: what leaves it "
      "is a "
      "delayed input; per query head and step from the second on, real > 0";
  constexpr const char* kSinks =
      "λ_i = ν_{i-1}/ν_i of the softmax normalisers with the sink's constant in each ν, over the window "
      "where a "
      "layer has one: what leaves it is a delayed input; per query head and step from the second on, real > "
      "0";
  const char* transition = kKin.sinks ? kSinks : kKin.windows == Windows::kNone ? kPlain : kWindowed;
  return {kKin.family,        std::move(layouts), kKin.summary,          transition,
          /*trainable=*/true, LoadLlama<kKin>,    InitializeLlama<kKin>, kKin.reference};
}

}  // namespace

FamilyEntry LlamaFamily() { return Entry<kLlama>({"meta", "huggingface"}); }
FamilyEntry MistralFamily() { return Entry<kMistral>(); }
FamilyEntry MinistralFamily() { return Entry<kMinistral>(); }
FamilyEntry Qwen2Family() { return Entry<kQwen2>(); }
FamilyEntry Qwen3Family() { return Entry<kQwen3>(); }
FamilyEntry Olmo2Family() { return Entry<kOlmo2>(); }
FamilyEntry Olmo3Family() { return Entry<kOlmo3>(); }
FamilyEntry Gemma2Family() { return Entry<kGemma2>(); }
FamilyEntry GraniteFamily() { return Entry<kGranite>(); }
FamilyEntry GptOssFamily() { return Entry<kGptOss>(); }
FamilyEntry TransformerFamily() { return Entry<kFlaTransformer>(); }

}  // namespace eigsvc
