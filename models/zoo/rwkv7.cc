// RWKV-7 ("Goose", arXiv 2503.14456): the .pth files of RWKV-LM, which come without settings, the toy models
// of its RWKV-v8 folder, and flash-linear-attention's.
#include "models/mixers/rwkv7.h"

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "ATen/TensorOperators.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "models/base/status_macros.h"
#include "models/tensor/from_archive.h"
#include "models/tensor/torch_call.h"
#include "models/zoo/decoder.h"
#include "models/zoo/families.h"
#include "models/zoo/load_by_settings.h"
#include "models/zoo/rwkv_settings.h"
#include "models/zoo/settings_reader.h"
#include "models/zoo/weight_loader.h"

namespace eigsvc {
namespace {

// Canonical names are RWKV-LM's.
const KeyMap& FlaKeys() {
  static const auto* const keys = new KeyMap{{"ln1", "attn_norm"},
                                             {"ln2", "ffn_norm"},
                                             {"att.", "attn."},
                                             {"att.receptance", "attn.r_proj"},
                                             {"att.key", "attn.k_proj"},
                                             {"att.value", "attn.v_proj"},
                                             {"att.output", "attn.o_proj"},
                                             {"att.ln_x", "attn.g_norm"},
                                             {"att.w0", "attn.w_lora.lora.2.bias"},
                                             {"att.w1", "attn.w_lora.lora.0.weight"},
                                             {"att.w2", "attn.w_lora.lora.2.weight"},
                                             {"att.a0", "attn.a_lora.lora.2.bias"},
                                             {"att.a1", "attn.a_lora.lora.0.weight"},
                                             {"att.a2", "attn.a_lora.lora.2.weight"},
                                             {"att.v0", "attn.v_lora.lora.2.bias"},
                                             {"att.v1", "attn.v_lora.lora.0.weight"},
                                             {"att.v2", "attn.v_lora.lora.2.weight"},
                                             {"att.g1", "attn.g_lora.lora.0.weight"},
                                             {"att.g2", "attn.g_lora.lora.2.weight"}};
  return *keys;
}

// How a layout stores what does not depend on settings.
void SetKeys(const std::string& layout, bool norm_first, DecoderSpec& spec) {
  if (layout == "fla") {
    spec.embedding_key = "model.embeddings";
    if (norm_first) spec.embedding_norm_key = "model.layers.0.pre_norm";
    spec.layer_keys = FlaKeys();
    return;
  }
  if (layout == "rwkv-lm") {
    spec.embedding_key = "emb";
    spec.embedding_norm_key = "blocks.0.ln0";
    spec.norm_key = "ln_out";
    spec.head_key = "head";
    spec.layer_prefix = "blocks.#.";
    spec.ignored_keys = {"blocks.0.att.v0", "blocks.0.att.v1", "blocks.0.att.v2"};  // stored, never used
    return;
  }
  spec.embedding_key = "e";
  spec.norm_key = "lno";
  spec.head_key = "o";
  spec.layer_prefix = "";
  spec.first_layer = 1;
  spec.layer_keys = {{"ln1", "ln#a"},
                     {"ln2", "ln#b"},
                     {"att.", "rwkv#."},
                     {"ffn.", "ffn#."},
                     // A second branch beside the time mix, ROSA, whose output is zero but for this.
                     {"att.output.bias", "rosa#.o.bias"}};
  spec.ignored_keys = {"rwkv1.v0",  "rwkv1.v1",  "rwkv1.v2",       "rosa*.x_*",          "rosa*.q.*",
                       "rosa*.k.*", "rosa*.v.*", "rosa*.o.weight", "rosa*.rosa_qkv.emb", "ln1c.*",
                       "ln2c.*",    "ln3c.*",    "ln4c.*"};
}

// The toy models' second branch is passed over, so that it must not say anything: its output is a multiple of
// `emb`.
absl::Status RefuseRosa(const Archive& archive) {
  for (const auto& [key, stored] : archive.tensors()) {
    if (!absl::EndsWith(key, ".rosa_qkv.emb")) continue;
    EIGSVC_ASSIGN_OR_RETURN(const at::Tensor tensor, TensorFromArchive(stored));
    EIGSVC_ASSIGN_OR_RETURN(const bool live,
                            CallTorch(key, [&] { return (tensor != 0).any().item<bool>(); }));
    if (live) {
      return absl::FailedPreconditionError(
          absl::StrCat(archive.name(), " has a ROSA branch that is in use (", key,
                       " is not zero), which is not supported: only the RWKV-7 part is a linear recurrence"));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<DecoderSpec> Rwkv7DecoderSpec(const Settings& settings, const Settings& typed,
                                             const std::string& layout, const Archive* archive,
                                             int64_t layers) {
  const bool fla = layout == "fla", demo = layout == "rwkv-lm-demo";
  // Under which names a size is stored; the second layer's, which has all of them.
  const std::string number = layers > 1 ? (demo ? "2" : "1") : (demo ? "1" : "0");
  const std::string time_mix = fla    ? "model.layers." + number + ".attn."
                               : demo ? "rwkv" + number + "."
                                      : "blocks." + number + ".att.";
  const auto stored = [&](const std::string& key, size_t dimension, std::optional<int64_t> fresh) {
    return archive ? StoredSize(*archive, key, dimension) : fresh;
  };
  // Of a low-rank map with this letter.
  const auto rank = [&](const std::string& letter) {
    return fla ? stored(time_mix + letter + "_lora.lora.0.weight", 0, 8)
               : stored(time_mix + letter + "1", 1, 8);
  };
  const std::string embedding = fla ? "model.embeddings.weight" : demo ? "e.weight" : "emb.weight";
  const std::string channel_mix = fla ? "model.layers.0.ffn." : demo ? "ffn1." : "blocks.0.ffn.";

  SettingsReader reader(settings);
  const std::vector<absl::string_view> depths = {"num_hidden_layers", "n_layer"},
                                       widths = {"hidden_size", "n_embd"};
  layers = reader.IntWithin(depths, 1, 4096, archive ? layers : 2);
  Rwkv7Spec mixer;
  mixer.layers = layers;
  mixer.width = reader.IntWithin(widths, 1, kLargestSize, stored(embedding, 1, 32));
  mixer.head_size =
      reader.IntWithin({"head_dim", "head_size"}, 1, kLargestSize, stored(time_mix + "r_k", 1, 8));
  mixer.heads =
      reader.IntWithin({"num_heads"}, 1, 65536,
                       stored(time_mix + "r_k", 0, mixer.width / std::max<int64_t>(mixer.head_size, 1)));
  if (fla) {
    const std::vector<int64_t> same(layers, mixer.width);
    if (reader.Ints({"value_dim"}, same) != same) {
      reader.Fail(
          reader.Naming(absl::FailedPreconditionError("RWKV-7 has values of its width in all of its layers"),
                        {"value_dim", reader.Spelt(widths), reader.Spelt(depths)}));
    }
  }
  mixer.decay_rank = reader.IntWithin({"decay_low_rank_dim"}, 1, kLargestSize, rank("w"));
  mixer.rate_rank = reader.IntWithin({"a_low_rank_dim"}, 1, kLargestSize, rank("a"));
  mixer.gate_rank = reader.IntWithin({"gate_low_rank_dim"}, 1, kLargestSize, rank("g"));
  // A single layer has no value residual.
  mixer.value_rank = layers == 1 ? 1 : reader.IntWithin({"v_low_rank_dim"}, 1, kLargestSize, rank("v"));
  Rwkv7ChannelMixSpec network;
  network.width = mixer.width;
  network.layers = layers;
  network.hidden = reader.IntWithin({"intermediate_size", "dim_ffn"}, 1, kLargestSize,
                                    stored(channel_mix + "key.weight", 0, 4 * mixer.width));
  const RwkvFlaSettings flas = ReadRwkvFlaSettings(reader, fla);
  if (fla) {
    mixer.norm_eps = static_cast<double>(mixer.head_size) * flas.norm_eps;
    mixer.key_eps = reader.Bool({"fuse_norm"}, true) ? 1e-6 : 0;
    mixer.linear_layout = network.linear_layout = true;
    mixer.fused_shifts = archive != nullptr && archive->tensors().contains(time_mix + "x_x");
  }
  mixer.output_bias = demo;
  DecoderSpec spec;
  spec.description.vocab_size = reader.IntWithin({"vocab_size"}, 1, kLargestSize, stored(embedding, 0, 64));
  spec.tied = flas.tied;
  EIGSVC_RETURN_IF_ERROR(reader.status());
  spec.norm = {flas.norm_bias ? NormSpec::Kind::kLayer : NormSpec::Kind::kLayerNoBias, flas.norm_eps};
  spec.description.family = "rwkv7";
  spec.description.layout = layout;
  spec.description.width = mixer.width;
  spec.head_bias = demo;
  SetKeys(layout, flas.norm_first, spec);
  for (int64_t layer = 0; layer < layers; ++layer) {
    mixer.layer = network.layer = layer;
    Branch first{std::make_unique<Rwkv7TimeMix>("att.", mixer), "ln1"};
    Branch second{std::make_unique<Rwkv7ChannelMix>("ffn.", network), "ln2"};
    spec.layers.push_back(MixerAndNetwork(std::move(first), std::move(second)));
  }
  EIGSVC_RETURN_IF_ERROR(reader.RefuseUnknown(typed, "rwkv7"));
  spec.description.settings = reader.Resolved("rwkv7", layout);
  if (archive) EIGSVC_RETURN_IF_ERROR(RefuseRosa(*archive));
  return spec;
}

}  // namespace

FamilyEntry Rwkv7Family() {
  return {
      "rwkv7",
      {std::string(kRwkvLm), "rwkv-lm-demo", "fla"},
      "RWKV-7: a delta rule with decays per key dimension and token shifts, and a squared-ReLU channel mix",
      "eigenvalues of diag(w_i) - (a_i∘κ_i) κ_iᵀ, per head and step, real, between w's smallest - 1 and "
      "largest",
      /*trainable=*/true,
      LoadLayout<Rwkv7DecoderSpec>,
      InitializeLayout<Rwkv7DecoderSpec, kRwkvLm>,
      "arXiv 2503.14456"};
}

}  // namespace eigsvc
