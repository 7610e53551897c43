// LFM2 (arXiv 2511.23404) as Hugging Face stores it: short convolutions between two gates and, in some
// layers, softmax attention with normed queries and keys. In LFM2-MoE, layers behind the first few have
// mixtures of experts.
#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "models/base/status_macros.h"
#include "models/mixers/attention.h"
#include "models/mixers/feed_forward.h"
#include "models/mixers/gated_convolution.h"
#include "models/mixers/mixture_of_experts.h"
#include "models/zoo/families.h"
#include "models/zoo/hybrid_settings.h"
#include "models/zoo/load_by_settings.h"
#include "models/zoo/rotary_settings.h"
#include "models/zoo/weight_loader.h"

namespace eigsvc {
namespace {

std::string Lfm2Key(int64_t layer, absl::string_view rest) {
  return absl::StrCat("model.layers.", layer, ".", rest);
}

AttentionSpec ReadLfm2Attention(const Settings& settings, HybridReader& source, const DecoderSpec& decoder,
                                at::ScalarType dtype) {
  SettingsReader& reader = source.reader;
  AttentionSpec spec = source.ReadAttention(decoder.description.width, ".self_attn.out_proj.weight");
  spec.qk_norm = AttentionSpec::QkNorm::kPerHead;
  spec.norm = decoder.norm;
  RotaryDefaults rotary{spec.key_size, {"hidden_size", "num_attention_heads", "head_dim"}};
  rotary.base = 1e6;
  rotary.trained_positions = static_cast<double>(reader.Int({"max_position_embeddings"}, 128000));
  // Its authors' name for the base.
  const bool named = reader.Has({"theta"});
  if (named && !StatesRotaryBase(settings)) rotary.base = reader.Positive({"theta"}, rotary.base);
  const RotarySpec turned = ReadRotary(reader, rotary);
  if (named && reader.status().ok() && reader.Positive({"theta"}, rotary.base) != turned.base) {
    reader.Fail(reader.Disagree(absl::StrCat("the rotary base is ", turned.base), {"theta", "rope_theta"}));
  }
  if (reader.status().ok()) spec.rotary = std::make_shared<const Rotary>(turned, dtype);
  return spec;
}

GatedConvolutionSpec ReadLfm2Convolution(SettingsReader& reader, int64_t width) {
  GatedConvolutionSpec spec;
  spec.width = spec.channels = width;
  spec.taps = reader.IntWithin({"conv_L_cache"}, 1, 1024, 3);
  spec.bias = spec.convolution_bias = reader.Bool({"conv_bias"}, false);
  spec.input_gate = true;
  return spec;
}

// Of each layer, whether it is one of attention. Silent settings are told by the keys, as configuration
// classes differ in what they make of silence.
std::vector<bool> ReadLfm2Layers(const Settings& settings, HybridReader& source, int64_t layers,
                                 const Archive* archive) {
  SettingsReader& reader = source.reader;
  std::vector<bool> usual;
  for (int64_t layer = 0; layer < layers; ++layer) {
    usual.push_back(archive == nullptr ? layer % 2 == 1
                                       : !archive->tensors().contains(Lfm2Key(layer, "conv.conv.weight")));
  }
  reader.Ignore({"full_attn_idxs"});
  const bool listed = settings.Has("full_attn_idxs");  // another spelling of layer_types
  if (listed) {
    const absl::StatusOr<std::vector<int64_t>> attending = settings.Ints("full_attn_idxs");
    if (!attending.ok()) reader.Fail(attending.status());
    std::fill(usual.begin(), usual.end(), false);
    for (const int64_t layer : attending.value_or(std::vector<int64_t>{})) {
      if (layer >= 0 && layer < layers) {
        usual[layer] = true;
      } else {
        reader.Fail(reader.Disagree(absl::StrCat("there is no layer ", layer),
                                    {"full_attn_idxs", "num_hidden_layers"}));
      }
    }
  }
  std::vector<bool> attends = source.ReadEither("layer_types", "full_attention", "conv", usual);
  if (listed && reader.status().ok() && attends != usual) {
    reader.Fail(reader.Disagree("they name other layers of attention", {"layer_types", "full_attn_idxs"}));
  }
  return attends;
}

// The MLP's width, which LFM2 makes of the stated one and LFM2-MoE takes as it is.
int64_t ReadLfm2Hidden(HybridReader& source, bool mixture) {
  SettingsReader& reader = source.reader;
  const int64_t stated = source.Size({"intermediate_size", "block_ff_dim"}, 96);
  reader.Ignore({"block_auto_adjust_ff_dim", "block_ffn_dim_multiplier", "block_multiple_of"});
  if (mixture || !reader.Bool({"block_auto_adjust_ff_dim"}, true)) return stated;
  const std::optional<double> factor = reader.OptionalReal({"block_ffn_dim_multiplier"}, 1);
  const int64_t multiple = reader.IntWithin({"block_multiple_of"}, 1, kLargestSize, 256);
  int64_t hidden = 2 * stated / 3;
  if (factor) {
    hidden = WholePart(*factor * static_cast<double>(hidden));
    hidden = (hidden + multiple - 1) / multiple * multiple;
  }
  if (reader.status().ok() && (hidden < 1 || hidden > kLargestSize)) {
    reader.Fail(reader.Disagree("two thirds of the MLP's width, times its factor, is no size",
                                {reader.Spelt({"intermediate_size", "block_ff_dim"}),
                                 "block_ffn_dim_multiplier", "block_multiple_of"}));
    return stated;
  }
  return hidden;
}

absl::StatusOr<MixtureOfExpertsSpec> ReadLfm2Mixture(HybridReader& source, int64_t width, int64_t layers,
                                                     const Archive* archive) {
  SettingsReader& reader = source.reader;
  MixtureOfExpertsSpec spec;
  std::optional<int64_t> stored;
  for (int64_t layer = 0; archive != nullptr && layer < layers && stored.value_or(0) == 0; ++layer) {
    stored = StoredSize(*archive, Lfm2Key(layer, "feed_forward.gate.weight"), 0).value_or(0);
    spec.stacked = archive->tensors().contains(Lfm2Key(layer, "feed_forward.experts.gate_up_proj"));
  }
  spec.experts = reader.StoredSize({"num_experts"}, stored, 0, 65536, 0);
  reader.Ignore({"moe_intermediate_size", "norm_topk_prob", "num_dense_layers", "num_experts_per_tok",
                 "routed_scaling_factor", "use_expert_bias"});
  EIGSVC_RETURN_IF_ERROR(reader.status());
  if (spec.experts == 0) return spec;
  spec.chosen = source.Size({"num_experts_per_tok"}, 2);
  spec.expert = {width, source.Size({"moe_intermediate_size"}, 32)};
  spec.score = MixtureOfExpertsSpec::Score::kSigmoid;
  spec.renormalised = reader.Bool({"norm_topk_prob"}, true);
  spec.sum_eps = 1e-6;
  spec.scale = reader.Real({"routed_scaling_factor"}, 1);
  spec.correction = reader.Bool({"use_expert_bias"}, true);
  EIGSVC_RETURN_IF_ERROR(reader.status());
  EIGSVC_RETURN_IF_ERROR(reader.Naming(spec.Check(), {"num_experts", "num_experts_per_tok"}));
  return spec;
}

// The convolution as transformers draws it, and the keys of the networks' and the experts' projections, of
// which there may be too many for a map.
void AdjustLfm2(double deviation, WeightSpec& weight) {
  if (weight.name == "conv.conv.weight") weight.draw = DrawNormal(deviation);
  if (weight.name == "conv.conv.bias") weight.draw = DrawConstant(0);
  if (!absl::StartsWith(weight.name, "feed_forward.")) return;
  weight.key = absl::StrReplaceAll(weight.key,
                                   {{".gate_proj.", ".w1."}, {".up_proj.", ".w3."}, {".down_proj.", ".w2."}});
}

// What the configurations of LFM2's authors say of its blocks and transformers' classes pass over.
void ReadLfm2Leftovers(SettingsReader& reader) {
  for (const absl::string_view name : {"block_use_swiglu", "use_pos_enc"}) {
    if (reader.Bool({name}, true)) continue;
    reader.Fail(absl::FailedPreconditionError(
        absl::StrCat("setting \"", name, "\" is false; LFM2 is run with SwiGLU and rotary positions")));
  }
  reader.Ignore({"block_dim", "block_mlp_init_scale", "block_norm_eps", "block_out_init_scale",
                 "block_use_xavier_init", "conv_dim", "conv_dim_out", "conv_use_xavier_init", "num_heads",
                 "theta"});
}

absl::StatusOr<DecoderSpec> Lfm2Spec(const Settings& settings, const Settings& typed, const Archive* archive,
                                     int64_t checkpoint_layers, at::ScalarType dtype) {
  HybridReader source(settings, typed, archive);
  SettingsReader& reader = source.reader;
  DecoderSpec spec = source.ReadShell("lfm2", "norm_eps", 1e-5);
  if (reader.Has({"tie_embedding"})) spec.tied = reader.Bool({"tie_embedding"});  // its authors' name wins
  reader.Ignore({"tie_embedding"});
  spec.norm_key = "model.embedding_norm";
  spec.layer_keys = {{"self_attn.o_proj", "self_attn.out_proj"},
                     {"self_attn.q_norm", "self_attn.q_layernorm"},
                     {"self_attn.k_norm", "self_attn.k_layernorm"},
                     {"feed_forward.router", "feed_forward.gate"},
                     {"feed_forward.router.correction", "feed_forward.expert_bias"},
                     {"feed_forward.experts.input", "feed_forward.experts.gate_up_proj"},
                     {"feed_forward.experts.output", "feed_forward.experts.down_proj"}};
  spec.adjust = [deviation = spec.draw_deviation](WeightSpec& weight) { AdjustLfm2(deviation, weight); };
  const int64_t width = spec.description.width, layers = source.ReadLayers(checkpoint_layers, 3);
  const AttentionSpec attention = ReadLfm2Attention(settings, source, spec, dtype);
  const GatedConvolutionSpec convolution = ReadLfm2Convolution(reader, width);
  EIGSVC_RETURN_IF_ERROR(reader.status());
  const std::vector<bool> attends = ReadLfm2Layers(settings, source, layers, archive);
  EIGSVC_ASSIGN_OR_RETURN(const MixtureOfExpertsSpec mixture,
                          ReadLfm2Mixture(source, width, layers, archive));
  const FeedForwardSpec dense{width, ReadLfm2Hidden(source, mixture.experts > 0)};
  const int64_t dense_layers =
      mixture.experts > 0 ? reader.IntWithin({"num_dense_layers"}, 0, 4096, 2) : layers;
  ReadLfm2Leftovers(reader);
  EIGSVC_RETURN_IF_ERROR(reader.status());
  for (int64_t layer = 0; layer < layers; ++layer) {
    Branch mixer{nullptr, "operator_norm"}, network{nullptr, "ffn_norm"};
    if (attends[layer]) {
      mixer.module = std::make_unique<Attention>("self_attn.", attention);
    } else {
      mixer.module = std::make_unique<GatedConvolution>("conv.", convolution);
    }
    if (layer < dense_layers) {
      network.module = std::make_unique<GatedFeedForward>("feed_forward.", dense);
    } else {
      network.module = std::make_unique<MixtureOfExperts>("feed_forward.", mixture);
    }
    spec.layers.push_back(MixerAndNetwork(std::move(mixer), std::move(network)));
  }
  EIGSVC_RETURN_IF_ERROR(source.Finish(spec));
  return spec;
}

}  // namespace

FamilyEntry Lfm2Family() {
  return {"lfm2",
          {"huggingface"},
          "LFM2: gated short convolutions and softmax attention in turn, with MLPs or mixtures of experts",
          "short convolutions: λ = 0, a channel's taps; attention: λ_i = ν_{i-1}/ν_i per query head",
          /*trainable=*/true,
          LoadBySettings<Lfm2Spec>,
          InitializeBySettings<Lfm2Spec>,
          "arXiv 2511.23404; arXiv 2405.15731"};
}

}  // namespace eigsvc
