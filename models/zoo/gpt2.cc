// GPT-2 as Hugging Face stores it: LayerNorm, fused q, k, v projection, softmax attention, LayerNorm, MLP, on
// a pre-normed residual stream; learned positions, biases everywhere. Linear weights are stored as (in, out).
#include <cmath>
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
#include "models/zoo/settings_reader.h"
#include "models/zoo/weight_loader.h"

namespace eigsvc {
namespace {

// `archive`: whose shapes decide what its settings leave open; null for a fresh model. `typed`: those of the
// settings that a user typed.
absl::StatusOr<DecoderSpec> Gpt2Spec(const Settings& settings, const Settings& typed, const Archive* archive,
                                     int64_t found_layers) {
  // The files of the hub have no prefix.
  const bool bare = archive != nullptr && !archive->tensors().contains("transformer.wte.weight");
  const std::string prefix = bare ? "" : "transformer.";
  const auto stored = [&](const char* key, size_t dimension) -> std::optional<int64_t> {
    if (archive == nullptr) return std::nullopt;
    return StoredSize(*archive, prefix + key, dimension);
  };
  SettingsReader reader(settings);
  DecoderSpec spec;
  const int64_t layers = reader.IntWithin({"n_layer"}, 1, 4096, archive ? found_layers : 2);
  AttentionSpec attention;
  attention.width = reader.IntWithin({"n_embd"}, 1, kLargestSize, stored("wte.weight", 1).value_or(64));
  attention.heads = attention.groups =
      reader.IntWithin({"n_head"}, 1, 65536, archive ? std::nullopt : std::optional<int64_t>(4));
  attention.projection = AttentionSpec::Projection::kFused;
  attention.qkv_bias = attention.output_bias = true;
  FeedForwardSpec mlp{attention.width,
                      reader.IntWithin({"n_inner"}, 1, kLargestSize,
                                       stored("h.0.mlp.c_fc.weight", 1).value_or(4 * attention.width))};
  mlp.bias = true;
  const std::string activation = reader.Text({"activation_function"}, "gelu_new");
  const bool scaled = reader.Bool({"scale_attn_weights"}, true);
  const bool scaled_by_layer = reader.Bool({"scale_attn_by_inverse_layer_idx"}, false);
  const bool cross_attention = reader.Bool({"add_cross_attention"}, false);
  spec.description.vocab_size =
      reader.StoredSize({"vocab_size"}, stored("wte.weight", 0), 1, kLargestSize, 64);
  reader.Bool({"reorder_and_upcast_attn"}, false);  // scores are always formed in at least float32
  spec.description.max_positions =
      reader.IntWithin({"n_positions", "n_ctx"}, 1, kLargestSize, stored("wpe.weight", 0).value_or(1024));
  spec.norm = {NormSpec::Kind::kLayer, reader.NonNegative({"layer_norm_epsilon"}, 1e-5)};
  spec.tied = reader.Bool({"tie_embeddings", "tie_word_embeddings"}, true);
  spec.draw_deviation = reader.NonNegative({"initializer_range"}, 0.02);
  EIGSVC_RETURN_IF_ERROR(reader.status());
  if (cross_attention) {
    return absl::FailedPreconditionError(
        "setting \"add_cross_attention\" is true: decoders of an encoder are not supported");
  }
  EIGSVC_ASSIGN_OR_RETURN(mlp.activation, ActivationOf("activation_function", activation));
  if (attention.width % attention.heads != 0) {
    return reader.Disagree("the width does not divide into the heads", {"n_embd", "n_head"});
  }
  EIGSVC_RETURN_IF_ERROR(reader.RefuseUnknown(typed, "gpt2"));

  spec.description.family = "gpt2";
  spec.description.layout = "huggingface";
  spec.description.conventions.gauges = {Gauge::kDsf, Gauge::kRaw};
  spec.description.width = attention.width;
  spec.description.settings = reader.Resolved("gpt2", "huggingface");
  spec.embedding_key = prefix + "wte";
  spec.positions_key = prefix + "wpe";
  spec.norm_key = prefix + "ln_f";
  spec.layer_prefix = prefix + "h.#.";
  spec.layer_keys = {{"attn.qkv_proj", "attn.c_attn"},
                     {"attn.o_proj", "attn.c_proj"},
                     {"mlp.up_proj", "mlp.c_fc"},
                     {"mlp.down_proj", "mlp.c_proj"}};
  spec.ignored_keys = {"*.attn.bias", "*.attn.masked_bias"};  // old files carry the causal mask
  spec.transposed_projections = true;
  // What adds to the residual stream starts smaller the deeper the model (the reference's initialiser).
  spec.residual_draw_deviation = spec.draw_deviation / std::sqrt(2.0 * static_cast<double>(layers));

  attention.key_size = attention.value_size = attention.width / attention.heads;
  const double scale = scaled ? 1 / std::sqrt(static_cast<double>(attention.key_size)) : 1;
  for (int64_t layer = 0; layer < layers; ++layer) {
    attention.scale = scaled_by_layer ? scale / static_cast<double>(layer + 1) : scale;
    Branch mixer{std::make_unique<Attention>("attn.", attention), "ln_1"};
    Branch network{std::make_unique<FeedForward>("mlp.", mlp), "ln_2"};
    spec.layers.push_back(MixerAndNetwork(std::move(mixer), std::move(network)));
  }
  return spec;
}

absl::StatusOr<std::shared_ptr<const SequenceModel>> LoadGpt2(const Archive& archive,
                                                              const Detection& detection,
                                                              const LoadOptions& options) {
  EIGSVC_ASSIGN_OR_RETURN(DecoderSpec spec,
                          Gpt2Spec(detection.settings, detection.typed, &archive, detection.layers));
  return LoadDecoder(std::move(spec), archive, options);
}

absl::StatusOr<std::shared_ptr<const SequenceModel>> InitializeGpt2(const Settings& settings, uint64_t seed,
                                                                    const LoadOptions& options) {
  EIGSVC_ASSIGN_OR_RETURN(DecoderSpec spec, Gpt2Spec(settings, settings, nullptr, 0));
  return InitializeDecoder(std::move(spec), seed, options);
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
