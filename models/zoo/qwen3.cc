// Qwen3 as Hugging Face stores it: a Llama whose queries and keys are normalised over each head before the
// rotation.
#include <cmath>
#include <memory>
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
absl::StatusOr<DecoderSpec> Qwen3Spec(const Settings& settings, const Settings& typed, const Archive* archive,
                                      at::ScalarType dtype) {
  constexpr int64_t kLargest = int64_t{1} << 24;
  SettingsReader reader(settings);
  const int64_t layers =
      reader.IntWithin({"num_hidden_layers"}, 1, 4096, archive ? std::nullopt : std::optional<int64_t>(2));
  AttentionSpec attention;
  attention.width = reader.IntWithin({"hidden_size"}, 1, kLargest, 64);
  attention.heads = reader.IntWithin({"num_attention_heads"}, 1, 65536, 4);
  attention.groups = reader.IntWithin({"num_key_value_heads"}, 1, attention.heads, attention.heads);
  attention.key_size = attention.value_size = reader.IntWithin({"head_dim"}, 2, kLargest, 16);
  attention.qkv_bias = attention.output_bias = reader.Bool({"attention_bias"}, false);
  attention.qk_norm = AttentionSpec::QkNorm::kPerHead;
  attention.norm = {NormSpec::Kind::kRms, reader.Real({"rms_norm_eps"}, 1e-6)};
  attention.rotary =
      RotarySpec{attention.key_size, reader.Real({"rope_parameters.rope_theta", "rope_theta"}, 10000.0)};
  const FeedForwardSpec mlp{attention.width, reader.IntWithin({"intermediate_size"}, 1, kLargest, 128)};

  DecoderSpec spec;
  spec.norm = attention.norm;
  spec.description.family = "qwen3";
  spec.description.layout = "huggingface";
  spec.description.conventions.gauges = {Gauge::kDsf, Gauge::kRaw};
  spec.description.width = attention.width;
  spec.description.vocab_size = reader.IntWithin({"vocab_size"}, 1, kLargest, 64);
  spec.tied = reader.Bool({"tie_word_embeddings"}, false);
  spec.draw_deviation = reader.Real({"initializer_range"}, 0.02);
  EIGSVC_RETURN_IF_ERROR(reader.status());
  for (int64_t layer = 0; layer < layers; ++layer) {
    std::vector<Sublayer>& sublayers = spec.layers.emplace_back();
    Branch mixer{std::make_unique<Attention>("self_attn.", attention, dtype), "input_layernorm"};
    Branch network{std::make_unique<GatedFeedForward>("mlp.", mlp), "post_attention_layernorm"};
    sublayers.emplace_back().branches.push_back(std::move(mixer));
    sublayers.emplace_back().branches.push_back(std::move(network));
  }
  EIGSVC_RETURN_IF_ERROR(reader.RefuseUnknown(typed, "qwen3"));
  spec.description.settings = reader.Resolved("qwen3", "huggingface");
  return spec;
}

absl::StatusOr<std::shared_ptr<const SequenceModel>> LoadQwen3(const Archive& archive,
                                                               const Detection& detection,
                                                               const LoadOptions& options) {
  EIGSVC_ASSIGN_OR_RETURN(DecoderSpec spec,
                          Qwen3Spec(detection.settings, detection.typed, &archive, options.dtype));
  return LoadDecoder(std::move(spec), archive, options);
}

absl::StatusOr<std::shared_ptr<const SequenceModel>> InitializeQwen3(const Settings& settings, uint64_t seed,
                                                                     const LoadOptions& options) {
  EIGSVC_ASSIGN_OR_RETURN(DecoderSpec spec, Qwen3Spec(settings, settings, nullptr, options.dtype));
  return InitializeDecoder(std::move(spec), seed, options);
}

}  // namespace

FamilyEntry Qwen3Family() {
  return {
      "qwen3",
      {"huggingface"},
      "Qwen3: grouped-query softmax attention with normalised queries and keys, and a gated MLP",
      "λ_i = ν_{i-1}/ν_i of the softmax normalisers, per query head and step from the second on, real > 0",
      /*trainable=*/true,
      LoadQwen3,
      InitializeQwen3,
      "arXiv 2505.09388; arXiv 2405.15731"};
}

}  // namespace eigsvc
