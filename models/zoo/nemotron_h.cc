// Nemotron-H (arXiv 2504.03624) and Nemotron 3 as Hugging Face stores them: each layer is one thing, Mamba-2,
// attention without positions, an MLP of squared ReLUs, or a mixture of such experts.
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
#include "models/zoo/mamba_settings.h"

namespace eigsvc {
namespace {

enum class BlockKind { kMamba, kAttention, kMlp, kMixture };

absl::StatusOr<BlockKind> KindOf(absl::string_view setting, absl::string_view type) {
  if (type == "M" || type == "mamba" || type == "linear_attention") return BlockKind::kMamba;
  if (type == "*" || type == "attention" || type == "full_attention") return BlockKind::kAttention;
  if (type == "-" || type == "mlp") return BlockKind::kMlp;
  if (type == "E" || type == "moe") return BlockKind::kMixture;
  return absl::FailedPreconditionError(
      absl::StrCat("setting \"", setting, "\" has a layer \"", type,
                   "\"; supported: mamba (M), attention (*), mlp (-), moe (E)"));
}

absl::StatusOr<std::vector<BlockKind>> ReadKinds(HybridReader& source, int64_t layers) {
  SettingsReader& reader = source.reader;
  std::vector<std::string> types;
  const std::vector<absl::string_view> names = {"layers_block_type", "layer_types"};
  absl::string_view spelt = reader.Spelt(names);
  if (reader.Has(names) || !reader.Has({"hybrid_override_pattern"})) {
    types = reader.Texts(names, {"mamba", "mlp", "attention", "moe"});
  } else {
    spelt = "hybrid_override_pattern";
    for (const char c : reader.Text({spelt})) types.emplace_back(1, c);
  }
  reader.Ignore({"hybrid_override_pattern", "layers_block_type", "layer_types", "num_hidden_layers"});
  EIGSVC_RETURN_IF_ERROR(reader.status());
  if (types.empty() || types.size() > 4096) {
    return absl::InvalidArgumentError(absl::StrCat("setting \"", spelt, "\" names ", types.size(),
                                                   " layers; it must be between 1 and 4096"));
  }
  if (!source.fresh() && static_cast<int64_t>(types.size()) != layers) {
    return absl::FailedPreconditionError(absl::StrCat("setting \"", spelt, "\" names ", types.size(),
                                                      " layers where the weights have ", layers));
  }
  std::vector<BlockKind> kinds;
  for (const std::string& type : types) {
    EIGSVC_ASSIGN_OR_RETURN(const BlockKind kind, KindOf(spelt, type));
    kinds.push_back(kind);
  }
  return kinds;
}

absl::StatusOr<Mamba2Spec> ReadMamba(HybridReader& source, const DecoderSpec& decoder, int64_t depth) {
  SettingsReader& reader = source.reader;
  Mamba2Spec spec;
  spec.width = decoder.description.width;
  spec.depth = depth;
  spec.heads = source.Size({"mamba_num_heads"}, 8);
  spec.head_width = source.Size({"mamba_head_dim"}, 16);
  const std::vector<absl::string_view> groups = {"n_groups", "mamba_n_groups"};
  spec.groups = source.Size(groups, 2);
  spec.order = source.Size({"ssm_state_size"}, 16);
  spec.taps = reader.IntWithin({"conv_kernel", "mamba_d_conv"}, 1, 64, 4);
  spec.conv_bias = reader.Bool({"use_conv_bias", "mamba_conv_bias"}, true);
  spec.input_bias = spec.output_bias = reader.Bool({"use_bias"}, false);
  spec.norm_eps = decoder.norm.eps;
  spec.norm_groups = spec.groups;
  ReadStepLimit(reader, {"time_step_limit"}, spec);
  source.RequireSilu("mamba_hidden_act");
  EIGSVC_RETURN_IF_ERROR(reader.status());
  EIGSVC_RETURN_IF_ERROR(
      reader.Naming(spec.Check(), {"mamba_num_heads", "mamba_head_dim", reader.Spelt(groups)}));
  return spec;
}

absl::StatusOr<MixtureOfExpertsSpec> ReadMixture(HybridReader& source, int64_t width, Activation activation) {
  SettingsReader& reader = source.reader;
  MixtureOfExpertsSpec spec;
  const std::vector<absl::string_view> experts = {"n_routed_experts", "num_local_experts"};
  spec.experts = source.Size(experts, 4);
  spec.chosen = reader.IntWithin({"num_experts_per_tok"}, 1, 65536, 2);
  spec.expert = {width, source.Size({"moe_intermediate_size"}, 32), activation, /*bias=*/false};
  spec.gated = false;
  spec.score = MixtureOfExpertsSpec::Score::kSigmoid;
  spec.renormalised = reader.Bool({"norm_topk_prob"}, true);
  spec.scale = reader.Real({"routed_scaling_factor"}, 1);
  spec.correction = true;
  spec.groups = reader.IntWithin({"n_group"}, 1, 65536, 1);
  spec.chosen_groups = reader.IntWithin({"topk_group"}, 1, 65536, 1);
  EIGSVC_RETURN_IF_ERROR(reader.status());
  if (reader.Has({"moe_latent_size"})) {
    return absl::FailedPreconditionError(
        "setting \"moe_latent_size\" asks for experts behind a projection to a smaller width, which is not "
        "supported");
  }
  EIGSVC_RETURN_IF_ERROR(
      reader.Naming(spec.Check(), {reader.Spelt(experts), "num_experts_per_tok", "n_group", "topk_group"}));
  return spec;
}

absl::StatusOr<DecoderSpec> NemotronHSpec(const Settings& settings, const Settings& typed,
                                          const Archive* archive, int64_t checkpoint_layers,
                                          at::ScalarType /*dtype*/) {
  HybridReader source(settings, typed, archive);
  SettingsReader& reader = source.reader;
  DecoderSpec spec = source.ReadShell("nemotron-h", "layer_norm_epsilon", 1e-5);
  spec.embedding_key = "backbone.embeddings";
  spec.norm_key = "backbone.norm_f";
  spec.layer_prefix = "backbone.layers.#.";
  spec.layer_keys = {{"mixer.router", "mixer.gate"},
                     {"mixer.router.correction", "mixer.gate.e_score_correction_bias"}};
  spec.ignored_keys = {"mtp.*"};
  spec.residual_in_float32 = reader.Bool({"residual_in_fp32"}, false);
  EIGSVC_ASSIGN_OR_RETURN(const std::vector<BlockKind> kinds, ReadKinds(source, checkpoint_layers));
  const int64_t width = spec.description.width;
  const AttentionSpec attention = source.ReadAttention(width);
  EIGSVC_ASSIGN_OR_RETURN(const Mamba2Spec mamba,
                          ReadMamba(source, spec, static_cast<int64_t>(kinds.size())));
  const Activation activation = source.ReadActivation("mlp_hidden_act", "relu2");
  const bool bias = reader.Bool({"mlp_bias"}, false);
  const FeedForwardSpec network{width, source.Size({"intermediate_size"}, 96), activation, bias};
  const bool has_mixture = std::find(kinds.begin(), kinds.end(), BlockKind::kMixture) != kinds.end();
  MixtureOfExpertsSpec mixture;
  FeedForwardSpec shared;
  if (has_mixture) {
    EIGSVC_ASSIGN_OR_RETURN(mixture, ReadMixture(source, width, activation));
    shared = {width, source.Size({"moe_shared_expert_intermediate_size"}, 48), activation, bias};
  }
  reader.Ignore({"attention_bias", "chunk_size", "expand", "head_dim", "intermediate_size", "mamba_proj_bias",
                 "mamba_ssm_cache_dtype", "moe_latent_size", "moe_shared_expert_overlap",
                 "mtp_layers_block_type", "n_shared_experts", "num_nextn_predict_layers",
                 "rescale_prenorm_residual", "sliding_window", "time_step_floor", "time_step_max",
                 "time_step_min", "mtp_hybrid_override_pattern"});
  EIGSVC_RETURN_IF_ERROR(reader.status());
  if (settings.Has("sliding_window")) {
    return absl::FailedPreconditionError(
        "setting \"sliding_window\" is not supported for nemotron-h, whose published models have none");
  }
  for (const BlockKind kind : kinds) {
    std::vector<Branch>& branches = spec.layers.emplace_back().emplace_back().branches;
    const auto add = [&](std::unique_ptr<const Module> module) {
      branches.push_back({std::move(module), "norm"});
    };
    switch (kind) {
      case BlockKind::kMamba:
        add(std::make_unique<Mamba2>("mixer.", mamba));
        break;
      case BlockKind::kAttention:
        add(std::make_unique<Attention>("mixer.", attention));
        break;
      case BlockKind::kMlp:
        add(std::make_unique<FeedForward>("mixer.", network));
        break;
      case BlockKind::kMixture:
        add(std::make_unique<MixtureOfExperts>("mixer.", mixture));
        add(std::make_unique<FeedForward>("mixer.shared_experts.", shared));
        break;
    }
  }
  EIGSVC_RETURN_IF_ERROR(source.Finish(spec));
  return spec;
}

}  // namespace

FamilyEntry NemotronHFamily() {
  return {"nemotron-h",
          {"huggingface"},
          "Nemotron-H: layers of Mamba-2, of attention, of an MLP or of a mixture of experts",
          "Mamba-2: λ = exp(Δ·A) per head; attention: λ_i = ν_{i-1}/ν_i per query head",
          /*trainable=*/true,
          LoadBySettings<NemotronHSpec>,
          InitializeBySettings<NemotronHSpec>,
          "arXiv 2504.03624"};
}

}  // namespace eigsvc
