// Mamba-1 (arXiv 2312.00752) as state-spaces/mamba, Hugging Face and flash-linear-attention store it, and
// FalconMamba (arXiv 2410.05355), whose Δ, B and C are normalised before their use.
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "models/base/status_macros.h"
#include "models/mixers/mamba1.h"
#include "models/zoo/decoder.h"
#include "models/zoo/families.h"
#include "models/zoo/mamba_settings.h"

namespace eigsvc {
namespace {

constexpr absl::string_view kMambaFamily = "mamba", kFalconMambaFamily = "falcon-mamba";

// `archive`: null for a fresh model, as is `layers`.
absl::StatusOr<DecoderSpec> MambaDecoder(absl::string_view family, const Settings& settings,
                                         const Settings& typed, const std::string& layout,
                                         const Archive* archive, std::optional<int64_t> layers,
                                         at::ScalarType dtype) {
  MambaSettings source(settings, typed, layout, archive);
  SettingsReader& reader = source.reader;
  EIGSVC_ASSIGN_OR_RETURN(MambaSettings::Shell shell, source.ReadShell(family, "Mamba1", layers, dtype));
  Mamba1Spec spec;
  spec.width = shell.width;
  spec.channels = shell.inner;
  spec.depth = shell.layers;
  spec.order = reader.IntWithin(source.Names("ssm_cfg.d_state", "state_size"), 1, kLargestSize,
                                source.MixerSize("A_log", 1).value_or(16));
  spec.rank =
      reader.IntOrAuto(source.Names("ssm_cfg.dt_rank", layout == "fla" ? "dt_rank" : "time_step_rank"), 1,
                       kLargestSize, source.MixerSize("dt_proj.weight", 1).value_or((spec.width + 15) / 16));
  spec.taps = reader.IntWithin(source.Names("ssm_cfg.d_conv", "conv_kernel"), 1, 64,
                               source.MixerSize("conv1d.weight", 2).value_or(4));
  spec.projection_bias =
      reader.Bool(source.Names("ssm_cfg.bias", "use_bias"), source.HasMixerKey("in_proj.bias", false));
  spec.conv_bias = reader.Bool(source.Names("ssm_cfg.conv_bias", "use_conv_bias"),
                               source.HasMixerKey("conv1d.bias", true));
  if (family == kFalconMambaFamily) {
    spec.inner_norm = Mamba1Spec::InnerNorm::kPlain;
    spec.inner_norm_eps = reader.Real({"mixer_rms_eps"}, 1e-6);
  }
  reader.Ignore({"intermediate_size", "time_step_rank", "use_falcon_mambapy"});
  return source.Finish(std::move(shell), [&] { return std::make_unique<Mamba1>("mixer.", spec); });
}

absl::StatusOr<std::shared_ptr<const SequenceModel>> LoadMamba(const Archive& archive,
                                                               const Detection& detection,
                                                               const LoadOptions& options) {
  EIGSVC_ASSIGN_OR_RETURN(
      DecoderSpec spec, MambaDecoder(detection.family, detection.settings, detection.typed, detection.layout,
                                     &archive, detection.layers, options.dtype));
  return LoadDecoder(std::move(spec), archive, options);
}

absl::StatusOr<std::shared_ptr<const SequenceModel>> InitializeMamba(const Settings& settings, uint64_t seed,
                                                                     const LoadOptions& options) {
  EIGSVC_ASSIGN_OR_RETURN(const std::string layout, settings.TextOr("layout", "state-spaces"));
  EIGSVC_ASSIGN_OR_RETURN(DecoderSpec spec, MambaDecoder(kMambaFamily, settings, settings, layout, nullptr,
                                                         std::nullopt, options.dtype));
  return InitializeDecoder(std::move(spec), seed, options);
}

absl::StatusOr<std::shared_ptr<const SequenceModel>> InitializeFalconMamba(const Settings& settings,
                                                                           uint64_t seed,
                                                                           const LoadOptions& options) {
  EIGSVC_ASSIGN_OR_RETURN(DecoderSpec spec,
                          MambaDecoder(kFalconMambaFamily, settings, settings, "huggingface", nullptr,
                                       std::nullopt, options.dtype));
  return InitializeDecoder(std::move(spec), seed, options);
}

constexpr absl::string_view kMambaTransition =
    "λ = exp(Δ·A) per channel and state, real in (0, 1): channels·N a step; attention: λ_i = ν_{i-1}/ν_i per "
    "query head";

}  // namespace

FamilyEntry MambaFamily() {
  return {kMambaFamily,
          {"state-spaces", "huggingface", "fla"},
          "Mamba-1: a selective state-space model with a decay for each channel and state",
          kMambaTransition,
          /*trainable=*/true,
          LoadMamba,
          InitializeMamba,
          "arXiv 2312.00752"};
}

FamilyEntry FalconMambaFamily() {
  return {kFalconMambaFamily,
          {"huggingface"},
          "FalconMamba: Mamba-1 whose step sizes, B and C are normalised",
          "λ = exp(Δ·A) per channel and state, real in (0, 1): channels·N a step",
          /*trainable=*/true,
          LoadMamba,
          InitializeFalconMamba,
          "arXiv 2410.05355"};
}

}  // namespace eigsvc
