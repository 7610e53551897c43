#include "models/zoo/mamba_settings.h"

#include <algorithm>
#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "models/base/status_macros.h"
#include "models/zoo/weight_loader.h"

namespace eigsvc {
namespace {

constexpr absl::string_view kMixer = "backbone.layers.0.mixer.";

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
  return StoredSize(*archive_, absl::StrCat(kMixer, name), dimension);
}

bool MambaSettings::HasMixerKey(absl::string_view name, bool otherwise) const {
  return archive_ == nullptr ? otherwise : HasKey(absl::StrCat(kMixer, name));
}

absl::Status MambaSettings::RefuseHybrids(absl::string_view kind) {
  for (const absl::string_view key : {"attn_layer_idx", "ssm_cfg.attn_layer_idx"}) {
    if (!settings_.Has(key)) continue;
    EIGSVC_ASSIGN_OR_RETURN(const std::vector<int64_t> layers, settings_.Ints(key));
    if (layers.empty()) continue;
    return absl::FailedPreconditionError(
        absl::StrCat("this is a hybrid: setting \"", key, "\" puts attention into ", layers.size(),
                     " of the layers; this family runs models whose layers are all ", kind));
  }
  EIGSVC_ASSIGN_OR_RETURN(const int64_t mlp, settings_.IntOr("d_intermediate", 0));
  if (mlp > 0) {
    return absl::FailedPreconditionError(absl::StrCat("setting \"d_intermediate\" is ", mlp,
                                                      ": layers with an MLP of their own are not supported"));
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
  reader.Ignore({"attn_layer_idx", "attn_cfg", "d_intermediate", "hidden_act", "ssm_cfg"});
  return absl::OkStatus();
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
                                                              std::optional<int64_t> layers) {
  EIGSVC_RETURN_IF_ERROR(RefuseHybrids(kind));
  Shell shell;
  DecoderSpec& decoder = shell.decoder;
  decoder.description.family = std::string(family);
  decoder.description.layout = layout_;
  // transformers reads either spelling of the embedding's key.
  const bool singular = archive_ == nullptr ? layout_ == "state-spaces" : HasKey("backbone.embedding.weight");
  decoder.embedding_key = singular ? "backbone.embedding" : "backbone.embeddings";
  decoder.norm_key = "backbone.norm_f";
  decoder.layer_prefix = "backbone.layers.#.";

  shell.layers = reader.IntWithin(Names("n_layer", "num_hidden_layers"), 1, 4096, layers.value_or(2));
  const std::optional<int64_t> columns =
      archive_ == nullptr ? std::nullopt : StoredSize(*archive_, decoder.embedding_key + ".weight", 1);
  shell.width = reader.IntWithin(Names("d_model", "hidden_size"), 1, kLargestSize, columns.value_or(64));
  decoder.description.width = shell.width;
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
  for (int64_t layer = 0; layer < shell.layers; ++layer) {
    Branch branch{mixer(), "norm"};
    decoder.layers.emplace_back().emplace_back().branches.push_back(std::move(branch));
  }
  Settings& settings = decoder.description.settings;
  settings = reader.Resolved(decoder.description.family, layout_);
  settings.Set("vocab_size", decoder.description.vocab_size);
  if (layout_ == "state-spaces") settings.Set("pad_vocab_size_multiple", int64_t{1});
  return std::move(shell.decoder);
}

}  // namespace eigsvc
