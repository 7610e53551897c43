#include "models/zoo/llama_config.h"

#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "models/base/status_macros.h"
#include "models/base/status_util.h"
#include "models/zoo/settings_reader.h"
#include "models/zoo/weight_loader.h"

namespace eigsvc {
namespace {

constexpr int64_t kLargestLlamaSize = int64_t{1} << 24;

struct LlamaShapes {
  std::optional<int64_t> layers, width, vocab_size, query_rows, key_rows, mlp_width;
  std::optional<bool> has_head;
};

LlamaShapes LlamaShapesOf(const Archive& archive, const std::string& layout, int64_t layers) {
  const bool meta = layout == "meta";
  const std::string embedding = meta ? "tok_embeddings.weight" : "model.embed_tokens.weight";
  const std::string prefix = meta ? "layers.0." : "model.layers.0.";
  LlamaShapes shapes;
  shapes.layers = layers;
  shapes.vocab_size = StoredSize(archive, embedding, 0);
  shapes.width = StoredSize(archive, embedding, 1);
  shapes.query_rows =
      StoredSize(archive, prefix + (meta ? "attention.wq.weight" : "self_attn.q_proj.weight"), 0);
  shapes.key_rows =
      StoredSize(archive, prefix + (meta ? "attention.wk.weight" : "self_attn.k_proj.weight"), 0);
  shapes.mlp_width =
      StoredSize(archive, prefix + (meta ? "feed_forward.w1.weight" : "mlp.gate_proj.weight"), 0);
  shapes.has_head = archive.tensors().contains(meta ? "output.weight" : "lm_head.weight");
  return shapes;
}

RotaryScaling ReadScaling(SettingsReader& reader) {
  RotaryScaling scaling;
  const std::string type = reader.Text(
      {"rope_parameters.rope_type", "rope_parameters.type", "rope_scaling.rope_type", "rope_scaling.type"},
      "default");
  if (type == "default") return scaling;
  if (type != "linear" && type != "llama3") {
    reader.Fail(absl::FailedPreconditionError(absl::StrCat(
        "rotary scaling of type \"", type, "\" is not supported; supported: default, linear, llama3")));
    return scaling;
  }
  scaling.kind = type == "linear" ? RotaryScaling::Kind::kLinear : RotaryScaling::Kind::kLlama3;
  scaling.factor = reader.Real({"rope_parameters.factor", "rope_scaling.factor"});
  bool good = scaling.factor > 0 && std::isfinite(scaling.factor);
  if (type == "llama3") {
    scaling.low_factor = reader.Real({"rope_parameters.low_freq_factor", "rope_scaling.low_freq_factor"});
    scaling.high_factor = reader.Real({"rope_parameters.high_freq_factor", "rope_scaling.high_freq_factor"});
    scaling.original_positions = reader.Real({"rope_parameters.original_max_position_embeddings",
                                              "rope_scaling.original_max_position_embeddings"});
    good = good && scaling.low_factor > 0 && scaling.high_factor > scaling.low_factor &&
           scaling.original_positions > 0;
  }
  if (!good) {
    reader.Fail(absl::InvalidArgumentError(absl::StrCat(
        "the settings of rotary scaling \"", type,
        "\" are inconsistent: factor > 0 and, for llama3, 0 < low_freq_factor < high_freq_factor and "
        "original_max_position_embeddings > 0 are needed")));
  }
  return scaling;
}

// What would change the forward pass and is not implemented.
void RefuseVariants(SettingsReader& reader) {
  const std::string activation = reader.Text({"hidden_act"}, "silu");
  if (activation != "silu" && activation != "swish") {
    reader.Fail(absl::FailedPreconditionError(
        absl::StrCat("setting \"hidden_act\" is \"", activation, "\"; the llama family runs silu only")));
  }
  if (reader.Real({"rope_parameters.partial_rotary_factor", "partial_rotary_factor"}, 1) != 1) {
    reader.Fail(absl::FailedPreconditionError(
        "setting \"partial_rotary_factor\": rotary embeddings over a part of a head are not supported"));
  }
  if (reader.Bool({"use_scaled_rope"}, false) && !reader.Has({"rope_scaling"})) {
    reader.Fail(absl::FailedPreconditionError(
        "setting \"use_scaled_rope\" does not say by how much; pass --config '{\"rope_scaling\": "
        "{\"rope_type\": "
        "\"llama3\", \"factor\": 8, \"low_freq_factor\": 1, \"high_freq_factor\": 4, "
        "\"original_max_position_embeddings\": 8192}}' (the values of Llama 3.1)"));
  }
}

absl::StatusOr<LlamaConfig> ReadLlama(const Settings& settings, const std::string& layout,
                                      const LlamaShapes& shapes) {
  const bool fresh = !shapes.layers.has_value();
  const bool meta = layout == "meta";
  SettingsReader reader(settings);
  RefuseVariants(reader);
  LlamaConfig config;
  config.layout = layout;
  config.layers = reader.IntWithin({"n_layers", "num_hidden_layers"}, 1, 4096, shapes.layers.value_or(2));
  config.width = reader.IntWithin({"dim", "hidden_size"}, 1, kLargestLlamaSize, shapes.width.value_or(64));
  // Files of Meta's say -1 where the tokenizer is to tell.
  const bool unstated = meta && settings.IntOr("vocab_size", 0).value_or(0) == -1;
  config.vocab_size = unstated
                          ? shapes.vocab_size.value_or(64)
                          : reader.StoredSize({"vocab_size"}, shapes.vocab_size, 1, kLargestLlamaSize, 64);
  const std::optional<int64_t> fresh_heads = fresh ? std::optional<int64_t>(4) : std::nullopt;
  config.heads = reader.IntWithin({"n_heads", "num_attention_heads"}, 1, 65536, fresh_heads);
  EIGSVC_RETURN_IF_ERROR(reader.status());
  config.head_size = reader.IntWithin({"head_dim"}, 1, kLargestLlamaSize,
                                      shapes.query_rows.value_or(config.width) / config.heads);
  EIGSVC_RETURN_IF_ERROR(reader.status());
  config.groups = reader.IntWithin({"n_kv_heads", "num_key_value_heads"}, 1, config.heads,
                                   shapes.key_rows ? *shapes.key_rows / config.head_size : config.heads);
  // Meta's files derive it from other settings where they do not state it; shapes know.
  config.mlp_width = reader.StoredSize({"hidden_dim", "intermediate_size"}, shapes.mlp_width, 1,
                                       kLargestLlamaSize, (8 * config.width + 2) / 3);
  config.norm_eps = reader.Real({"norm_eps", "rms_norm_eps"}, meta ? 1e-5 : 1e-6);
  config.rotary_base = reader.Real({"rope_parameters.rope_theta", "rope_theta"}, 10000);
  config.scaling = ReadScaling(reader);
  config.attention_bias = reader.Bool({"attention_bias"}, false);
  config.mlp_bias = reader.Bool({"mlp_bias"}, false);
  config.tied =
      reader.Bool({"tie_embeddings", "tie_word_embeddings"}, !fresh && !shapes.has_head.value_or(true));
  config.trained_positions = reader.Int({"max_seq_len", "seq_len", "max_position_embeddings"}, 2048);
  config.draw_deviation = reader.Real({"initializer_range"}, 0.02);
  EIGSVC_RETURN_IF_ERROR(reader.status());
  if (config.head_size % 2 != 0 || config.head_size < 2) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a head of ", config.head_size, " dimensions cannot be rotated in pairs; check the number of heads (",
        config.heads, ") and head_dim"));
  }
  if (config.heads % config.groups != 0) {
    return absl::InvalidArgumentError(absl::StrCat(config.heads, " query heads do not divide into ",
                                                   config.groups, " key and value heads"));
  }
  if (!(config.norm_eps >= 0 && std::isfinite(config.norm_eps)) || !(config.rotary_base > 0) ||
      !std::isfinite(config.rotary_base) || !(config.draw_deviation >= 0)) {
    return absl::InvalidArgumentError(
        "norm_eps, rope_theta and initializer_range must be non-negative numbers");
  }
  return config;
}

