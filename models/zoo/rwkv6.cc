// RWKV-6 ("Finch", arXiv 2404.05892): the .pth files of RWKV-LM, which come without settings, and
// flash-linear-attention's.
#include "models/mixers/rwkv6.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "models/base/status_macros.h"
#include "models/mixers/rwkv.h"
#include "models/zoo/decoder.h"
#include "models/zoo/families.h"
#include "models/zoo/load_by_settings.h"
#include "models/zoo/rwkv_settings.h"
#include "models/zoo/settings_reader.h"
#include "models/zoo/weight_loader.h"

namespace eigsvc {
namespace {

// Canonical names are RWKV-LM's.
const KeyMap& Rwkv6FlaKeys() {
  static const auto* const keys = new KeyMap{{"ln1", "attn_norm"},
                                             {"ln2", "ffn_norm"},
                                             {"att.", "attn."},
                                             {"att.time_maa_x", "attn.x_proj.0.mu"},
                                             {"att.time_maa_w1", "attn.x_proj.0.linear.weight"},
                                             {"att.time_maa_w2", "attn.x_proj.2.weight"},
                                             {"att.time_decay", "attn.w_proj.linear.lora.2.bias"},
                                             {"att.time_decay_w1", "attn.w_proj.linear.lora.0.weight"},
                                             {"att.time_decay_w2", "attn.w_proj.linear.lora.2.weight"},
                                             {"att.time_faaaa", "attn.bonus"},
                                             {"att.receptance", "attn.r_proj.linear"},
                                             {"att.key", "attn.k_proj.linear"},
                                             {"att.value", "attn.v_proj.linear"},
                                             {"att.gate", "attn.g_proj.linear"},
                                             {"att.output", "attn.o_proj"},
                                             {"att.ln_x", "attn.g_norm"},
                                             {"ffn.time_maa_k", "ffn.key.mu"},
                                             {"ffn.time_maa_r", "ffn.receptance.mu"},
                                             {"ffn.key.weight", "ffn.key.linear.weight"},
                                             {"ffn.receptance.weight", "ffn.receptance.linear.weight"}};
  return *keys;
}

void SetKeys(bool fla, bool norm_first, DecoderSpec& spec) {
  if (fla) {
    spec.embedding_key = "model.embeddings";
    if (norm_first) spec.embedding_norm_key = "model.layers.0.pre_norm";
    spec.layer_keys = Rwkv6FlaKeys();
    return;
  }
  spec.embedding_key = "emb";
  spec.embedding_norm_key = "blocks.0.ln0";
  spec.norm_key = "ln_out";
  spec.head_key = "head";
  spec.layer_prefix = "blocks.#.";
}

// The sizes of heads: fla's follow from the width, RWKV-LM's keys and values are of one size.
void ReadHeads(SettingsReader& reader, bool fla, const Archive* archive, Rwkv6Spec& mixer) {
  const auto stored = [&](absl::string_view key, size_t dimension, std::optional<int64_t> fresh) {
    return archive ? StoredSize(*archive, absl::StrCat(fla ? "model.layers.0.attn." : "blocks.0.att.", key),
                                dimension)
                   : fresh;
  };
  if (!fla) {
    mixer.key_size = mixer.value_size =
        reader.IntWithin({"head_size", "head_size_a"}, 1, kLargestSize, stored("time_faaaa", 1, 8));
    const int64_t values = reader.IntWithin({"dim_att"}, 1, kLargestSize,
                                            stored("receptance.weight", 0, mixer.width), {"n_embd"});
    mixer.heads = values / mixer.key_size;
    if (reader.status().ok() && values % mixer.key_size != 0) {
      reader.Fail(reader.Disagree(
          "the time mix does not divide into heads",
          {"dim_att", reader.Spelt({"head_size", "head_size_a"}), reader.Spelt({"hidden_size", "n_embd"})}));
    }
    return;
  }
  mixer.heads = reader.IntWithin({"num_heads"}, 1, 65536, stored("bonus", 0, 2));
  const auto width = static_cast<double>(mixer.width);
  const int64_t keys = WholePart(width * reader.Real({"expand_k"}, 0.5)),
                values = WholePart(width * reader.Real({"expand_v"}, 1));
  if (!reader.status().ok()) return;
  if (keys < mixer.heads || values < mixer.heads || keys % mixer.heads != 0 || values % mixer.heads != 0 ||
      keys > kLargestSize || values > kLargestSize) {
    reader.Fail(
        reader.Disagree(absl::StrCat(keys, " keys and ", values, " values do not divide into the heads"),
                        {"num_heads", "hidden_size", "expand_k", "expand_v"}));
    return;
  }
  mixer.key_size = keys / mixer.heads;
  mixer.value_size = values / mixer.heads;
}

absl::StatusOr<DecoderSpec> Rwkv6DecoderSpec(const Settings& settings, const Settings& typed,
                                             const std::string& layout, const Archive* archive,
                                             int64_t layers) {
  const bool fla = layout == "fla";
  const auto stored = [&](absl::string_view official, absl::string_view flas, size_t dimension,
                          std::optional<int64_t> fresh) {
    return archive ? StoredSize(*archive, std::string(fla ? flas : official), dimension) : fresh;
  };
  SettingsReader reader(settings);
  layers = reader.IntWithin({"num_hidden_layers", "n_layer"}, 1, 4096, archive ? layers : 2);
  Rwkv6Spec mixer;
  mixer.layers = layers;
  mixer.linear_layout = fla;
  mixer.width = reader.IntWithin({"hidden_size", "n_embd"}, 1, kLargestSize,
                                 stored("emb.weight", "model.embeddings.weight", 1, 32));
  ReadHeads(reader, fla, archive, mixer);
  std::optional<int64_t> mix_rank =
      stored("blocks.0.att.time_maa_w2", "model.layers.0.attn.x_proj.0.linear.weight", fla ? 0 : 1, 4);
  if (fla && archive && mix_rank) *mix_rank /= 5;
  mixer.mix_rank = reader.IntWithin({"proj_low_rank_dim"}, 1, kLargestSize, mix_rank);
  mixer.decay_rank =
      reader.IntWithin({"gate_low_rank_dim"}, 1, kLargestSize,
                       stored("blocks.0.att.time_decay_w1", "model.layers.0.attn.w_proj.linear.lora.0.weight",
                              fla ? 0 : 1, 8));
  RwkvChannelMixSpec network;
  network.width = mixer.width;
  network.layers = layers;
  network.linear_layout = fla;
  // Where nothing states it: a multiple of 32.
  const int64_t wanted =
      WholePart(static_cast<double>(mixer.width) * (fla ? reader.Real({"hidden_ratio"}, 3.5) : 3.5));
  const int64_t rounded = 32 * (fla ? (wanted + 31) / 32 : std::max<int64_t>(wanted / 32, 1));
  network.hidden =
      reader.IntWithin({"intermediate_size", "dim_ffn"}, 1, kLargestSize,
                       stored("blocks.0.ffn.key.weight", "model.layers.0.ffn.key.linear.weight", 0, rounded),
                       {"hidden_ratio"});
  const RwkvFlaSettings flas = ReadRwkvFlaSettings(reader, fla);
  mixer.norm_eps = flas.norm_eps;
  if (!fla) {
    // RWKV-LM divides what enters the norm over a head by this.
    const double divisor = reader.Positive({"head_size_divisor"}, 8);
    mixer.norm_eps *= divisor * divisor;
  }
  DecoderSpec spec;
  spec.description.vocab_size = reader.IntWithin({"vocab_size"}, 1, kLargestSize,
                                                 stored("emb.weight", "model.embeddings.weight", 0, 64));
  spec.tied = flas.tied;
  EIGSVC_RETURN_IF_ERROR(reader.status());
  spec.norm = {flas.norm_bias ? NormSpec::Kind::kLayer : NormSpec::Kind::kLayerNoBias, flas.norm_eps};
  spec.description.family = "rwkv6";
  spec.description.layout = layout;
  spec.description.width = mixer.width;
  SetKeys(fla, flas.norm_first, spec);
  for (int64_t layer = 0; layer < layers; ++layer) {
    mixer.layer = network.layer = layer;
    Branch first{std::make_unique<Rwkv6TimeMix>("att.", mixer), "ln1"};
    Branch second{std::make_unique<RwkvChannelMix>("ffn.", network), "ln2"};
    spec.layers.push_back(MixerAndNetwork(std::move(first), std::move(second)));
  }
  EIGSVC_RETURN_IF_ERROR(reader.RefuseUnknown(typed, "rwkv6"));
  spec.description.settings = reader.Resolved("rwkv6", layout);
  return spec;
}

}  // namespace

FamilyEntry Rwkv6Family() {
  return {"rwkv6",
          {std::string(kRwkvLm), "fla"},
          "RWKV-6: linear attention with decays and token shifts that are read from the input, and a gated "
          "channel "
          "mix",
          "λ = exp(-exp(w)) of a decay w read from the input, per head, key dimension and step, in (0,1)",
          /*trainable=*/true,
          LoadLayout<Rwkv6DecoderSpec>,
          InitializeLayout<Rwkv6DecoderSpec, kRwkvLm>,
          "arXiv 2404.05892"};
}

}  // namespace eigsvc
