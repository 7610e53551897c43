#include "models/zoo/mamba_settings.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "models/base/status_macros.h"
#include "models/layers/rope.h"
#include "models/mixers/feed_forward.h"
#include "models/zoo/weight_loader.h"

namespace eigsvc {
namespace {

std::string MambaKey(int64_t layer, absl::string_view rest) {
  return absl::StrCat("backbone.layers.", layer, ".", rest);
}

int64_t MultipleOf(int64_t multiple, int64_t size) { return (size + multiple - 1) / multiple * multiple; }

// The initial values of the reference (models/mixer_seq_simple.py): torch.nn's own, but what is added to the
// residual stream shrinks with the depth.
void DrawAsMamba(double depth, WeightSpec& weight) {
  const bool added = weight.name == "mixer.o_proj.weight" || weight.name == "mlp.down_proj.weight";
  if (!added && weight.name != "mixer.qkv_proj.weight" && weight.name != "mlp.gate_proj.weight") return;
  weight.draw = [draw = DrawLinear(weight.shape[1]),
                 scale = added ? 1 / std::sqrt(depth) : 1.0](Random& random) { return scale * draw(random); };
}

constexpr absl::string_view kAttentionSettings[] = {"causal",
                                                    "d_conv",
                                                    "head_dim",
                                                    "mlp_dim",
                                                    "num_heads",
                                                    "num_heads_kv",
                                                    "out_proj_bias",
                                                    "qkv_proj_bias",
                                                    "rotary_emb_base",
                                                    "rotary_emb_dim",
                                                    "rotary_emb_interleaved",
                                                    "softmax_scale"};

}  // namespace

void ReadStepLimit(SettingsReader& reader, SettingsReader::Names names, Mamba2Spec& spec) {
  const std::vector<double> limit = reader.Reals(names, {0, std::numeric_limits<double>::infinity()});
  if (!reader.status().ok()) return;
  constexpr double kMost = std::numeric_limits<float>::max();
  if (limit.size() != 2 || !(limit[0] >= 0 && limit[0] <= limit[1] && limit[0] <= kMost)) {
    reader.Fail(absl::InvalidArgumentError(
        absl::StrCat("setting \"", reader.Spelt(names), "\" must be [low, high] with 0 <= low <= high")));
    return;
  }
  spec.dt_min = limit[0];
  spec.dt_max = limit[1] <= kMost ? limit[1] : std::numeric_limits<double>::infinity();
}

std::vector<absl::string_view> MambaSettings::Names(absl::string_view official,
                                                    absl::string_view other) const {
  const absl::string_view plain = absl::StripPrefix(official, "ssm_cfg.");
  if (layout_ == "state-spaces") return {official, plain, other};
  return {other, plain, official};
}

std::optional<int64_t> MambaSettings::MixerSize(absl::string_view name, size_t dimension) const {
  if (archive_ == nullptr) return std::nullopt;
  return StoredSize(*archive_, MambaKey(first_, absl::StrCat("mixer.", name)), dimension);
}

bool MambaSettings::HasMixerKey(absl::string_view name, bool otherwise) const {
  return archive_ == nullptr ? otherwise : HasKey(MambaKey(first_, absl::StrCat("mixer.", name)));
}

absl::Status MambaSettings::RefuseOthers(absl::string_view kind) {
  if (layout_ != "state-spaces") {
    EIGSVC_ASSIGN_OR_RETURN(const std::vector<int64_t> attending, settings_.Has("attn_layer_idx")
                                                                      ? settings_.Ints("attn_layer_idx")
                                                                      : std::vector<int64_t>{});
    EIGSVC_ASSIGN_OR_RETURN(const int64_t mlp, settings_.IntOr("d_intermediate", 0));
    if (!attending.empty() || mlp > 0) {
      return absl::FailedPreconditionError(
          absl::StrCat("setting \"", attending.empty() ? "d_intermediate" : "attn_layer_idx",
                       "\" is one of models of the layout state-spaces; those of the layout ", layout_,
                       " are of ", kind, " alone"));
    }
    reader.Ignore({"attn_layer_idx", "attn_cfg", "d_intermediate"});
  }
  EIGSVC_ASSIGN_OR_RETURN(const std::string stated, settings_.TextOr("ssm_cfg.layer", kind));
  if (stated != kind) {
    return absl::FailedPreconditionError(
        absl::StrCat("setting \"ssm_cfg.layer\" is \"", stated, "\"; this family reads \"", kind, "\" only"));
  }
  EIGSVC_ASSIGN_OR_RETURN(const std::string activation, settings_.TextOr("hidden_act", "silu"));
  if (activation != "silu" && activation != "swish") {
    return absl::FailedPreconditionError(absl::StrCat(
        "setting \"hidden_act\" is \"", activation, "\"; the convolution and the gate are followed by silu"));
  }
  reader.Ignore({"hidden_act", "ssm_cfg"});
  return absl::OkStatus();
}

// The keys tell which layers are attention; settings that say otherwise are of other weights.
std::vector<bool> MambaSettings::ReadAttending(int64_t layers) {
  if (layout_ != "state-spaces") return std::vector<bool>(layers, false);
  std::vector<int64_t> stored;
  for (int64_t layer = 0; archive_ != nullptr && layer < layers; ++layer) {
    if (!HasKey(MambaKey(layer, "mixer.A_log"))) stored.push_back(layer);
  }
  const std::vector<int64_t> stated = reader.Ints({"attn_layer_idx"}, stored);
  std::vector<bool> attends(layers, false);
  for (const int64_t layer : stated) {
    if (layer < 0 || layer >= layers) {
      reader.Fail(reader.Disagree(absl::StrCat("there is no layer ", layer), {"attn_layer_idx", "n_layer"}));
      return attends;
    }
    attends[layer] = true;
  }
  for (int64_t layer = 0; archive_ != nullptr && layer < layers; ++layer) {
    const bool found = std::find(stored.begin(), stored.end(), layer) != stored.end();
    if (found == attends[layer]) continue;
    reader.Fail(absl::FailedPreconditionError(absl::StrCat(
        "setting \"attn_layer_idx\" says that layer ", layer, " is ", found ? "no " : "", "attention, but \"",
        MambaKey(layer, "mixer.A_log"), "\" is ", found ? "not there" : "there",
        "; mend the setting (--config), or give the weights that it belongs to")));
    return attends;
  }
  first_ = std::find(attends.begin(), attends.end(), false) - attends.begin();
  if (reader.status().ok() && first_ == layers) {
    reader.Fail(reader.Disagree("every layer is attention", {"attn_layer_idx", "n_layer"}));
  }
  return attends;
}

std::shared_ptr<const Rotary> MambaSettings::ReadAttentionRotary(int64_t head_size, at::ScalarType dtype) {
  RotarySpec spec;
  spec.size = reader.IntWithin({"attn_cfg.rotary_emb_dim"}, 0, head_size, 0,
                               {"attn_cfg.head_dim", "attn_cfg.num_heads"});
  spec.base = reader.Positive({"attn_cfg.rotary_emb_base"}, 10000);
  if (reader.Bool({"attn_cfg.rotary_emb_interleaved"}, false)) spec.pairs = RotaryPairs::kInterleaved;
  if (spec.size % 2 != 0) {
    reader.Fail(reader.Disagree("dimensions are turned in pairs", {"attn_cfg.rotary_emb_dim"}));
  }
  if (!reader.status().ok() || spec.size == 0) return nullptr;
  return std::make_shared<const Rotary>(spec, dtype);
}

AttentionSpec MambaSettings::ReadAttention(int64_t width, at::ScalarType dtype) {
  const absl::StatusOr<Settings> stated = settings_.Child("attn_cfg");
  if (!stated.ok()) reader.Fail(stated.status());
  for (const std::string& key : stated.ok() ? stated->Keys() : std::vector<std::string>{}) {
    if (std::find(std::begin(kAttentionSettings), std::end(kAttentionSettings), key) !=
        std::end(kAttentionSettings)) {
      continue;
    }
    reader.Fail(absl::FailedPreconditionError(
        absl::StrCat("setting \"attn_cfg.", key, "\" is none of those of state-spaces/mamba's attention")));
  }
  AttentionSpec spec;
  spec.width = width;
  spec.projection = AttentionSpec::Projection::kFused;
  spec.heads = reader.IntWithin({"attn_cfg.num_heads"}, 1, kLargestSize,
                                fresh() ? std::optional<int64_t>(4) : std::nullopt);
  if (!reader.status().ok()) return spec;
  spec.groups = reader.OptionalInt({"attn_cfg.num_heads_kv"}, std::nullopt).value_or(spec.heads);
  if (reader.status().ok() && (spec.groups < 1 || spec.heads % spec.groups != 0)) {
    reader.Fail(reader.Disagree("the heads do not divide into those of keys and values",
                                {"attn_cfg.num_heads", "attn_cfg.num_heads_kv"}));
  }
  const std::optional<int64_t> size = reader.OptionalInt({"attn_cfg.head_dim"}, std::nullopt);
  spec.key_size = spec.value_size = size.value_or(width / spec.heads);
  if (reader.status().ok() &&
      (spec.key_size < 1 || spec.key_size > kLargestSize || (!size && width % spec.heads != 0))) {
    reader.Fail(reader.Disagree(
        "the width does not divide into heads, or a head has no size",
        {"attn_cfg.num_heads", "attn_cfg.head_dim", reader.Spelt({"d_model", "hidden_size"})}));
  }
  if (!reader.status().ok()) return spec;
  spec.qkv_bias = reader.Bool({"attn_cfg.qkv_proj_bias"}, true);
  spec.output_bias = reader.Bool({"attn_cfg.out_proj_bias"}, true);
  spec.gated_mlp = MultipleOf(256, reader.IntWithin({"attn_cfg.mlp_dim"}, 0, kLargestSize, 0)) / 2;
  spec.taps = reader.IntWithin({"attn_cfg.d_conv"}, 0, 64, 0);
  spec.scale = reader.OptionalReal({"attn_cfg.softmax_scale"}, std::nullopt).value_or(0);
  if (spec.taps == 1) {  // its own code cannot be run so
    reader.Fail(absl::FailedPreconditionError("setting \"attn_cfg.d_conv\" is 1; supported: 0, and 2 to 64"));
  }
  if (reader.Has({"attn_cfg.softmax_scale"}) && !(spec.scale > 0)) {
    reader.Fail(absl::InvalidArgumentError(
        absl::StrCat("setting \"attn_cfg.softmax_scale\" is ", spec.scale, "; it must be above 0")));
  }
  if (!reader.Bool({"attn_cfg.causal"}, fresh())) {  // which is what its silence means
    reader.Fail(absl::FailedPreconditionError(
        "setting \"attn_cfg.causal\" is not true: attention that sees later steps has no state"));
  }
  spec.rotary = ReadAttentionRotary(spec.key_size, dtype);
  return spec;
}

int64_t MambaSettings::ReadMlp() {
  if (layout_ != "state-spaces") return 0;
  const std::string key = MambaKey(0, "mlp.fc2.weight");
  const int64_t stored = archive_ == nullptr ? 0 : StoredSize(*archive_, key, 1).value_or(0);
  const int64_t hidden = MultipleOf(128, reader.IntWithin({"d_intermediate"}, 0, kLargestSize, stored));
  if (reader.status().ok() && archive_ != nullptr && hidden != stored) {
    reader.Fail(reader.Naming(
        absl::FailedPreconditionError(absl::StrCat("the layers' own MLPs would be ", hidden, " wide, but \"",
                                                   key, "\" has ", stored, " columns")),
        {"d_intermediate"}));
  }
  return hidden;
}

// Rows beyond the vocabulary, up to a multiple, are part of the model. Where the multiple is not stated the
// embedding shows it.
void MambaSettings::ReadVocabulary(Shell& shell) {
  const std::string key = shell.decoder.embedding_key + ".weight";
  const int64_t rows = archive_ == nullptr ? 0 : StoredSize(*archive_, key, 0).value_or(0);
  int64_t& size = shell.decoder.description.vocab_size;
  size = reader.IntWithin({"vocab_size"}, 1, kLargestSize, rows > 0 ? rows : 64);
  if (reader.Has({"pad_vocab_size_multiple"})) {
    const int64_t multiple = reader.IntWithin({"pad_vocab_size_multiple"}, 1, kLargestSize);
    if (reader.status().ok()) size = (size + multiple - 1) / multiple * multiple;
  } else if (layout_ == "state-spaces" && rows < size + 128) {  // published multiples are at most 128
    size = std::max(size, rows);
  }
  reader.Ignore({"pad_vocab_size_multiple"});
}

NormSpec::Kind MambaSettings::ReadNormKind() {
  if (layout_ != "state-spaces") {  // the others have RMSNorm whatever rms_norm says
    reader.Ignore({"rms_norm"});
    return NormSpec::Kind::kRms;
  }
  const bool biased = HasKey("backbone.layers.0.norm.bias"), rms = reader.Bool({"rms_norm"}, !biased);
  if (reader.status().ok() && archive_ != nullptr && rms == biased) {
    reader.Fail(absl::FailedPreconditionError(absl::StrCat(
        "setting \"rms_norm\" is ", rms ? "true" : "false", ", but the norms of the weights have ",
        biased ? "" : "no ", "biases, as those of ", biased ? "LayerNorm" : "RMSNorm")));
  }
  return rms ? NormSpec::Kind::kRms : NormSpec::Kind::kLayer;
}

absl::StatusOr<MambaSettings::Shell> MambaSettings::ReadShell(absl::string_view family,
                                                              absl::string_view kind,
                                                              std::optional<int64_t> layers,
                                                              at::ScalarType dtype) {
  EIGSVC_RETURN_IF_ERROR(RefuseOthers(kind));
  Shell shell;
  DecoderSpec& decoder = shell.decoder;
  decoder.description.family = std::string(family);
  decoder.description.layout = layout_;
  // transformers reads either spelling of the embedding's key.
  const bool singular = archive_ == nullptr ? layout_ == "state-spaces" : HasKey("backbone.embedding.weight");
  decoder.embedding_key = singular ? "backbone.embedding" : "backbone.embeddings";
  decoder.norm_key = "backbone.norm_f";
  decoder.layer_prefix = "backbone.layers.#.";
  decoder.layer_keys = {{"mixer.qkv_proj", "mixer.in_proj"},
                        {"mixer.qkv_conv1d", "mixer.conv1d"},
                        {"mixer.o_proj", "mixer.out_proj"},
                        {"mlp.gate_proj", "mlp.fc1"},
                        {"mlp.down_proj", "mlp.fc2"}};
  decoder.ignored_keys = {"*.rotary_emb.inv_freq"};  // angles, which are computed here

  shell.layers = reader.IntWithin(Names("n_layer", "num_hidden_layers"), 1, 4096, layers.value_or(2));
  const std::optional<int64_t> columns =
      archive_ == nullptr ? std::nullopt : StoredSize(*archive_, decoder.embedding_key + ".weight", 1);
  shell.width = reader.IntWithin(Names("d_model", "hidden_size"), 1, kLargestSize, columns.value_or(64));
  decoder.description.width = shell.width;
  shell.attends = ReadAttending(shell.layers);
  EIGSVC_RETURN_IF_ERROR(reader.status());
  if (std::find(shell.attends.begin(), shell.attends.end(), true) != shell.attends.end()) {
    shell.attention = ReadAttention(shell.width, dtype);
    decoder.description.conventions.gauges = {Gauge::kDsf, Gauge::kRaw};
  }
  reader.Ignore({"attn_cfg"});
  shell.mlp = ReadMlp();
  ReadVocabulary(shell);

  const std::optional<int64_t> rows = MixerSize("out_proj.weight", 1);
  const double stated =
      static_cast<double>(rows.value_or(2 * shell.width)) / static_cast<double>(shell.width);
  const double expand = reader.Real(Names("ssm_cfg.expand", "expand"), stated);
  // Truncated like the reference's int(), but not for the rounding of expand itself.
  shell.inner = WholePart(expand * static_cast<double>(shell.width) * (1 + 1e-12));
  shell.inner_names = {reader.Spelt(Names("ssm_cfg.expand", "expand")),
                       reader.Spelt(Names("d_model", "hidden_size"))};
  EIGSVC_RETURN_IF_ERROR(reader.status());
  if (shell.inner < 1 || shell.inner > kLargestSize) {
    return reader.Disagree("the width times its expansion is no size", shell.inner_names);
  }

  decoder.norm.kind = ReadNormKind();
  decoder.norm.eps = layout_ == "fla" ? reader.NonNegative({"norm_eps"}, 1e-5)
                                      : reader.NonNegative(Names("norm_epsilon", "layer_norm_epsilon"), 1e-5);
  decoder.residual_in_float32 = reader.Bool({"residual_in_fp32"}, !(layout_ == "fla" && kind == "Mamba1"));
  decoder.tied = reader.Bool(Names("tie_embeddings", "tie_word_embeddings"),
                             layout_ == "state-spaces" || !HasKey("lm_head.weight"));
  // How a model is trained, drawn, served or named.
  reader.Ignore({"A_init_range",
                 "bos_token_id",
                 "chunk_size",
                 "conv_init",
                 "dt_init",
                 "dt_init_floor",
                 "dt_init_scheme",
                 "dt_max",
                 "dt_min",
                 "dt_scale",
                 "dtype",
                 "eos_token_id",
                 "fuse_cross_entropy",
                 "fuse_linear_cross_entropy",
                 "fuse_norm",
                 "fused_add_norm",
                 "initializer_range",
                 "pad_token_id",
                 "rescale_prenorm_residual",
                 "time_step_floor",
                 "time_step_init_scheme",
                 "time_step_max",
                 "time_step_min",
                 "time_step_scale",
                 "torch_dtype",
                 "transformers_version",
                 "use_associative_scan",
                 "use_cache",
                 "use_l2warp",
                 "use_mambapy"});
  EIGSVC_RETURN_IF_ERROR(reader.status());
  return shell;
}

absl::StatusOr<DecoderSpec> MambaSettings::Finish(
    Shell shell, const std::function<std::unique_ptr<const Module>()>& mixer) {
  EIGSVC_RETURN_IF_ERROR(reader.status());
  DecoderSpec& decoder = shell.decoder;
  EIGSVC_RETURN_IF_ERROR(reader.RefuseUnknown(typed_, decoder.description.family));
  FeedForwardSpec network{shell.width, shell.mlp};
  network.fused_gate = network.gate_last = true;
  for (int64_t layer = 0; layer < shell.layers; ++layer) {
    Branch branch{nullptr, "norm"};
    if (shell.attends[layer]) {
      branch.module = std::make_unique<Attention>("mixer.", shell.attention);
    } else {
      branch.module = mixer();
    }
    std::vector<Sublayer>& sublayers = decoder.layers.emplace_back();
    sublayers.emplace_back().branches.push_back(std::move(branch));
    if (shell.mlp == 0) continue;
    sublayers.emplace_back().branches.push_back(
        {std::make_unique<GatedFeedForward>("mlp.", network), "norm2"});
  }
  decoder.adjust = [depth = static_cast<double>(shell.layers)](WeightSpec& weight) {
    DrawAsMamba(depth, weight);
  };
  Settings& settings = decoder.description.settings;
  settings = reader.Resolved(decoder.description.family, layout_);
  settings.Set("vocab_size", decoder.description.vocab_size);
  if (layout_ == "state-spaces") settings.Set("pad_vocab_size_multiple", int64_t{1});
  return std::move(shell.decoder);
}

}  // namespace eigsvc
