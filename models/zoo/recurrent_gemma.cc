// RecurrentGemma (arXiv 2404.07839), the published Griffin (arXiv 2402.19427), as Hugging Face and as its
// authors store it: blocks of the RG-LRU and of local attention with one group of keys.
#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "c10/util/BFloat16.h"
#include "models/base/status_macros.h"
#include "models/mixers/attention.h"
#include "models/mixers/feed_forward.h"
#include "models/mixers/griffin.h"
#include "models/zoo/families.h"
#include "models/zoo/hybrid_settings.h"
#include "models/zoo/weight_loader.h"

namespace eigsvc {
namespace {

constexpr absl::string_view kFamily = "recurrent-gemma";

// What both layouts come to.
struct GriffinConfig {
  int64_t layers = 0, width = 0, vocab_size = 0, hidden = 0;  // hidden: of the MLP
  std::vector<bool> attends;                                  // by layer
  GriffinSpec recurrent;
  AttentionSpec attention;
  Activation activation = Activation::kGeluTanh;
  double logits_cap = 0, eps = 1e-6;
  bool scaled_embedding = true;
};

// The published embeddings are scaled by √width as bfloat16 has it.
double EmbeddingScale(int64_t width) {
  return static_cast<double>(static_cast<float>(c10::BFloat16(std::sqrt(static_cast<float>(width)))));
}

std::vector<bool> Attends(const std::vector<std::string>& cycle, int64_t layers) {
  std::vector<bool> attends;
  for (int64_t layer = 0; layer < layers; ++layer)
    attends.push_back(cycle[layer % cycle.size()] == "attention");
  return attends;
}

absl::Status CheckBlockTypes(const std::vector<std::string>& types) {
  for (const std::string& type : types) {
    if (type != "recurrent" && type != "attention") {
      return absl::FailedPreconditionError(absl::StrCat("setting \"block_types\" has a block \"", type,
                                                        "\"; supported: recurrent, attention"));
    }
  }
  if (types.empty()) return absl::InvalidArgumentError("setting \"block_types\" is empty");
  return absl::OkStatus();
}

absl::StatusOr<GriffinConfig> HuggingFaceConfig(HybridReader& source, DecoderSpec& decoder, int64_t layers,
                                                at::ScalarType dtype) {
  SettingsReader& reader = source.reader;
  decoder = source.ReadShell(kFamily, "rms_norm_eps", 1e-6);
  decoder.norm_key = "model.final_norm";
  GriffinConfig config;
  config.eps = decoder.norm.eps;
  config.width = decoder.description.width;
  config.vocab_size = decoder.description.vocab_size;
  config.layers = source.ReadLayers(layers, 3);
  config.attention = source.ReadAttention(config.width);
  EIGSVC_RETURN_IF_ERROR(reader.status());
  source.ReadRotary(reader.Real({"rope_parameters.partial_rotary_factor", "partial_rotary_factor"}, 0.5),
                    dtype, config.attention);
  config.attention.qkv_bias = reader.Bool({"attention_bias"}, false);
  config.attention.window = reader.IntWithin({"attention_window_size"}, 1, int64_t{1} << 40, 2048);
  config.recurrent.channels = reader.IntWithin({"lru_width"}, 1, kLargestSize, config.width);
  config.recurrent.taps = reader.IntWithin({"conv1d_width"}, 1, 64, 4);
  config.activation = source.ReadActivation("hidden_activation", "gelu_pytorch_tanh");
  config.hidden = reader.IntWithin({"intermediate_size"}, 2, kLargestSize, 3 * config.width) / 2;
  config.logits_cap = reader.Positive({"logits_soft_cap"}, 30);
  const std::vector<std::string> types =
      reader.Texts({"block_types"}, {"recurrent", "recurrent", "attention"});
  reader.Ignore({"final_w_init_variance_scale", "head_dim", "rope_scaling", "w_init_variance_scale"});
  EIGSVC_RETURN_IF_ERROR(reader.status());
  EIGSVC_RETURN_IF_ERROR(CheckBlockTypes(types));
  config.recurrent.blocks = config.attention.heads;
  config.attends = Attends(types, config.layers);
  return config;
}

// A state dict of the authors' torch code, which has no settings beside it: shapes tell nearly all.
absl::StatusOr<GriffinConfig> AuthorsConfig(HybridReader& source, DecoderSpec& decoder,
                                            const Archive* archive, int64_t layers, at::ScalarType dtype) {
  SettingsReader& reader = source.reader;
  const auto size = [&](absl::string_view key, size_t dimension, int64_t fresh) {
    return archive == nullptr ? fresh : StoredSize(*archive, std::string(key), dimension).value_or(fresh);
  };
  // Of the first layer that has such a key.
  const auto layer_size = [&](absl::string_view rest, size_t dimension, int64_t fresh) {
    for (int64_t layer = 0; archive != nullptr && layer < layers; ++layer) {
      const auto found = StoredSize(*archive, absl::StrCat("blocks.", layer, ".", rest), dimension);
      if (found) return *found;
    }
    return fresh;
  };
  GriffinConfig config;
  config.layers = reader.IntWithin({"num_layers"}, 1, 4096, archive == nullptr ? 3 : layers);
  config.vocab_size =
      reader.IntWithin({"vocab_size"}, 1, kLargestSize, size("embedder.input_embedding", 0, 64));
  config.width = reader.IntWithin({"width"}, 1, kLargestSize, size("embedder.input_embedding", 1, 64));
  EIGSVC_RETURN_IF_ERROR(reader.status());
  config.recurrent.channels = reader.IntWithin({"lru_width"}, 1, kLargestSize,
                                               layer_size("recurrent_block.rg_lru.a_param", 0, config.width));
  const int64_t heads =
      reader.IntWithin({"num_heads"}, 1, kLargestSize, layer_size("recurrent_block.rg_lru.a_gate.w", 0, 4));
  config.recurrent.taps =
      reader.IntWithin({"conv1d_temporal_width"}, 1, 64, layer_size("recurrent_block.conv_1d.w", 0, 4));
  config.hidden = reader.IntWithin({"mlp_expanded_width"}, 1, kLargestSize,
                                   layer_size("mlp_block.ffw_up.w", 2, 3 * config.width / 2));
  // Here a step sees the window and itself.
  const int64_t window = reader.IntWithin({"attention_window_size"}, 1, int64_t{1} << 40, 2048);
  config.logits_cap = reader.Positive({"logits_soft_cap"}, 30);
  config.scaled_embedding = reader.Bool({"embeddings_scale_by_sqrt_dim"}, true);
  std::vector<std::string> types;
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    const bool attends =
        archive == nullptr
            ? layer % 3 == 2
            : archive->tensors().contains(absl::StrCat("blocks.", layer, ".attention_block.proj_q.weight"));
    types.push_back(attends ? "attention" : "recurrent");
  }
  types = reader.Texts({"block_types"}, types);
  EIGSVC_RETURN_IF_ERROR(reader.status());
  EIGSVC_RETURN_IF_ERROR(CheckBlockTypes(types));
  config.attends = Attends(types, config.layers);
  config.recurrent.blocks = heads;
  config.recurrent.time_first = true;
  config.attention.width = config.width;
  config.attention.heads = heads;
  config.attention.groups = 1;
  config.attention.key_size = config.attention.value_size = std::max<int64_t>(config.width / heads, 1);
  config.attention.window = window + 1;
  if (config.attention.key_size % 4 != 0) {
    return reader.Disagree(
        absl::StrCat("half of a head's ", config.attention.key_size, " dimensions is turned in pairs"),
        {"width", "num_heads"});
  }
  config.attention.rotary = std::make_shared<const Rotary>(
      RotarySpec{config.attention.key_size / 2, 10000, {}, RotaryPairs::kHalves}, dtype);
  decoder.description.family = std::string(kFamily);
  decoder.description.width = config.width;
  decoder.description.vocab_size = config.vocab_size;
  decoder.description.conventions.gauges = {Gauge::kDsf, Gauge::kRaw};
  decoder.description.layout = "deepmind";
  decoder.norm.eps = config.eps;
  decoder.tied = true;
  return config;
}

KeyMap AuthorsKeys() {
  return {{"temporal_pre_norm.weight", "temporal_pre_norm.scale"},
          {"channel_pre_norm.weight", "channel_pre_norm.scale"},
          {"recurrent_block.conv_1d.weight", "recurrent_block.conv_1d.w"},
          {"recurrent_block.conv_1d.bias", "recurrent_block.conv_1d.b"},
          {"recurrent_block.rg_lru.recurrent_param", "recurrent_block.rg_lru.a_param"},
          {"recurrent_block.rg_lru.input_gate_weight", "recurrent_block.rg_lru.input_gate.w"},
          {"recurrent_block.rg_lru.input_gate_bias", "recurrent_block.rg_lru.input_gate.b"},
          {"recurrent_block.rg_lru.recurrent_gate_weight", "recurrent_block.rg_lru.a_gate.w"},
          {"recurrent_block.rg_lru.recurrent_gate_bias", "recurrent_block.rg_lru.a_gate.b"},
          {"attention_block.q_proj", "attention_block.proj_q"},
          {"attention_block.k_proj", "attention_block.proj_k"},
          {"attention_block.v_proj", "attention_block.proj_v"},
          {"attention_block.o_proj", "attention_block.proj_final"},
          {"mlp_block.up", "mlp_block.ffw_up.w"},
          {"mlp_block.up_bias", "mlp_block.ffw_up.b"},
          {"mlp_block.down_proj", "mlp_block.ffw_down"}};
}

absl::StatusOr<DecoderSpec> GriffinDecoder(const Settings& settings, const Settings& typed,
                                           const std::string& layout, const Archive* archive, int64_t layers,
                                           at::ScalarType dtype) {
  const bool authors = layout == "deepmind";
  HybridReader source(settings, typed, archive);
  DecoderSpec spec;
  EIGSVC_ASSIGN_OR_RETURN(GriffinConfig config, authors ? AuthorsConfig(source, spec, archive, layers, dtype)
                                                        : HuggingFaceConfig(source, spec, layers, dtype));
  config.recurrent.width = config.width;
  config.recurrent.depth = config.layers;
  config.recurrent.activation = config.activation;
  config.attention.output_bias = true;
  if (config.recurrent.channels % config.recurrent.blocks != 0) {
    return source.reader.Disagree("the recurrence's channels do not divide into the heads",
                                  {"lru_width", authors ? "num_heads" : "num_attention_heads"});
  }
  spec.norm.kind = NormSpec::Kind::kRmsPlusOne;
  spec.embedding_scale = config.scaled_embedding ? EmbeddingScale(config.width) : 1;
  spec.logits_cap = config.logits_cap;
  if (authors) {
    spec.layer_prefix = "blocks.#.";
    spec.layer_keys = AuthorsKeys();
    spec.adjust = [](WeightSpec& weight) {
      if (weight.layer != WeightSpec::kOuter) return;
      weight.key = weight.name == "norm.weight"   ? "final_norm.scale"
                   : weight.name == "head.weight" ? "head"
                                                  : "embedder.input_embedding";
    };
  } else {
    spec.layer_keys = {{"recurrent_block.", "temporal_block."}, {"attention_block.", "temporal_block."}};
  }
  const FeedForwardSpec network{config.width, config.hidden, config.activation, /*bias=*/true};
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    Branch mixer{nullptr, "temporal_pre_norm"}, mlp{nullptr, "channel_pre_norm"};
    if (config.attends[layer]) {
      mixer.module = std::make_unique<Attention>("attention_block.", config.attention);
    } else {
      mixer.module = std::make_unique<GriffinBlock>("recurrent_block.", config.recurrent);
    }
    if (authors) {
      mlp.module = std::make_unique<GriffinMlp>("mlp_block.", network);
    } else {
      mlp.module = std::make_unique<GatedFeedForward>("mlp_block.", network);
    }
    spec.layers.push_back(MixerAndNetwork(std::move(mixer), std::move(mlp)));
  }
  EIGSVC_RETURN_IF_ERROR(source.Finish(spec));
  return spec;
}

