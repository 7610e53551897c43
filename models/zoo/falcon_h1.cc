// Falcon-H1 (arXiv 2507.22448) as Hugging Face stores it: in every layer Mamba-2 and attention side by side,
// with multipliers on nearly everything; that of Δ's rows changes λ.
#include <cmath>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "models/base/status_macros.h"
#include "models/mixers/attention.h"
#include "models/mixers/feed_forward.h"
#include "models/mixers/mamba2.h"
#include "models/zoo/families.h"
#include "models/zoo/hybrid_settings.h"
#include "models/zoo/load_by_settings.h"

namespace eigsvc {
namespace {

absl::StatusOr<DecoderSpec> FalconH1Spec(const Settings& settings, const Settings& typed,
                                         const Archive* archive, int64_t checkpoint_layers,
                                         at::ScalarType dtype) {
  HybridReader source(settings, typed, archive);
  SettingsReader& reader = source.reader;
  DecoderSpec spec = source.ReadShell("falcon-h1", "rms_norm_eps", 1e-5);
  spec.embedding_scale = reader.Real({"embedding_multiplier"}, 1);
  spec.logits_scale = reader.Real({"lm_head_multiplier"}, 1);
  const int64_t width = spec.description.width;
  const int64_t layers = source.ReadLayers(checkpoint_layers, 2);
  AttentionSpec attention = source.ReadAttention(width);
  attention.qkv_bias = attention.output_bias = reader.Bool({"attention_bias"}, false);
  EIGSVC_RETURN_IF_ERROR(reader.status());
  source.ReadRotary(1, dtype, attention);
  const double key_scale = reader.Real({"key_multiplier"}, 1);
  EIGSVC_RETURN_IF_ERROR(reader.status());
  if (key_scale == 0) return absl::InvalidArgumentError("setting \"key_multiplier\" must not be 0");
  attention.scale = key_scale / std::sqrt(static_cast<double>(attention.key_size));

  EIGSVC_ASSIGN_OR_RETURN(Mamba2Spec mamba, source.ReadMamba2(width, layers, spec.norm.eps));
  mamba.multipliers = reader.Reals({"ssm_multipliers"}, {1, 1, 1, 1, 1});
  mamba.output_bias = reader.Bool({"projectors_bias"}, false);
  if (!reader.Bool({"mamba_rms_norm"}, false)) {
    mamba.norm = Mamba2Spec::Norm::kNone;
  } else if (reader.Bool({"mamba_norm_before_gate"}, true)) {
    mamba.norm = Mamba2Spec::Norm::kBeforeGate;
  }
  reader.Ignore({"mamba_norm_before_gate", "mamba_chunk_size", "rope_scaling", "mamba_use_mlp"});
  EIGSVC_RETURN_IF_ERROR(reader.status());
  if (mamba.multipliers.size() != 5) {
    return absl::InvalidArgumentError(absl::StrCat("setting \"ssm_multipliers\" has ",
                                                   mamba.multipliers.size(),
                                                   " numbers; it needs five: of z, x, B, C and dt"));
  }

  const std::vector<double> mlp_scales = reader.Reals({"mlp_multipliers"}, {1, 1});
  source.RequireSilu("hidden_act");
  FeedForwardSpec network{width, source.Size({"intermediate_size"}, 96)};
  network.bias = reader.Bool({"mlp_bias"}, false);
  const double ssm_in = reader.Real({"ssm_in_multiplier"}, 1),
               ssm_out = reader.Real({"ssm_out_multiplier"}, 1);
  const double attention_in = reader.Real({"attention_in_multiplier"}, 1),
               attention_out = reader.Real({"attention_out_multiplier"}, 1);
  EIGSVC_RETURN_IF_ERROR(reader.status());
  if (mlp_scales.size() != 2) {
    return absl::InvalidArgumentError(
        "setting \"mlp_multipliers\" must be two numbers: of the gate and the output");
  }
  network.gate_scale = mlp_scales[0];
  for (int64_t layer = 0; layer < layers; ++layer) {
    std::vector<Sublayer>& sublayers = spec.layers.emplace_back();
    std::vector<Branch>& mixers = sublayers.emplace_back().branches;
    mixers.push_back({std::make_unique<Mamba2>("mamba.", mamba), "input_layernorm", ssm_in, ssm_out});
    mixers.push_back({std::make_unique<Attention>("self_attn.", attention), "input_layernorm", attention_in,
                      attention_out});
    Branch branch{std::make_unique<GatedFeedForward>("feed_forward.", network), "pre_ff_layernorm", 1,
                  mlp_scales[1]};
    sublayers.emplace_back().branches.push_back(std::move(branch));
  }
  EIGSVC_RETURN_IF_ERROR(source.Finish(spec));
  return spec;
}

}  // namespace

FamilyEntry FalconH1Family() {
  return {"falcon-h1",
          {"huggingface"},
          "Falcon-H1: Mamba-2 and attention side by side in every layer",
          "Mamba-2: λ = exp(Δ·A) per head; attention: λ_i = ν_{i-1}/ν_i per query head",
          /*trainable=*/true,
          LoadBySettings<FalconH1Spec>,
          InitializeBySettings<FalconH1Spec>,
          "arXiv 2507.22448"};
}

}  // namespace eigsvc
