// Mamba-2 (arXiv 2405.21060) as state-spaces/mamba, Hugging Face and flash-linear-attention store it, on a
// pre-normed residual stream. The layout of arXiv 2510.09379 has its own block: mamba2_paper.cc.
#include "models/mixers/mamba2.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "models/base/status_macros.h"
#include "models/zoo/decoder.h"
#include "models/zoo/families.h"
#include "models/zoo/mamba2_paper.h"
#include "models/zoo/mamba_settings.h"

namespace eigsvc {
namespace {

using SettingNames = std::vector<absl::string_view>;

// Which of B's and C's 2·G·N channels are groups and which are state: shapes alone cannot tell. `heads`: what
// the settings of the heads are called.
void ReadGroups(MambaSettings& source, bool has_mixer_settings, const SettingNames& heads, Mamba2Spec& spec) {
  SettingsReader& reader = source.reader;
  const auto groups = source.Names("ssm_cfg.ngroups", "n_groups");
  const auto order = source.Names("ssm_cfg.d_state", "state_size");
  if (source.fresh()) {
    spec.groups = reader.IntWithin(groups, 1, kLargestSize, 1);
    spec.order = reader.IntWithin(order, 1, kLargestSize, 32);
    return;
  }
  const int64_t channels = source.MixerSize("conv1d.weight").value_or(0);
  const int64_t product = (channels - spec.inner()) / 2;
  if (product < 1) {
    reader.Fail(reader.Naming(absl::FailedPreconditionError(absl::StrCat("mixer.conv1d.weight has ", channels,
                                                                         " channels, too few for x (",
                                                                         spec.inner(), ") beside B and C")),
                              heads));
    return;
  }
  // In state-spaces/mamba a configuration that does not mention ngroups means 1.
  const bool states_groups = reader.Has(groups) || (has_mixer_settings && !reader.Has(order));
  if (!states_groups && !reader.Has(order)) {
    const absl::string_view name = absl::StripPrefix(groups.front(), "ssm_cfg.");
    reader.Fail(absl::FailedPreconditionError(absl::StrCat(
        "setting \"", name, "\" is missing: the convolution has ", name, "·",
        absl::StripPrefix(order.front(), "ssm_cfg."), " = ", product,
        " channels each for B and C, and no tensor says how they divide. Pass it with --config '{\"", name,
        "\": 1}' (1 in most published models), or put config.json beside the weights")));
    return;
  }
  if (states_groups) {
    spec.groups = reader.IntWithin(groups, 1, kLargestSize, 1);
    spec.order = reader.IntWithin(order, 1, kLargestSize,
                                  std::max<int64_t>(product / std::max<int64_t>(spec.groups, 1), 1));
  } else {
    spec.order = reader.IntWithin(order, 1, kLargestSize);
    spec.groups = reader.IntWithin(groups, 1, kLargestSize,
                                   std::max<int64_t>(product / std::max<int64_t>(spec.order, 1), 1));
  }
}

// `channels`: of the state-space model, which the heads share; `names`: of the settings that they come from,
// and those of the heads from here on.
void ReadHeads(MambaSettings& source, int64_t channels, SettingNames& names, Mamba2Spec& spec) {
  SettingsReader& reader = source.reader;
  const auto width = source.Names("ssm_cfg.headdim", "head_dim");
  names.insert(names.end(), {reader.Spelt(width), reader.Spelt({"num_heads", "nheads"})});
  std::optional<int64_t> heads = source.MixerSize("A_log");
  if (reader.Has({"num_heads", "nheads"})) heads = reader.IntWithin({"num_heads", "nheads"}, 1, kLargestSize);
  const int64_t usual = heads && *heads > 0 ? std::max<int64_t>(channels / *heads, 1) : 16;
  spec.head_width = reader.IntWithin(width, 1, kLargestSize, usual);
  spec.heads = heads.value_or(channels / std::max<int64_t>(spec.head_width, 1));
  reader.Ignore({"num_heads", "nheads"});
  if (reader.status().ok() && spec.inner() != channels) {
    reader.Fail(reader.Disagree(absl::StrCat(spec.heads, " heads of ", spec.head_width,
                                             " channels are not the ", channels, " of the state-space model"),
                                names));
  }
}

// `archive`: null for a fresh model, as is `layers`.
absl::StatusOr<DecoderSpec> Mamba2Decoder(const Settings& settings, const Settings& typed,
                                          const std::string& layout, const Archive* archive,
                                          std::optional<int64_t> layers, at::ScalarType dtype) {
  MambaSettings source(settings, typed, layout, archive);
  SettingsReader& reader = source.reader;
  EIGSVC_ASSIGN_OR_RETURN(MambaSettings::Shell shell, source.ReadShell("mamba2", "Mamba2", layers, dtype));
  Mamba2Spec spec;
  spec.width = shell.width;
  spec.depth = shell.layers;
  const int64_t channels = reader.IntWithin(
      source.Names("ssm_cfg.d_ssm", "d_ssm"), 1, shell.inner,
      std::min(source.MixerSize("norm.weight").value_or(shell.inner), shell.inner), shell.inner_names);
  spec.gated_mlp = shell.inner - channels;
  SettingNames sizes = shell.inner_names;
  sizes.push_back(reader.Spelt(source.Names("ssm_cfg.d_ssm", "d_ssm")));
  ReadHeads(source, channels, sizes, spec);
  EIGSVC_RETURN_IF_ERROR(reader.status());
  ReadGroups(source, settings.Has("ssm_cfg"), sizes, spec);
  spec.taps = reader.IntWithin(source.Names("ssm_cfg.d_conv", "conv_kernel"), 1, 64,
                               source.MixerSize("conv1d.weight", 2).value_or(4));
  ReadStepLimit(reader, source.Names("ssm_cfg.dt_limit", layout == "fla" ? "dt_limit" : "time_step_limit"),
                spec);
  EIGSVC_RETURN_IF_ERROR(reader.status());
  if (!reader.Bool(source.Names("ssm_cfg.rmsnorm", "rmsnorm"), source.HasMixerKey("norm.weight", true))) {
    spec.norm = Mamba2Spec::Norm::kNone;
  } else if (reader.Bool(source.Names("ssm_cfg.norm_before_gate", "norm_before_gate"), false)) {
    spec.norm = Mamba2Spec::Norm::kBeforeGate;
  }
  // state-spaces/mamba fixes it inside the mixer.
  spec.norm_eps = layout == "state-spaces" ? 1e-5 : shell.decoder.norm.eps;
  // The kernels that published weights were trained with normalise each group on its own, and transformers
  // does since it follows them; its older releases normalised the whole width, which `gated_norm_groups` = 1
  // reproduces.
  spec.norm_groups = reader.IntWithin({"gated_norm_groups"}, 1, kLargestSize, spec.groups);
  spec.input_bias = spec.output_bias =
      reader.Bool(source.Names("ssm_cfg.bias", "use_bias"), source.HasMixerKey("in_proj.bias", false));
  spec.conv_bias = reader.Bool(source.Names("ssm_cfg.conv_bias", "use_conv_bias"),
                               source.HasMixerKey("conv1d.bias", true));
  const std::optional<int64_t> skips = source.MixerSize("D");
  spec.skip_per_channel =
      reader.Bool(source.Names("ssm_cfg.D_has_hdim", "D_has_hdim"), skips && *skips != spec.heads);
  reader.Ignore({"time_step_rank"});
  EIGSVC_RETURN_IF_ERROR(reader.status());
  sizes.insert(sizes.end(), {reader.Spelt(source.Names("ssm_cfg.ngroups", "n_groups")), "gated_norm_groups"});
  EIGSVC_RETURN_IF_ERROR(reader.Naming(spec.Check(), sizes));
  return source.Finish(std::move(shell), [&] { return std::make_unique<Mamba2>("mixer.", spec); });
}

absl::StatusOr<std::shared_ptr<const SequenceModel>> LoadMamba2(const Archive& archive,
                                                                const Detection& detection,
                                                                const LoadOptions& options) {
  if (detection.layout == "paper") return LoadPaperMamba2(archive, detection, options);
  EIGSVC_ASSIGN_OR_RETURN(DecoderSpec spec,
                          Mamba2Decoder(detection.settings, detection.typed, detection.layout, &archive,
                                        detection.layers, options.dtype));
  return LoadDecoder(std::move(spec), archive, options);
}

absl::StatusOr<std::shared_ptr<const SequenceModel>> InitializeMamba2(const Settings& settings, uint64_t seed,
                                                                      const LoadOptions& options) {
  EIGSVC_ASSIGN_OR_RETURN(const std::string layout, settings.TextOr("layout", "state-spaces"));
  if (layout == "paper") return InitializePaperMamba2(settings, seed, options);
  EIGSVC_ASSIGN_OR_RETURN(DecoderSpec spec,
                          Mamba2Decoder(settings, settings, layout, nullptr, std::nullopt, options.dtype));
  return InitializeDecoder(std::move(spec), seed, options);
}

}  // namespace

FamilyEntry Mamba2Family() {
  return {"mamba2",
          {"state-spaces", "huggingface", "fla", "paper"},
          "Mamba-2: a selective state-space model with one decay per head",
          "λ = exp(Δ·A) per head and step, real in (0, 1], multiplicity P·N; pseudo-LTI: "
          "exp(-β·softplus(A)), constant; attention: λ_i = ν_{i-1}/ν_i per query head",
          /*trainable=*/true,
          LoadMamba2,
          InitializeMamba2,
          "arXiv 2405.21060"};
}

}  // namespace eigsvc
