// Qwen3-Next (qwen.ai/blog, "Qwen3-Next", September 2025) and Qwen3.5 as Hugging Face stores them: Gated
// DeltaNet and, every few layers, softmax attention whose output is gated, with mixtures of experts beside
// one that every step goes through, and norms that store their distance from one. Qwen3.5 has Gated
// DeltaNet's projections apart and the same network in every layer, and may be the text part of a model that
// also reads images.
#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "models/base/status_macros.h"
#include "models/mixers/attention.h"
#include "models/mixers/delta_net.h"
#include "models/mixers/feed_forward.h"
#include "models/mixers/mixture_of_experts.h"
#include "models/zoo/families.h"
#include "models/zoo/hybrid_settings.h"
#include "models/zoo/load_by_settings.h"
#include "models/zoo/rotary_settings.h"
#include "models/zoo/weight_loader.h"

namespace eigsvc {
namespace {

enum class Qwen { k3Next, k3Point5 };

AttentionSpec ReadGatedAttention(HybridReader& source, const DecoderSpec& decoder, at::ScalarType dtype) {
  SettingsReader& reader = source.reader;
  AttentionSpec spec = source.ReadAttention(decoder.description.width);
  spec.qkv_bias = spec.output_bias = reader.Bool({"attention_bias"}, false);
  spec.output_gate = true;
  spec.qk_norm = AttentionSpec::QkNorm::kPerHead;
  spec.norm = decoder.norm;
  RotaryDefaults rotary{spec.key_size, {"hidden_size", "num_attention_heads", "head_dim"}};
  rotary.trained_positions = static_cast<double>(reader.Int({"max_position_embeddings"}, 32768));
  rotary.share = 0.25;
  const RotarySpec turned = ReadRotary(reader, rotary);
  if (reader.status().ok()) spec.rotary = std::make_shared<const Rotary>(turned, dtype);
  return spec;
}

DeltaNetSpec ReadQwenDeltaNet(HybridReader& source, const DecoderSpec& decoder, Qwen qwen) {
  SettingsReader& reader = source.reader;
  DeltaNetSpec spec;
  spec.mixer = "gated_delta_net";
  spec.width = decoder.description.width;
  spec.projection =
      qwen == Qwen::k3Next ? DeltaNetSpec::Projection::kFused : DeltaNetSpec::Projection::kJoint;
  spec.heads = source.Size({"linear_num_key_heads"}, 2);
  spec.value_heads = source.Size({"linear_num_value_heads"}, 4);
  spec.key_size = source.Size({"linear_key_head_dim"}, 8);
  spec.value_size = source.Size({"linear_value_head_dim"}, 8);
  spec.taps = reader.IntWithin({"linear_conv_kernel_dim"}, 1, 1024, 4);
  spec.decay = DeltaNetSpec::Decay::kPerHead;
  spec.gate = DeltaNetSpec::Gate::kSilu;
  spec.norm_eps = decoder.norm.eps;
  if (reader.status().ok() && spec.value_heads % spec.heads != 0) {
    reader.Fail(reader.Disagree("the heads of values do not divide among those of keys",
                                {"linear_num_value_heads", "linear_num_key_heads"}));
  }
  return spec;
}

// Of each layer, whether it is one of attention.
std::vector<bool> ReadLayerKinds(HybridReader& source, int64_t layers) {
  const int64_t interval = source.reader.IntWithin({"full_attention_interval"}, 1, 4096, 4);
  std::vector<bool> usual;
  for (int64_t layer = 1; layer <= layers; ++layer) usual.push_back(layer % interval == 0);
  return source.ReadEither("layer_types", "full_attention", "linear_attention", usual);
}

// What stands behind the mixers: one network, or experts beside the one that all steps share.
struct Networks {
  FeedForwardSpec dense, shared;
  MixtureOfExpertsSpec mixture;
  std::vector<bool> routes;  // of each layer
};

// Of each layer, whether it routes: in Qwen3-Next most, in Qwen3.5 all or none. `prefix`: of the keys.
absl::StatusOr<std::vector<bool>> ReadRoutes(HybridReader& source, Qwen qwen, const std::string& prefix,
                                             int64_t layers, const Archive* archive, int64_t& experts) {
  SettingsReader& reader = source.reader;
  if (qwen == Qwen::k3Point5) {
    std::optional<int64_t> stored;
    if (archive != nullptr) stored = StoredSize(*archive, prefix + "layers.0.mlp.gate.weight", 0).value_or(0);
    experts = reader.StoredSize({"num_experts"}, stored, 0, 65536, 0);
    EIGSVC_RETURN_IF_ERROR(reader.status());
    return std::vector<bool>(layers, experts > 0);
  }
  experts =
      reader.IntWithin({"num_experts"}, 0, 65536, source.fresh() ? std::optional<int64_t>(4) : std::nullopt);
  const int64_t period = reader.IntWithin({"decoder_sparse_step"}, 1, 4096, 1);
  const std::vector<int64_t> dense = reader.Ints({"mlp_only_layers"}, {});
  EIGSVC_RETURN_IF_ERROR(reader.status());
  std::vector<bool> routes;
  for (int64_t layer = 0; layer < layers; ++layer) {
    const bool excepted = std::find(dense.begin(), dense.end(), layer) != dense.end();
    routes.push_back(experts > 0 && (layer + 1) % period == 0 && !excepted);
  }
  return routes;
}

absl::StatusOr<Networks> ReadNetworks(HybridReader& source, Qwen qwen, const std::string& prefix,
                                      int64_t width, int64_t layers, const Archive* archive) {
  SettingsReader& reader = source.reader;
  source.RequireSilu("hidden_act");
  Networks networks;
  MixtureOfExpertsSpec& mixture = networks.mixture;
  EIGSVC_ASSIGN_OR_RETURN(networks.routes,
                          ReadRoutes(source, qwen, prefix, layers, archive, mixture.experts));
  reader.Ignore({"intermediate_size", "moe_intermediate_size", "shared_expert_intermediate_size",
                 "num_experts_per_tok", "norm_topk_prob"});
  const auto first = std::find(networks.routes.begin(), networks.routes.end(), true);
  if (std::find(networks.routes.begin(), networks.routes.end(), false) != networks.routes.end()) {
    networks.dense = {width, source.Size({"intermediate_size"}, 96)};
    reader.Blame({"num_experts", "decoder_sparse_step", "mlp_only_layers"});
    EIGSVC_RETURN_IF_ERROR(reader.status());
  }
  if (first != networks.routes.end()) {
    mixture.chosen = source.Size({"num_experts_per_tok"}, 2);
    mixture.expert = {width, source.Size({"moe_intermediate_size"}, 32)};
    mixture.renormalised = reader.Bool({"norm_topk_prob"}, true);
    // As transformers holds them since its version 5; published checkpoints have a tensor an expert.
    mixture.stacked = archive != nullptr &&
                      archive->tensors().contains(absl::StrCat(
                          prefix, "layers.", first - networks.routes.begin(), ".mlp.experts.gate_up_proj"));
    networks.shared = {width, source.Size({"shared_expert_intermediate_size"}, 48)};
    networks.shared.weighed = true;
    reader.Blame({"num_experts", "decoder_sparse_step", "mlp_only_layers"});
    EIGSVC_RETURN_IF_ERROR(reader.status());
    EIGSVC_RETURN_IF_ERROR(reader.Naming(mixture.Check(), {"num_experts", "num_experts_per_tok"}));
  }
  return networks;
}

// transformers draws what is Gated DeltaNet's own otherwise than flash-linear-attention does.
void DrawAsTransformers(double deviation, WeightSpec& weight) {
  if (weight.name == "linear_attn.A_log") {
    weight.draw = [](Random& random) { return std::log(0.01 + 15.99 * random.Unit()); };
  } else if (weight.name == "linear_attn.dt_bias") {
    weight.draw = DrawConstant(1);
  } else if (weight.name == "linear_attn.qkv_conv1d.weight") {
    weight.draw = DrawNormal(deviation);
  }
}

// transformers' classes of Qwen3.5 pass over these, which Qwen3-Next's read or which name what they always
// do: where one says something else, it is not known what the weights were trained as.
void RefuseOtherThanQwen35(SettingsReader& reader) {
  const auto refuse = [&](bool differs, absl::string_view name, absl::string_view what) {
    if (!differs) return;
    reader.Fail(absl::FailedPreconditionError(absl::StrCat("setting \"", name, "\": ", what)));
  };
  constexpr absl::string_view kAlike = "all layers of Qwen3.5 have the same kind of network";
  refuse(reader.Int({"decoder_sparse_step"}, 1) != 1, "decoder_sparse_step", kAlike);
  refuse(!reader.Ints({"mlp_only_layers"}, {}).empty(), "mlp_only_layers", kAlike);
  refuse(!reader.Bool({"norm_topk_prob"}, true), "norm_topk_prob",
         "the weights of the chosen experts of Qwen3.5 sum to one");
  refuse(!reader.Bool({"attn_output_gate"}, true), "attn_output_gate",
         "the attention of Qwen3.5 has a gate for its output");
}

absl::StatusOr<DecoderSpec> QwenSpec(Qwen qwen, const Settings& settings, const Settings& typed,
                                     const Archive* archive, int64_t checkpoint_layers,
                                     at::ScalarType dtype) {
  HybridReader source(settings, typed, archive);
  SettingsReader& reader = source.reader;
  DecoderSpec spec = source.ReadShell(qwen == Qwen::k3Next ? "qwen3_next" : "qwen3_5", "rms_norm_eps", 1e-6);
  spec.norm.kind = NormSpec::Kind::kRmsPlusOne;
  std::string prefix = "model.";
  spec.layer_keys = {{"linear_attn.qkvz_proj", "linear_attn.in_proj_qkvz"},
                     {"linear_attn.ba_proj", "linear_attn.in_proj_ba"},
                     {"linear_attn.qkv_conv1d", "linear_attn.conv1d"},
                     {"linear_attn.o_norm", "linear_attn.norm"},
                     {"linear_attn.o_proj", "linear_attn.out_proj"},
                     {"mlp.router", "mlp.gate"},
                     {"mlp.experts.input", "mlp.experts.gate_up_proj"},
                     {"mlp.experts.output", "mlp.experts.down_proj"},
                     {"mlp.shared_expert.share", "mlp.shared_expert_gate"}};
  spec.ignored_keys = {"mtp.*"};  // a head that drafts further tokens
  if (qwen == Qwen::k3Point5) {
    for (const char* const part : {"qkv", "a", "b"}) {
      spec.layer_keys.emplace_back(absl::StrCat("linear_attn.", part, "_proj"),
                                   absl::StrCat("linear_attn.in_proj_", part));
    }
    spec.layer_keys.emplace_back("linear_attn.g_proj", "linear_attn.in_proj_z");
    constexpr absl::string_view kOfText = "model.language_model.";
    if (archive != nullptr && archive->tensors().contains(absl::StrCat(kOfText, "embed_tokens.weight"))) {
      prefix = std::string(kOfText);
    }
    spec.ignored_keys.emplace_back("model.visual.*");  // what reads images, of which there are none here
    RefuseOtherThanQwen35(reader);
    // Where the parts of such a model are described, and how images are told from text.
    reader.Ignore({"image_token_id", "mamba_ssm_dtype", "mtp_num_hidden_layers",
                   "mtp_use_dedicated_embeddings", "video_token_id", "vision_config", "vision_end_token_id",
                   "vision_start_token_id"});
  }
  spec.embedding_key = prefix + "embed_tokens";
  spec.norm_key = prefix + "norm";
  spec.layer_prefix = prefix + "layers.#.";
  spec.adjust = [deviation = spec.draw_deviation](WeightSpec& weight) {
    DrawAsTransformers(deviation, weight);
  };
  const int64_t width = spec.description.width, layers = source.ReadLayers(checkpoint_layers, 4);
  const AttentionSpec attention = ReadGatedAttention(source, spec, dtype);
  const DeltaNetSpec delta_net = ReadQwenDeltaNet(source, spec, qwen);
  const std::vector<bool> attends = ReadLayerKinds(source, layers);
  EIGSVC_ASSIGN_OR_RETURN(const Networks networks,
                          ReadNetworks(source, qwen, prefix, width, layers, archive));
  EIGSVC_RETURN_IF_ERROR(reader.status());
  for (int64_t layer = 0; layer < layers; ++layer) {
    std::vector<Sublayer>& sublayers = spec.layers.emplace_back();
    Branch mixer{nullptr, "input_layernorm"};
    if (attends[layer]) {
      mixer.module = std::make_unique<Attention>("self_attn.", attention);
    } else {
      mixer.module = std::make_unique<DeltaNet>("linear_attn.", delta_net);
    }
    sublayers.emplace_back().branches.push_back(std::move(mixer));
    std::vector<Branch>& branches = sublayers.emplace_back().branches;
    const auto add = [&](std::unique_ptr<const Module> module) {
      branches.push_back({std::move(module), "post_attention_layernorm"});
    };
    if (networks.routes[layer]) {
      add(std::make_unique<MixtureOfExperts>("mlp.", networks.mixture));
      add(std::make_unique<GatedFeedForward>("mlp.shared_expert.", networks.shared));
    } else {
      add(std::make_unique<GatedFeedForward>("mlp.", networks.dense));
    }
  }
  EIGSVC_RETURN_IF_ERROR(source.Finish(spec));
  return spec;
}

absl::StatusOr<DecoderSpec> Qwen3NextSpec(const Settings& settings, const Settings& typed,
                                          const Archive* archive, int64_t layers, at::ScalarType dtype) {
  return QwenSpec(Qwen::k3Next, settings, typed, archive, layers, dtype);
}
absl::StatusOr<DecoderSpec> Qwen35Spec(const Settings& settings, const Settings& typed,
                                       const Archive* archive, int64_t layers, at::ScalarType dtype) {
  return QwenSpec(Qwen::k3Point5, settings, typed, archive, layers, dtype);
}

constexpr absl::string_view kQwenTransition =
    "Gated DeltaNet: α_i and α_i(1 - β_i‖k_i‖²) per head; attention: λ_i = ν_{i-1}/ν_i per query head";

}  // namespace

FamilyEntry Qwen3NextFamily() {
  return {"qwen3_next",
          {"huggingface"},
          "Qwen3-Next: Gated DeltaNet and gated softmax attention in turn, with mixtures of experts",
          kQwenTransition,
          /*trainable=*/true,
          LoadBySettings<Qwen3NextSpec>,
          InitializeBySettings<Qwen3NextSpec>,
          "arXiv 2412.06464; arXiv 2405.15731"};
}

FamilyEntry Qwen35Family() {
  return {"qwen3_5",
          {"huggingface"},
          "Qwen3.5: Gated DeltaNet and gated softmax attention in turn, with MLPs or mixtures of experts",
          kQwenTransition,
          /*trainable=*/true,
          LoadBySettings<Qwen35Spec>,
          InitializeBySettings<Qwen35Spec>,
          "arXiv 2412.06464; arXiv 2405.15731"};
}

}  // namespace eigsvc
