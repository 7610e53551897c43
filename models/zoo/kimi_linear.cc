// Kimi-Linear (arXiv 2510.26692) as Moonshot publishes it and as Hugging Face holds it: Kimi Delta Attention
// and, every few layers, multi-head latent attention without positions, with mixtures of experts beside one
// that every step goes through.
#include <algorithm>
#include <memory>
#include <numeric>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "models/base/status_macros.h"
#include "models/mixers/attention.h"
#include "models/mixers/delta_net.h"
#include "models/mixers/feed_forward.h"
#include "models/mixers/mixture_of_experts.h"
#include "models/zoo/families.h"
#include "models/zoo/hybrid_settings.h"
#include "models/zoo/load_by_settings.h"
#include "models/zoo/weight_loader.h"

namespace eigsvc {
namespace {

constexpr absl::string_view kMoonshot = "moonshot", kTransformers = "huggingface";

// Where the keys of the layers differ from canonical names.
KeyMap KimiKeys(const std::string& layout) {
  if (layout == kTransformers) {
    return {{"self_attn.A_log", "self_attn.forget_gate.A_log"},
            {"self_attn.dt_bias", "self_attn.forget_gate.dt_bias"},
            {"self_attn.f_proj.0", "self_attn.forget_gate.f_a_proj"},
            {"self_attn.f_proj.1", "self_attn.forget_gate.f_b_proj"},
            {"self_attn.g_proj.0", "self_attn.g_a_proj"},
            {"self_attn.g_proj.1", "self_attn.g_b_proj"},
            {"self_attn.qkv_conv1d", "self_attn.conv1d"},
            {"mlp.router", "mlp.gate"},
            {"mlp.router.correction", "mlp.gate.e_score_correction_bias"},
            {"mlp.experts.input", "mlp.experts.gate_up_proj"},
            {"mlp.experts.output", "mlp.experts.down_proj"}};
  }
  return {{"self_attn.f_proj.0", "self_attn.f_a_proj"},
          {"self_attn.f_proj.1", "self_attn.f_b_proj"},
          {"self_attn.g_proj.0", "self_attn.g_a_proj"},
          {"self_attn.g_proj.1", "self_attn.g_b_proj"},
          {"mlp.router", "block_sparse_moe.gate"},
          {"mlp.router.correction", "block_sparse_moe.gate.e_score_correction_bias"},
          {"mlp.experts", "block_sparse_moe.experts"},
          {"mlp.shared_experts", "block_sparse_moe.shared_experts"}};
}

// Moonshot's names of an expert's projections.
void NameExperts(WeightSpec& weight) {
  if (!absl::StartsWith(weight.name, "mlp.experts.")) return;
  absl::StrReplaceAll({{".gate_proj.", ".w1."}, {".down_proj.", ".w2."}, {".up_proj.", ".w3."}}, &weight.key);
}

// What later models of this model_type have.
absl::Status RefuseLaterModels(const Settings& settings) {
  for (const absl::string_view name :
       {"attn_res_block_size", "routed_expert_hidden_size", "mla_use_output_gate",
        "linear_attn_config.gate_lower_bound", "linear_attn_config.use_full_rank_gate"}) {
    const absl::StatusOr<bool> asked = settings.BoolOr(name, false);
    if (asked.ok() && !*asked) continue;
    return absl::FailedPreconditionError(absl::StrCat(
        "setting \"", name,
        "\" asks for what later models of this model_type have (Kimi K3), which is not supported"));
  }
  return absl::OkStatus();
}

// Of each layer, whether it is one of attention; what a configuration leaves open, the keys tell.
std::vector<bool> ReadKimiKinds(HybridReader& source, int64_t layers, const Archive* archive) {
  SettingsReader& reader = source.reader;
  std::vector<bool> usual;
  for (int64_t layer = 0; layer < layers; ++layer) {
    const std::string key = absl::StrCat("model.layers.", layer, ".self_attn.kv_b_proj.weight");
    usual.push_back(archive == nullptr ? layer % 4 == 3 : archive->tensors().contains(key));
  }
  // Moonshot's lists, which count from one.
  const absl::string_view attends = "linear_attn_config.full_attn_layers",
                          remembers = "linear_attn_config.kda_layers";
  if (reader.Has({attends}) || reader.Has({remembers})) {
    std::vector<int64_t> all(layers), named = reader.Ints({remembers}, {});
    std::iota(all.begin(), all.end(), 1);
    usual.assign(layers, false);
    for (const int64_t layer : reader.Ints({attends}, {})) {
      named.push_back(layer);
      if (layer >= 1 && layer <= layers) usual[layer - 1] = true;
    }
    std::sort(named.begin(), named.end());
    if (reader.status().ok() && named != all) {
      reader.Fail(reader.Disagree("each layer, counted from one, is to be in one of the lists",
                                  {attends, remembers, "num_hidden_layers"}));
    }
  }
  return source.ReadEither("layer_types", "full_attention", "linear_attention", usual);
}

AttentionSpec ReadLatentAttention(HybridReader& source, int64_t width) {
  SettingsReader& reader = source.reader;
  AttentionSpec spec;
  spec.width = width;
  spec.projection = AttentionSpec::Projection::kLatent;
  spec.heads = spec.groups = source.Size({"num_attention_heads"}, 4);
  reader.IntWithin({"num_key_value_heads"}, spec.heads, spec.heads, spec.heads, {"num_attention_heads"});
  spec.latent_size = source.Size({"kv_lora_rank"}, 16);
  if (reader.OptionalInt({"q_lora_rank"}, std::nullopt)) {
    spec.query_latent_size = reader.IntWithin({"q_lora_rank"}, 1, kLargestSize);
  }
  spec.shared_key_size = source.Size({"qk_rope_head_dim"}, 8);  // named after a rotation that it does not get
  spec.key_size = source.Size({"qk_nope_head_dim"}, 16) + spec.shared_key_size;
  spec.value_size = source.Size({"v_head_dim"}, 16);
  spec.qkv_bias = spec.output_bias = reader.Bool({"attention_bias"}, false);
  spec.norm.eps = 1e-6;  // whatever that of the other norms is
  if (!reader.Bool({"mla_use_nope"}, true) && reader.status().ok()) {
    reader.Fail(absl::FailedPreconditionError(
        "setting \"mla_use_nope\" is false, which asks for rotated keys; supported: true"));
  }
  return spec;
}

DeltaNetSpec ReadKimiDelta(HybridReader& source, const DecoderSpec& decoder, int64_t layers,
                           const Archive* archive) {
  SettingsReader& reader = source.reader;
  const bool transformers = decoder.description.layout == kTransformers;
  DeltaNetSpec spec;
  spec.mixer = "kda";
  spec.width = decoder.description.width;
  spec.projection =
      transformers ? DeltaNetSpec::Projection::kOneConvolution : DeltaNetSpec::Projection::kSeparate;
  spec.heads = spec.value_heads = source.Size({"linear_num_heads", "linear_attn_config.num_heads"}, 4);
  spec.key_size = spec.value_size = source.Size({"linear_head_dim", "linear_attn_config.head_dim"}, 16);
  spec.taps =
      reader.IntWithin({"linear_conv_kernel_dim", "linear_attn_config.short_conv_kernel_size"}, 1, 1024, 4);
  spec.decay = DeltaNetSpec::Decay::kPerDimension;
  spec.gate = DeltaNetSpec::Gate::kLowRankSigmoid;
  spec.gate_bias = false;
  spec.norm_eps = decoder.norm.eps;
  spec.a_log_shape = {1, 1, spec.heads, 1};
  if (archive != nullptr) {
    const std::string prefix = absl::StrCat("model.layers.#.self_attn.", transformers ? "forget_gate." : "");
    spec.a_log_shape = StoredShape(*archive, prefix + "A_log", layers, spec.heads);
    spec.dt_bias_shape = StoredShape(*archive, prefix + "dt_bias", layers, spec.heads * spec.key_size);
  }
  return spec;
}

// The experts that a step chooses, and how many all steps share.
struct KimiExperts {
  MixtureOfExpertsSpec mixture;
  int64_t shared = 0;
};

absl::StatusOr<KimiExperts> ReadKimiExperts(HybridReader& source, int64_t width) {
  SettingsReader& reader = source.reader;
  const std::vector<absl::string_view> experts = {"num_experts", "num_local_experts"},
                                       chosen = {"num_experts_per_token", "num_experts_per_tok"},
                                       groups = {"num_expert_group", "n_group"},
                                       shared = {"num_shared_experts", "n_shared_experts"},
                                       renormalised = {"moe_renormalize", "norm_topk_prob"};
  const auto count = [&](const std::vector<absl::string_view>& names, int64_t small) {
    return reader.IntWithin(names, 1, 65536, source.fresh() ? std::optional<int64_t>(small) : std::nullopt);
  };
  KimiExperts read;
  MixtureOfExpertsSpec& mixture = read.mixture;
  mixture.experts = count(experts, 4);
  mixture.chosen = count(chosen, 2);
  mixture.expert = {width, source.Size({"moe_intermediate_size"}, 32)};
  mixture.score = MixtureOfExpertsSpec::Score::kSigmoid;
  mixture.correction = true;
  mixture.renormalised = reader.Bool(renormalised, true);
  // Of a silent configuration Moonshot's code makes 1, transformers 2.446.
  mixture.scale =
      reader.Real({"routed_scaling_factor"}, source.fresh() ? std::optional<double>(2.446) : std::nullopt);
  mixture.groups = reader.IntWithin(groups, 1, 65536, 1);
  mixture.chosen_groups = reader.IntWithin({"topk_group"}, 1, 65536, 1);
  if (reader.OptionalInt(shared, 1)) read.shared = reader.IntWithin(shared, 0, 65536, 1);
  reader.Choice({"moe_router_activation_func"}, {"sigmoid"}, "sigmoid");
  reader.Choice({"topk_method"}, {"noaux_tc"}, "noaux_tc");
  const bool grouped = reader.Bool({"use_grouped_topk"}, true);
  EIGSVC_RETURN_IF_ERROR(reader.status());
  EIGSVC_RETURN_IF_ERROR(reader.Naming(
      mixture.Check(), {reader.Spelt(experts), reader.Spelt(chosen), reader.Spelt(groups), "topk_group"}));
  if (!grouped && mixture.chosen_groups < mixture.groups) {
    return reader.Disagree("groups of experts that are not to be used",
                           {"use_grouped_topk", reader.Spelt(groups), "topk_group"});
  }
  if (mixture.chosen == 1 && mixture.renormalised) {
    return reader.Disagree(
        "transformers makes the weight of a single expert 1, and Moonshot's own code leaves it as it is; "
        "turn "
        "the latter setting off for that",
        {reader.Spelt(chosen), reader.Spelt(renormalised)});
  }
  return read;
}

// Of each layer, whether it has experts.
std::vector<bool> ReadKimiRoutes(HybridReader& source, int64_t layers) {
  SettingsReader& reader = source.reader;
  const int64_t first = reader.IntWithin({"first_k_dense_replace"}, 0, 65536, 1);
  const int64_t period = reader.IntWithin({"moe_layer_freq"}, 1, 65536, 1);
  std::vector<bool> usual;
  for (int64_t layer = 0; layer < layers; ++layer) usual.push_back(layer >= first && layer % period == 0);
  return source.ReadEither("mlp_layer_types", "sparse", "dense", usual);
}

// transformers 5 writes a dense layer's network under the experts' key in Moonshot's layout.
bool DenseUnderExperts(const Archive* archive, const std::vector<bool>& routes) {
  const int64_t dense = std::find(routes.begin(), routes.end(), false) - routes.begin();
  return archive != nullptr && archive->tensors().contains(absl::StrCat(
                                   "model.layers.", dense, ".block_sparse_moe.gate_proj.weight"));
}

absl::StatusOr<DecoderSpec> KimiLinearSpec(const Settings& settings, const Settings& typed,
                                           const std::string& layout, const Archive* archive,
                                           int64_t checkpoint_layers) {
  EIGSVC_RETURN_IF_ERROR(RefuseLaterModels(settings));
  HybridReader source(settings, typed, archive);
  SettingsReader& reader = source.reader;
  DecoderSpec spec = source.ReadShell("kimi_linear", "rms_norm_eps", 1e-5);
  // Of a silent configuration Moonshot's code makes 1e-6.
  if (!source.fresh()) reader.Real({"rms_norm_eps"});
  spec.description.layout = layout;
  spec.norm_key = "model.norm";
  spec.layer_keys = KimiKeys(layout);
  spec.ignored_keys = {"model.mtp*"};  // a head that drafts further tokens
  if (layout == kMoonshot) spec.adjust = NameExperts;
  const int64_t width = spec.description.width, layers = source.ReadLayers(checkpoint_layers, 4);
  const std::vector<bool> attends = ReadKimiKinds(source, layers, archive);
  const AttentionSpec attention = ReadLatentAttention(source, width);
  const DeltaNetSpec delta = ReadKimiDelta(source, spec, layers, archive);
  const std::vector<bool> routes = ReadKimiRoutes(source, layers);
  const FeedForwardSpec dense{width, source.Size({"intermediate_size"}, 96)};
  source.RequireSilu("hidden_act");
  EIGSVC_RETURN_IF_ERROR(reader.status());
  EIGSVC_ASSIGN_OR_RETURN(KimiExperts experts, ReadKimiExperts(source, width));
  experts.mixture.stacked = layout == kTransformers;
  const FeedForwardSpec shared{width, experts.shared * experts.mixture.expert.hidden};
  if (layout == kMoonshot && DenseUnderExperts(archive, routes)) {
    spec.layer_keys.emplace_back("mlp.", "block_sparse_moe.");
  }
  for (int64_t layer = 0; layer < layers; ++layer) {
    std::vector<Sublayer>& sublayers = spec.layers.emplace_back();
    Branch mixer{nullptr, "input_layernorm"};
    if (attends[layer]) {
      mixer.module = std::make_unique<Attention>("self_attn.", attention);
    } else {
      mixer.module = std::make_unique<DeltaNet>("self_attn.", delta);
    }
    sublayers.emplace_back().branches.push_back(std::move(mixer));
    std::vector<Branch>& branches = sublayers.emplace_back().branches;
    const auto add = [&](std::unique_ptr<const Module> module) {
      branches.push_back({std::move(module), "post_attention_layernorm"});
    };
    if (!routes[layer]) {
      add(std::make_unique<GatedFeedForward>("mlp.", dense));
      continue;
    }
    add(std::make_unique<MixtureOfExperts>("mlp.", experts.mixture));
    if (shared.hidden > 0) add(std::make_unique<GatedFeedForward>("mlp.shared_experts.", shared));
  }
  reader.Ignore({"head_dim", "model_max_length", "num_nextn_predict_layers", "qk_head_dim", "rope_parameters",
                 "rope_scaling", "rope_theta"});
  EIGSVC_RETURN_IF_ERROR(source.Finish(spec));
  return spec;
}

}  // namespace

FamilyEntry KimiLinearFamily() {
  return {
      "kimi_linear",
      {std::string(kMoonshot), std::string(kTransformers)},
      "Kimi-Linear: Kimi Delta Attention and latent attention in turn, with mixtures of experts",
      "KDA: eigenvalues of (I - β_i k_i k_iᵀ) diag(α_i), per head and step; attention: λ_i = ν_{i-1}/ν_i per "
      "query head",
      /*trainable=*/true,
      LoadLayout<KimiLinearSpec>,
      InitializeLayout<KimiLinearSpec, kMoonshot>,
      "arXiv 2510.26692; arXiv 2405.15731"};
}

}  // namespace eigsvc