absl::Status CheckTypedLlama(const Settings& typed) {
  return CheckKnownSettings(
      typed, "llama",
      {"vocab_size", "dim", "n_layers", "n_heads", "n_kv_heads", "hidden_dim", "norm_eps", "max_seq_len",
       "seq_len", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
       "head_dim", "intermediate_size", "rms_norm_eps", "max_position_embeddings", "rope_theta",
       "rope_scaling", "rope_parameters", "attention_bias", "mlp_bias", "tie_word_embeddings",
       "tie_embeddings", "hidden_act",
       // Refused where they ask for what is not run.
       "partial_rotary_factor", "use_scaled_rope", "sliding_window", "use_sliding_window",
       "max_window_layers",
       // Of Meta's files, which say by them what hidden_dim is.
       "multiple_of", "ffn_dim_multiplier"});
}

}  // namespace

absl::StatusOr<LlamaConfig> LlamaConfigOf(const Archive& archive, const Detection& detection) {
  EIGSVC_RETURN_IF_ERROR(CheckTypedLlama(detection.typed));
  return ReadLlama(detection.settings, detection.layout,
                   LlamaShapesOf(archive, detection.layout, detection.layers));
}

absl::StatusOr<LlamaConfig> LlamaConfigOf(const Settings& settings) {
  EIGSVC_RETURN_IF_ERROR(CheckTypedLlama(settings));
  EIGSVC_ASSIGN_OR_RETURN(const std::string layout, settings.TextOr("layout", "huggingface"));
  if (layout != "meta" && layout != "huggingface") {
    return UnknownName("layout of llama", layout, {"meta", "huggingface"});
  }
  return ReadLlama(settings, layout, {});
}

