#include "models/zoo/mamba2_config.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "models/base/status_macros.h"
#include "models/zoo/settings_reader.h"

namespace eigsvc {
namespace {

constexpr int64_t kLargestSize = int64_t{1} << 24;
constexpr int64_t kMostLayers = 4096;

const char* EmbeddingKey(const std::string& layout) {
  return layout == "huggingface" ? "backbone.embeddings.weight" : "backbone.embedding.weight";
}

// What the tensors of a checkpoint say; nothing of it for a model yet to be made.
struct Mamba2Shapes {
  std::optional<int64_t> layers, width, vocab_size, inner, ssm_width, heads, conv_rows, taps;
  std::optional<bool> layer_norm, gated_norm, projection_bias, conv_bias, has_head, skip_per_channel;
};

Mamba2Shapes ShapesOf(const Archive& archive, const std::string& embedding_key, int64_t layers) {
  const auto has = [&](const std::string& key) { return archive.tensors().contains(key); };
  const auto size = [&](const std::string& key, size_t dimension) -> std::optional<int64_t> {
    const auto found = archive.tensors().find(key);
    if (found == archive.tensors().end() || found->second.shape.size() <= dimension) return std::nullopt;
    return found->second.shape[dimension];
  };
  const std::string mixer = "backbone.layers.0.mixer.";
  Mamba2Shapes shapes;
  shapes.layers = layers;
  shapes.vocab_size = size(embedding_key, 0);
  shapes.width = size(embedding_key, 1);
  shapes.inner = size(mixer + "out_proj.weight", 1);
  shapes.ssm_width = size(mixer + "norm.weight", 0);
  shapes.heads = size(mixer + "A_log", 0);
  shapes.conv_rows = size(mixer + "conv1d.weight", 0);
  shapes.taps = size(mixer + "conv1d.weight", 2);
  shapes.layer_norm = has("backbone.layers.0.norm.bias");
  shapes.gated_norm = has(mixer + "norm.weight");
  shapes.projection_bias = has(mixer + "in_proj.bias");
  shapes.conv_bias = has(mixer + "conv1d.bias");
  shapes.has_head = has("lm_head.weight");
  if (const auto skip = size(mixer + "D", 0)) shapes.skip_per_channel = skip != shapes.heads;
  return shapes;
}

absl::Status RefuseHybrids(const Settings& settings) {
  for (const absl::string_view key : {"attn_layer_idx", "ssm_cfg.attn_layer_idx"}) {
    if (!settings.Has(key)) continue;
    EIGSVC_ASSIGN_OR_RETURN(const std::vector<int64_t> layers, settings.Ints(key));
    if (layers.empty()) continue;
    return absl::FailedPreconditionError(
        absl::StrCat("this is a hybrid: setting \"", key, "\" puts attention into ", layers.size(),
                     " of the layers; mamba2 runs models whose layers are all Mamba-2"));
  }
  EIGSVC_ASSIGN_OR_RETURN(const int64_t mlp, settings.IntOr("d_intermediate", 0));
  if (mlp > 0) {
    return absl::FailedPreconditionError(absl::StrCat("setting \"d_intermediate\" is ", mlp,
                                                      ": layers with an MLP of their own are not supported"));
  }
  EIGSVC_ASSIGN_OR_RETURN(const std::string kind, settings.TextOr("ssm_cfg.layer", "Mamba2"));
  if (kind != "Mamba2") {
    return absl::FailedPreconditionError(
        absl::StrCat("setting \"ssm_cfg.layer\" is \"", kind, "\"; the mamba2 family reads \"Mamba2\" only"));
  }
  EIGSVC_ASSIGN_OR_RETURN(const std::string activation, settings.TextOr("hidden_act", "silu"));
  if (activation != "silu" && activation != "swish") {
    return absl::FailedPreconditionError(absl::StrCat("setting \"hidden_act\" is \"", activation,
                                                      "\"; Mamba-2's convolution is followed by silu"));
  }
  return absl::OkStatus();
}

// Which of B's and C's 2·G·N channels are groups and which are state: shapes alone cannot tell.
void ReadGroups(SettingsReader& reader, const Settings& settings, const Mamba2Shapes& shapes, SsmShape& ssm) {
  constexpr absl::string_view kGroups[] = {"ngroups", "n_groups", "ssm_cfg.ngroups"};
  constexpr absl::string_view kOrder[] = {"d_state", "state_size", "ssm_cfg.d_state"};
  if (!shapes.heads) {
    ssm.groups = reader.IntWithin(kGroups, 1, kLargestSize, 1);
    ssm.order = reader.IntWithin(kOrder, 1, kLargestSize, 32);
    return;
  }
  const int64_t product = (shapes.conv_rows.value_or(0) - ssm.inner()) / 2;
  if (product < 1) {
    reader.Fail(absl::FailedPreconditionError(
        absl::StrCat("backbone.layers.0.mixer.conv1d.weight has ", shapes.conv_rows.value_or(0),
                     " channels, too few for x (", ssm.inner(), ") beside B and C")));
    return;
  }
  // In state-spaces/mamba a configuration that does not mention ngroups means 1.
  const bool states_groups = reader.Has(kGroups) || (settings.Has("ssm_cfg") && !reader.Has(kOrder));
  if (!states_groups && !reader.Has(kOrder)) {
    reader.Fail(absl::FailedPreconditionError(
        absl::StrCat("setting \"ngroups\" is missing: the convolution has ngroups·d_state = ", product,
                     " channels each for B and C, and no tensor says how they divide. Pass it with --config "
                     "'{\"ngroups\": 1}' ",
                     "(1 in most published models), or put config.json beside the weights")));
    return;
  }
  if (states_groups) {
    ssm.groups = reader.IntWithin(kGroups, 1, kLargestSize, 1);
    ssm.order = reader.IntWithin(kOrder, 1, kLargestSize,
                                 std::max<int64_t>(product / std::max<int64_t>(ssm.groups, 1), 1));
  } else {
    ssm.order = reader.IntWithin(kOrder, 1, kLargestSize);
    ssm.groups = std::max<int64_t>(product / std::max<int64_t>(ssm.order, 1), 1);
  }
}

void ReadHeads(SettingsReader& reader, const Mamba2Shapes& shapes, int64_t ssm_width, SsmShape& ssm) {
  constexpr absl::string_view kHeads[] = {"num_heads", "nheads"};
  constexpr absl::string_view kHeadWidth[] = {"headdim", "head_dim", "ssm_cfg.headdim"};
  std::optional<int64_t> heads = shapes.heads;
  if (reader.Has(kHeads)) heads = reader.IntWithin(kHeads, 1, kLargestSize);
  if (reader.Has(kHeadWidth)) {
    ssm.head_width = reader.IntWithin(kHeadWidth, 1, kLargestSize);
  } else {
    ssm.head_width = heads && *heads > 0 ? ssm_width / *heads : 16;
  }
  ssm.heads = heads.value_or(ssm_width / std::max<int64_t>(ssm.head_width, 1));
  if (reader.status().ok() && ssm.inner() != ssm_width) {
    reader.Fail(absl::InvalidArgumentError(absl::StrCat(
        "settings disagree: ", ssm.heads, " heads (num_heads) of ", ssm.head_width,
        " channels (headdim) are not the SSM's width ", ssm_width, " (expand·d_model, or d_ssm)")));
  }
}

absl::StatusOr<Mamba2Config> ReadConfig(const Settings& settings, const std::string& layout,
                                        const Mamba2Shapes& shapes) {
  EIGSVC_RETURN_IF_ERROR(RefuseHybrids(settings));
  SettingsReader reader(settings);
  Mamba2Config config;
  config.layout = layout;
  config.embedding_key = EmbeddingKey(layout);
  config.layers =
      reader.IntWithin({"n_layer", "num_hidden_layers"}, 1, kMostLayers, shapes.layers.value_or(2));
  config.width = reader.IntWithin({"d_model", "hidden_size"}, 1, kLargestSize, shapes.width.value_or(64));
  config.vocab_size = reader.IntWithin({"vocab_size"}, 1, kLargestSize, shapes.vocab_size.value_or(64));
  // Rows beyond the vocabulary, up to a multiple, are part of the model. Where the multiple is not stated the
  // embedding shows it; published ones are at most 128.
  if (reader.Has({"pad_vocab_size_multiple"})) {
    const int64_t multiple = reader.IntWithin({"pad_vocab_size_multiple"}, 1, kLargestSize);
    if (reader.status().ok()) config.vocab_size = (config.vocab_size + multiple - 1) / multiple * multiple;
  } else if (layout == "state-spaces" && shapes.vocab_size && *shapes.vocab_size >= config.vocab_size &&
             *shapes.vocab_size < config.vocab_size + 128) {
    config.vocab_size = *shapes.vocab_size;
  } else {
    config.vocab_size = reader.StoredSize({"vocab_size"}, shapes.vocab_size, 1, kLargestSize, 64);
  }

  const bool states_expand = reader.Has({"expand", "ssm_cfg.expand"});
  const double expand = reader.Real({"expand", "ssm_cfg.expand"}, 2);
  if (!(expand > 0 && expand * config.width <= kLargestSize)) {
    reader.Fail(
        absl::InvalidArgumentError(absl::StrCat("setting \"expand\" is ", expand, "; it must be positive")));
  }
  EIGSVC_RETURN_IF_ERROR(reader.status());
  // Truncated like the reference's int(), but not for the rounding of expand itself.
  const int64_t inner = states_expand ? static_cast<int64_t>(expand * config.width * (1 + 1e-12))
                                      : shapes.inner.value_or(2 * config.width);
  const int64_t ssm_width = reader.IntWithin({"d_ssm", "ssm_cfg.d_ssm"}, 1, inner,
                                             shapes.ssm_width ? std::min(*shapes.ssm_width, inner) : inner);
  config.gated_mlp = inner - ssm_width;
  ReadHeads(reader, shapes, ssm_width, config.ssm);
  EIGSVC_RETURN_IF_ERROR(reader.status());
  ReadGroups(reader, settings, shapes, config.ssm);
  config.ssm.taps =
      reader.IntWithin({"d_conv", "conv_kernel", "ssm_cfg.d_conv"}, 1, 64, shapes.taps.value_or(4));
  const std::vector<double> limit = reader.Reals({"dt_limit", "time_step_limit", "ssm_cfg.dt_limit"},
                                                 {0, std::numeric_limits<double>::infinity()});
  EIGSVC_RETURN_IF_ERROR(reader.status());
  if (limit.size() != 2 || !(limit[0] >= 0 && limit[0] <= limit[1])) {
    return absl::InvalidArgumentError(
        "setting \"dt_limit\" (time_step_limit) must be [low, high] with 0 <= low <= high");
  }
  config.ssm.dt_min = limit[0];
  config.ssm.dt_max = limit[1];
  if (config.ssm.heads % config.ssm.groups != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "settings disagree: ", config.ssm.heads, " heads do not divide into ngroups = ", config.ssm.groups));
  }

