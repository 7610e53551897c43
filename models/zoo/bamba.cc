// Hybrids of Mamba-2 and attention, a layer one or the other, as Hugging Face stores them: Bamba, whose
// attention turns half of each head, and Granite 4 (granitemoehybrid), with mixtures of experts and scales.
#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "models/base/status_macros.h"
#include "models/mixers/attention.h"
#include "models/mixers/feed_forward.h"
#include "models/mixers/mamba2.h"
#include "models/mixers/mixture_of_experts.h"
#include "models/zoo/families.h"
#include "models/zoo/hybrid_settings.h"
#include "models/zoo/load_by_settings.h"

namespace eigsvc {
namespace {

Branch MixerBranch(bool attends, const AttentionSpec& attention, const Mamba2Spec& mamba) {
  Branch branch{nullptr, "input_layernorm"};
  if (attends) {
    branch.module = std::make_unique<Attention>("self_attn.", attention);
  } else {
    branch.module = std::make_unique<Mamba2>("mamba.", mamba);
  }
  return branch;
}

absl::StatusOr<DecoderSpec> BambaSpec(const Settings& settings, const Settings& typed, const Archive* archive,
                                      int64_t checkpoint_layers, at::ScalarType dtype) {
  HybridReader source(settings, typed, archive);
  SettingsReader& reader = source.reader;
  DecoderSpec spec = source.ReadShell("bamba", "rms_norm_eps", 1e-5);
  const int64_t width = spec.description.width;
  const int64_t layers = source.ReadLayers(checkpoint_layers, 3);
  AttentionSpec attention = source.ReadAttention(width);
  attention.qkv_bias = attention.output_bias = reader.Bool({"attention_bias"}, false);
  EIGSVC_RETURN_IF_ERROR(reader.status());
  source.ReadRotary(0.5, dtype, attention);  // whatever the settings say: transformers overrides them
  reader.Ignore({"partial_rotary_factor", "rope_scaling", "mamba_chunk_size", "z_loss_coefficient"});
  EIGSVC_ASSIGN_OR_RETURN(const Mamba2Spec mamba, source.ReadMamba2(width, layers, spec.norm.eps));
  source.RequireSilu("hidden_act");
  FeedForwardSpec network{width, source.Size({"intermediate_size"}, 96)};
  network.bias = reader.Bool({"mlp_bias"}, false);
  const std::vector<int64_t> attends =
      reader.Ints({"attn_layer_indices"},
                  source.fresh() && layers > 1 ? std::vector<int64_t>{1} : std::vector<int64_t>{});
  EIGSVC_RETURN_IF_ERROR(reader.status());
  for (int64_t layer = 0; layer < layers; ++layer) {
    const bool is_attention = std::find(attends.begin(), attends.end(), layer) != attends.end();
    spec.layers.push_back(
        MixerAndNetwork(MixerBranch(is_attention, attention, mamba),
                        {std::make_unique<GatedFeedForward>("feed_forward.", network), "pre_ff_layernorm"}));
  }
  EIGSVC_RETURN_IF_ERROR(source.Finish(spec));
  return spec;
}

absl::StatusOr<std::vector<bool>> ReadAttends(SettingsReader& reader, int64_t layers, bool fresh) {
  std::vector<std::string> usual(layers, "linear_attention");
  if (fresh && layers > 1) usual[1] = "full_attention";
  const std::vector<absl::string_view> names = {"layer_types", "layers_block_type"};
  const std::vector<std::string> types = reader.Texts(names, usual);
  EIGSVC_RETURN_IF_ERROR(reader.status());
  const absl::string_view spelt = reader.Spelt(names);
  std::vector<bool> attends;
  for (const std::string& type : types) {
    if (type == "attention" || type == "full_attention") {
      attends.push_back(true);
    } else if (type == "mamba" || type == "linear_attention") {
      attends.push_back(false);
    } else {
      return absl::FailedPreconditionError(
          absl::StrCat("setting \"", spelt, "\" has a layer \"", type,
                       "\"; supported: mamba (linear_attention), attention (full_attention)"));
    }
  }
  if (static_cast<int64_t>(attends.size()) != layers) {
    return reader.Disagree(absl::StrCat(attends.size(), " kinds for ", layers, " layers"),
                           {spelt, "num_hidden_layers"});
  }
  return attends;
}

absl::StatusOr<DecoderSpec> GraniteHybridSpec(const Settings& settings, const Settings& typed,
                                              const Archive* archive, int64_t checkpoint_layers,
                                              at::ScalarType dtype) {
  HybridReader source(settings, typed, archive);
  SettingsReader& reader = source.reader;
  DecoderSpec spec = source.ReadShell("granite-hybrid", "rms_norm_eps", 1e-6);
  spec.norm_key = "model.norm";
  spec.layer_keys = {{"block_sparse_moe.router", "block_sparse_moe.router.layer"},
                     {"block_sparse_moe.experts.input", "block_sparse_moe.input_linear.weight"},
                     {"block_sparse_moe.experts.output", "block_sparse_moe.output_linear.weight"},
                     {"shared_mlp.gate_proj", "shared_mlp.input_linear"},
                     {"shared_mlp.down_proj", "shared_mlp.output_linear"}};
  spec.embedding_scale = reader.Real({"embedding_multiplier"}, 1);
  const double divisor = reader.Real({"logits_scaling"}, 1),
               residual = reader.Real({"residual_multiplier"}, 1);
  const int64_t width = spec.description.width;
  const int64_t layers = source.ReadLayers(checkpoint_layers, 3);
  AttentionSpec attention = source.ReadAttention(width);
  attention.qkv_bias = attention.output_bias = reader.Bool({"attention_bias"}, false);
  attention.scale = reader.Real({"attention_multiplier"}, 1);
  const std::string positions = reader.Text({"position_embedding_type"}, "nope");
  EIGSVC_RETURN_IF_ERROR(reader.status());
  if (positions == "rope") {
    source.ReadRotary(1, dtype, attention);
  } else if (positions != "nope") {
    return absl::FailedPreconditionError(
        absl::StrCat("setting \"position_embedding_type\" is \"", positions, "\"; supported: rope, nope"));
  }
  if (divisor == 0 || attention.scale == 0) {
    return absl::InvalidArgumentError(
        "settings \"logits_scaling\" and \"attention_multiplier\" must not be 0");
  }
  spec.logits_scale = 1 / divisor;
  reader.Ignore({"rope_scaling", "rope_theta", "rope_parameters", "mamba_chunk_size"});
  EIGSVC_ASSIGN_OR_RETURN(const Mamba2Spec mamba, source.ReadMamba2(width, layers, spec.norm.eps));
  source.RequireSilu("hidden_act");
  FeedForwardSpec shared{width, source.Size({"shared_intermediate_size"}, 48)};
  shared.fused_gate = true;
  MixtureOfExpertsSpec mixture;
  mixture.experts = reader.IntWithin({"num_local_experts"}, 0, 65536, source.fresh() ? 4 : 8);
  mixture.expert = {width, source.Size({"intermediate_size"}, 32)};
  mixture.chosen = reader.IntWithin({"num_experts_per_tok"}, 0, 65536, 2);
  mixture.stacked = mixture.renormalised = true;
  EIGSVC_ASSIGN_OR_RETURN(const std::vector<bool> attends, ReadAttends(reader, layers, source.fresh()));
  if (mixture.experts > 0) {
    EIGSVC_RETURN_IF_ERROR(reader.Naming(mixture.Check(), {"num_local_experts", "num_experts_per_tok"}));
  }
  for (int64_t layer = 0; layer < layers; ++layer) {
    std::vector<Sublayer>& sublayers = spec.layers.emplace_back();
    Branch mixer = MixerBranch(attends[layer], attention, mamba);
    mixer.output_scale = residual;
    sublayers.emplace_back().branches.push_back(std::move(mixer));
    std::vector<Branch>& networks = sublayers.emplace_back().branches;
    const auto add = [&](std::unique_ptr<const Module> module) {
      networks.push_back({std::move(module), "post_attention_layernorm", 1, residual});
    };
    if (mixture.experts > 0) add(std::make_unique<MixtureOfExperts>("block_sparse_moe.", mixture));
    add(std::make_unique<GatedFeedForward>("shared_mlp.", shared));
  }
  EIGSVC_RETURN_IF_ERROR(source.Finish(spec));
  return spec;
}

constexpr absl::string_view kBambaTransition =
    "Mamba-2: λ = exp(Δ·A) per head; attention: λ_i = ν_{i-1}/ν_i per query head";

}  // namespace

FamilyEntry BambaFamily() {
  return {"bamba",
          {"huggingface"},
          "Bamba: layers of Mamba-2 or of attention",
          kBambaTransition,
          /*trainable=*/true,
          LoadBySettings<BambaSpec>,
          InitializeBySettings<BambaSpec>,
          "arXiv 2405.21060"};
}

FamilyEntry GraniteHybridFamily() {
  return {"granite-hybrid",
          {"huggingface"},
          "Granite 4 hybrids: layers of Mamba-2 or of attention, with mixtures of experts",
          kBambaTransition,
          /*trainable=*/true,
          LoadBySettings<GraniteHybridSpec>,
          InitializeBySettings<GraniteHybridSpec>,
          "arXiv 2405.21060"};
}

}  // namespace eigsvc
