// GPT-NeoX and Pythia (arXiv 2204.06745, 2304.01373) as Hugging Face stores them: LayerNorm, one projection
// to q, k and v of each head in turn, rotary embeddings over a part of each head, attention and MLP side by
// side on the residual stream.
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "models/base/status_macros.h"
#include "models/mixers/attention.h"
#include "models/mixers/feed_forward.h"
#include "models/zoo/decoder.h"
#include "models/zoo/families.h"
#include "models/zoo/rotary_settings.h"
#include "models/zoo/settings_reader.h"
#include "models/zoo/weight_loader.h"

namespace eigsvc {
namespace {

// `archive`: whose shapes decide what its settings leave open; null for a fresh model. `typed`: those of the
// settings that a user typed.
absl::StatusOr<DecoderSpec> GptNeoxSpec(const Settings& settings, const Settings& typed,
                                        const Archive* archive, int64_t found_layers, at::ScalarType dtype) {
  const auto stored = [&](const char* key, size_t dimension) -> std::optional<int64_t> {
    return archive == nullptr ? std::nullopt : StoredSize(*archive, key, dimension);
  };
  // transformers calls the head lm_head since its version 5 and still writes embed_out.
  const bool renamed = archive != nullptr && archive->tensors().contains("lm_head.weight");
  const bool headless = archive != nullptr && !renamed && !archive->tensors().contains("embed_out.weight");
  SettingsReader reader(settings);
  DecoderSpec spec;
  const int64_t layers = reader.IntWithin({"num_hidden_layers"}, 1, 4096, archive ? found_layers : 2);
  AttentionSpec attention;
  attention.width =
      reader.IntWithin({"hidden_size"}, 1, kLargestSize, stored("gpt_neox.embed_in.weight", 1).value_or(64));
  attention.heads = attention.groups =
      reader.IntWithin({"num_attention_heads"}, 1, 65536, archive ? std::nullopt : std::optional<int64_t>(4));
  attention.projection = AttentionSpec::Projection::kFusedPerHead;
  attention.qkv_bias = attention.output_bias = reader.Bool({"attention_bias"}, true);
  FeedForwardSpec mlp{
      attention.width,
      reader.IntWithin(
          {"intermediate_size"}, 1, kLargestSize,
          stored("gpt_neox.layers.0.mlp.dense_h_to_4h.weight", 0).value_or(4 * attention.width))};
  mlp.bias = true;
  const std::string activation = reader.Text({"hidden_act"}, "gelu");
  const bool parallel = reader.Bool({"use_parallel_residual"}, true);
  spec.description.vocab_size =
      reader.StoredSize({"vocab_size"}, stored("gpt_neox.embed_in.weight", 0), 1, kLargestSize, 64);
  spec.norm = {NormSpec::Kind::kLayer, reader.NonNegative({"layer_norm_eps"}, 1e-5)};
  spec.tied = reader.Bool({"tie_embeddings", "tie_word_embeddings"}, headless);
  spec.draw_deviation = reader.NonNegative({"initializer_range"}, 0.02);
  EIGSVC_RETURN_IF_ERROR(reader.status());
  if (attention.width % attention.heads != 0) {
    return reader.Disagree("the width does not divide into the heads",
                           {"hidden_size", "num_attention_heads"});
  }
  attention.key_size = attention.value_size = attention.width / attention.heads;
  RotaryDefaults rotary{attention.key_size, {"hidden_size", "num_attention_heads"}};
  rotary.trained_positions = static_cast<double>(reader.Int({"max_position_embeddings"}, 2048));
  rotary.share = 0.25;
  attention.rotary = std::make_shared<Rotary>(ReadRotary(reader, rotary), dtype);
  EIGSVC_RETURN_IF_ERROR(reader.status());
  EIGSVC_ASSIGN_OR_RETURN(mlp.activation, ActivationOf("hidden_act", activation));
  EIGSVC_RETURN_IF_ERROR(reader.RefuseUnknown(typed, "gpt_neox"));

  spec.description.family = "gpt_neox";
  spec.description.layout = "huggingface";
  spec.description.conventions.gauges = {Gauge::kDsf, Gauge::kRaw};
  spec.description.width = attention.width;
  spec.description.settings = reader.Resolved("gpt_neox", "huggingface");
  spec.embedding_key = "gpt_neox.embed_in";
  spec.norm_key = "gpt_neox.final_layer_norm";
  spec.head_key = renamed ? "lm_head" : "embed_out";
  spec.layer_prefix = "gpt_neox.layers.#.";
  spec.layer_keys = {{"attention.qkv_proj", "attention.query_key_value"},
                     {"attention.o_proj", "attention.dense"},
                     {"mlp.up_proj", "mlp.dense_h_to_4h"},
                     {"mlp.down_proj", "mlp.dense_4h_to_h"}};
  // Masks and angles of old files.
  spec.ignored_keys = {"*.attention.bias", "*.attention.masked_bias", "*.attention.rotary_emb.inv_freq"};
  for (int64_t layer = 0; layer < layers; ++layer) {
    Branch mixer{std::make_unique<Attention>("attention.", attention), "input_layernorm"};
    Branch network{std::make_unique<FeedForward>("mlp.", mlp), "post_attention_layernorm"};
    std::vector<Sublayer>& sublayers = spec.layers.emplace_back();
    sublayers.emplace_back().branches.push_back(std::move(mixer));
    if (!parallel) sublayers.emplace_back();
    sublayers.back().branches.push_back(std::move(network));
  }
  return spec;
}

absl::StatusOr<std::shared_ptr<const SequenceModel>> LoadGptNeox(const Archive& archive,
                                                                 const Detection& detection,
                                                                 const LoadOptions& options) {
  EIGSVC_ASSIGN_OR_RETURN(DecoderSpec spec, GptNeoxSpec(detection.settings, detection.typed, &archive,
                                                        detection.layers, options.dtype));
  return LoadDecoder(std::move(spec), archive, options);
}

absl::StatusOr<std::shared_ptr<const SequenceModel>> InitializeGptNeox(const Settings& settings,
                                                                       uint64_t seed,
                                                                       const LoadOptions& options) {
  EIGSVC_ASSIGN_OR_RETURN(DecoderSpec spec, GptNeoxSpec(settings, settings, nullptr, 0, options.dtype));
  return InitializeDecoder(std::move(spec), seed, options);
}

}  // namespace

FamilyEntry GptNeoxFamily() {
  return {"gpt_neox",
          {"huggingface"},
          "GPT-NeoX and Pythia: softmax attention with rotary embeddings over a part of each head, beside "
          "the MLP",
          "λ_i = ν_{i-1}/ν_i of the softmax normalisers, per head and step from the second on, real > 0",
          /*trainable=*/true,
          LoadGptNeox,
          InitializeGptNeox,
          "arXiv 2204.06745; arXiv 2405.15731"};
}

}  // namespace eigsvc