  config.rms_norm = reader.Bool({"rms_norm"}, !shapes.layer_norm.value_or(false));
  config.gated_norm = reader.Bool({"rmsnorm", "ssm_cfg.rmsnorm"}, shapes.gated_norm.value_or(true));
  config.norm_before_gate = reader.Bool({"norm_before_gate", "ssm_cfg.norm_before_gate"}, false);
  config.norm_eps = reader.Real({"norm_epsilon", "layer_norm_epsilon"}, 1e-5);
  // state-spaces/mamba fixes it inside the mixer.
  config.gated_norm_eps = layout == "huggingface" ? config.norm_eps : 1e-5;
  config.residual_in_fp32 = reader.Bool({"residual_in_fp32"}, true);
  config.tied = reader.Bool({"tie_embeddings", "tie_word_embeddings"},
                            layout == "state-spaces" || !shapes.has_head.value_or(false));
  config.projection_bias =
      reader.Bool({"use_bias", "bias", "ssm_cfg.bias"}, shapes.projection_bias.value_or(false));
  config.conv_bias =
      reader.Bool({"use_conv_bias", "conv_bias", "ssm_cfg.conv_bias"}, shapes.conv_bias.value_or(true));
  config.skip_per_channel =
      reader.Bool({"D_has_hdim", "ssm_cfg.D_has_hdim"}, shapes.skip_per_channel.value_or(false));
  // The kernels that published weights were trained with normalise each group on its own, and transformers
  // does since it follows them; its older releases normalised the whole width, which `gated_norm_groups` = 1
  // reproduces.
  config.gated_norm_groups = reader.IntWithin({"gated_norm_groups"}, 1, kLargestSize, config.ssm.groups);
  EIGSVC_RETURN_IF_ERROR(reader.status());
  if (ssm_width % config.gated_norm_groups != 0) {
    return absl::InvalidArgumentError(absl::StrCat("setting \"gated_norm_groups\" is ",
                                                   config.gated_norm_groups,
                                                   ", which does not divide the SSM's width ", ssm_width));
  }
  if (!(config.norm_eps >= 0 && std::isfinite(config.norm_eps))) {
    return absl::InvalidArgumentError("setting \"norm_epsilon\" (layer_norm_epsilon) must be a number >= 0");
  }
  return config;
}