Settings LlamaConfig::ToSettings() const {
  using nlohmann::json;
  json object = {{"family", "llama"},
                 {"layout", layout},
                 {"vocab_size", vocab_size},
                 {"head_dim", head_size},
                 {"rope_theta", rotary_base},
                 {"attention_bias", attention_bias},
                 {"mlp_bias", mlp_bias},
                 {"tie_word_embeddings", tied},
                 {"initializer_range", draw_deviation}};
  if (scaling.kind == RotaryScaling::Kind::kLinear) {
    object["rope_scaling"] = {{"rope_type", "linear"}, {"factor", scaling.factor}};
  } else if (scaling.kind == RotaryScaling::Kind::kLlama3) {
    object["rope_scaling"] = {{"rope_type", "llama3"},
                              {"factor", scaling.factor},
                              {"low_freq_factor", scaling.low_factor},
                              {"high_freq_factor", scaling.high_factor},
                              {"original_max_position_embeddings", scaling.original_positions}};
  }
  if (layout == "meta") {
    object.update({{"dim", width},
                   {"n_layers", layers},
                   {"n_heads", heads},
                   {"n_kv_heads", groups},
                   {"hidden_dim", mlp_width},
                   {"norm_eps", norm_eps},
                   {"max_seq_len", trained_positions}});
  } else {
    object.update({{"model_type", "llama"},
                   {"architectures", {"LlamaForCausalLM"}},
                   {"hidden_size", width},
                   {"num_hidden_layers", layers},
                   {"num_attention_heads", heads},
                   {"num_key_value_heads", groups},
                   {"intermediate_size", mlp_width},
                   {"rms_norm_eps", norm_eps},
                   {"max_position_embeddings", trained_positions},
                   {"hidden_act", "silu"}});
  }
  return Settings(std::move(object), "the model's settings");
}

}  // namespace eigsvc