absl::StatusOr<std::shared_ptr<const SequenceModel>> LoadRecurrentGemma(const Archive& archive,
                                                                        const Detection& detection,
                                                                        const LoadOptions& options) {
  EIGSVC_ASSIGN_OR_RETURN(DecoderSpec spec,
                          GriffinDecoder(detection.settings, detection.typed, detection.layout, &archive,
                                         detection.layers, options.dtype));
  return LoadDecoder(std::move(spec), archive, options);
}

absl::StatusOr<std::shared_ptr<const SequenceModel>> InitializeRecurrentGemma(const Settings& settings,
                                                                              uint64_t seed,
                                                                              const LoadOptions& options) {
  EIGSVC_ASSIGN_OR_RETURN(const std::string layout, settings.TextOr("layout", "huggingface"));
  EIGSVC_ASSIGN_OR_RETURN(DecoderSpec spec,
                          GriffinDecoder(settings, settings, layout, nullptr, 0, options.dtype));
  return InitializeDecoder(std::move(spec), seed, options);
}

}  // namespace

FamilyEntry RecurrentGemmaFamily() {
  return {kFamily,
          {"huggingface", "deepmind"},
          "RecurrentGemma (Griffin): blocks of the RG-LRU and of local attention",
          "RG-LRU: λ = a per channel; attention: λ_i = ν_{i-1}/ν_i per query head, real > 0",
          /*trainable=*/true,
          LoadRecurrentGemma,
          InitializeRecurrentGemma,
          "arXiv 2402.19427"};
}

}  // namespace eigsvc