absl::Status CheckTypedMamba2(const Settings& typed) {
  return CheckKnownSettings(
      typed, "mamba2",
      {"d_model", "n_layer", "vocab_size", "pad_vocab_size_multiple", "ssm_cfg", "d_state", "headdim",
       "expand", "ngroups", "d_conv", "d_ssm", "dt_limit", "rms_norm", "rmsnorm", "norm_before_gate",
       "norm_epsilon", "residual_in_fp32", "tie_embeddings", "bias", "conv_bias", "D_has_hdim",
       "gated_norm_groups", "attn_layer_idx", "d_intermediate", "hidden_size", "num_hidden_layers",
       "num_heads", "head_dim", "state_size", "n_groups", "conv_kernel", "time_step_limit",
       "layer_norm_epsilon", "use_bias", "use_conv_bias", "tie_word_embeddings", "hidden_act", "nheads",
       // Without effect here: how it is computed, or how a fresh one is drawn.
       "fused_add_norm", "attn_cfg", "chunk_size", "rescale_prenorm_residual", "time_step_floor",
       "time_step_max", "time_step_min", "time_step_rank"});
}

}  // namespace

absl::StatusOr<Mamba2Config> Mamba2ConfigOf(const Archive& archive, const Detection& detection) {
  EIGSVC_RETURN_IF_ERROR(CheckTypedMamba2(detection.typed));
  // transformers reads either spelling of the embedding's key.
  const std::string alternative = EmbeddingKey("state-spaces");
  const std::string key =
      archive.tensors().contains(alternative) ? alternative : EmbeddingKey(detection.layout);
  EIGSVC_ASSIGN_OR_RETURN(Mamba2Config config, ReadConfig(detection.settings, detection.layout,
                                                          ShapesOf(archive, key, detection.layers)));
  config.embedding_key = key;
  return config;
}

absl::StatusOr<Mamba2Config> Mamba2ConfigOf(const Settings& settings) {
  EIGSVC_RETURN_IF_ERROR(CheckTypedMamba2(settings));
  EIGSVC_ASSIGN_OR_RETURN(const std::string layout, settings.TextOr("layout", "state-spaces"));
  return ReadConfig(settings, layout, {});
}

Settings Mamba2Config::ToSettings() const {
  using nlohmann::json;
  const bool huggingface = layout == "huggingface";
  json limit;
  if (ssm.dt_min > 0 || std::isfinite(ssm.dt_max)) {
    const json high = std::isfinite(ssm.dt_max) ? json(ssm.dt_max) : json{{"__float__", "Infinity"}};
    limit = {ssm.dt_min, high};
  }
  json expand = static_cast<double>(inner()) / static_cast<double>(width);
  if (inner() % width == 0) expand = inner() / width;
  json object = {{"family", "mamba2"},
                 {"layout", layout},
                 {"vocab_size", vocab_size},
                 {"residual_in_fp32", residual_in_fp32},
                 {"gated_norm_groups", gated_norm_groups}};
  if (huggingface) {
    object.update({{"model_type", "mamba2"},
                   {"architectures", {"Mamba2ForCausalLM"}},
                   {"hidden_size", width},
                   {"num_hidden_layers", layers},
                   {"num_heads", ssm.heads},
                   {"head_dim", ssm.head_width},
                   {"state_size", ssm.order},
                   {"n_groups", ssm.groups},
                   {"conv_kernel", ssm.taps},
                   {"expand", expand},
                   {"layer_norm_epsilon", norm_eps},
                   {"use_bias", projection_bias},
                   {"use_conv_bias", conv_bias},
                   {"tie_word_embeddings", tied}});
    if (!limit.is_null()) object["time_step_limit"] = limit;
    // Options that transformers' own class has not.
    if (!rms_norm) object["rms_norm"] = false;
    if (!gated_norm) object["rmsnorm"] = false;
    if (norm_before_gate) object["norm_before_gate"] = true;
    if (skip_per_channel) object["D_has_hdim"] = true;
    if (gated_mlp > 0) object["d_ssm"] = ssm.inner();
    return Settings(std::move(object), "the model's settings");
  }
  json mixer = {{"layer", "Mamba2"},
                {"d_state", ssm.order},
                {"headdim", ssm.head_width},
                {"expand", expand},
                {"ngroups", ssm.groups},
                {"d_conv", ssm.taps},
                {"rmsnorm", gated_norm},
                {"norm_before_gate", norm_before_gate},
                {"bias", projection_bias},
                {"conv_bias", conv_bias},
                {"D_has_hdim", skip_per_channel}};
  if (gated_mlp > 0) mixer["d_ssm"] = ssm.inner();
  if (!limit.is_null()) mixer["dt_limit"] = limit;
  object.update({{"d_model", width},
                 {"n_layer", layers},
                 {"pad_vocab_size_multiple", 1},
                 {"rms_norm", rms_norm},
                 {"norm_epsilon", norm_eps},
                 {"tie_embeddings", tied},
                 {"ssm_cfg", std::move(mixer)}});
  return Settings(std::move(object), "the model's settings");
}

}  // namespace eigsvc
