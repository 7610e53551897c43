// RWKV-4 (arXiv 2305.13048): the .pth files of RWKV-LM, which come without settings, and Hugging Face's.
#include "models/mixers/rwkv4.h"

#include <cmath>
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
void SetKeys(bool hugging_face, DecoderSpec& spec) {
  if (!hugging_face) {
    spec.embedding_key = "emb";
    spec.embedding_norm_key = "blocks.0.ln0";
    spec.norm_key = "ln_out";
    spec.head_key = "head";
    spec.layer_prefix = "blocks.#.";
    return;
  }
  spec.embedding_key = "rwkv.embeddings";
  spec.embedding_norm_key = "rwkv.blocks.0.pre_ln";
  spec.norm_key = "rwkv.ln_out";
  spec.head_key = "head";
  spec.layer_prefix = "rwkv.blocks.#.";
  spec.layer_keys = {{"att.", "attention."},
                     {"att.time_mix_k", "attention.time_mix_key"},
                     {"att.time_mix_v", "attention.time_mix_value"},
                     {"att.time_mix_r", "attention.time_mix_receptance"},
                     {"ffn.", "feed_forward."},
                     {"ffn.time_mix_k", "feed_forward.time_mix_key"},
                     {"ffn.time_mix_r", "feed_forward.time_mix_receptance"}};
}

absl::StatusOr<DecoderSpec> Rwkv4DecoderSpec(const Settings& settings, const Settings& typed,
                                             const std::string& layout, const Archive* archive,
                                             int64_t layers) {
  const bool hugging_face = layout == "huggingface";
  DecoderSpec spec;
  SetKeys(hugging_face, spec);
  const std::string block = hugging_face ? "rwkv.blocks.0." : "blocks.0.";
  const auto stored = [&](const std::string& key, size_t dimension, std::optional<int64_t> fresh) {
    return archive ? StoredSize(*archive, key, dimension) : fresh;
  };
  const std::string embedding = spec.embedding_key + ".weight";
  SettingsReader reader(settings);
  layers = reader.IntWithin({"num_hidden_layers", "n_layer"}, 1, 4096, archive ? layers : 2);
  Rwkv4Spec mixer;
  mixer.layers = layers;
  mixer.width = reader.IntWithin({"hidden_size", "n_embd"}, 1, kLargestSize, stored(embedding, 1, 32));
  mixer.channels = reader.IntWithin(
      {"attention_hidden_size", "dim_att"}, 1, kLargestSize,
      stored(block + (hugging_face ? "attention." : "att.") + "time_decay", 0, mixer.width), {"hidden_size"});
  RwkvChannelMixSpec network;
  network.width = mixer.width;
  network.present_shares = true;
  network.layers = layers;
  network.hidden = reader.IntWithin(
      {"intermediate_size", "dim_ffn"}, 1, kLargestSize,
      stored(block + (hugging_face ? "feed_forward." : "ffn.") + "key.weight", 0, 4 * mixer.width),
      {"hidden_size"});
  int64_t rescale_every = 0;
  if (hugging_face) {
    rescale_every = reader.Int({"rescale_every"}, 6);
    const double eps = reader.Real({"layer_norm_epsilon"}, 1e-5);
    if (eps != 1e-5) {
      reader.Fail(absl::FailedPreconditionError(
          absl::StrCat("setting \"layer_norm_epsilon\" is ", eps,
                       "; only 1e-05 is supported, which transformers' last norm has whatever it says")));
    }
  }
  spec.description.vocab_size = reader.IntWithin({"vocab_size"}, 1, kLargestSize, stored(embedding, 0, 64));
  spec.tied = hugging_face && reader.Bool({"tie_word_embeddings"}, false);
  EIGSVC_RETURN_IF_ERROR(reader.status());
  spec.norm = {NormSpec::Kind::kLayer, 1e-5};
  spec.description.family = "rwkv4";
  spec.description.layout = layout;
  spec.description.width = mixer.width;
  spec.description.conventions.gauges = {Gauge::kDsf, Gauge::kRaw};
  for (int64_t layer = 0; layer < layers; ++layer) {
    mixer.layer = network.layer = layer;
    Branch first{std::make_unique<Rwkv4TimeMix>("att.", mixer), "ln1"};
    Branch second{std::make_unique<RwkvChannelMix>("ffn.", network), "ln2"};
    // transformers halves the residual stream every so many layers, and what is added to it as often. The
    // norms undo it but for their eps.
    if (rescale_every > 0) {
      first.output_scale = second.output_scale = std::exp2(-static_cast<double>(layer / rescale_every));
    }
    spec.layers.push_back(MixerAndNetwork(std::move(first), std::move(second)));
    if (rescale_every > 0 && (layer + 1) % rescale_every == 0) spec.layers.back()[1].output_scale = 0.5;
  }
  reader.Ignore({"context_length", "max_position_embeddings"});
  EIGSVC_RETURN_IF_ERROR(reader.RefuseUnknown(typed, "rwkv4"));
  spec.description.settings = reader.Resolved("rwkv4", layout);
  return spec;
}

}  // namespace

FamilyEntry Rwkv4Family() {
  return {
      "rwkv4",
      {std::string(kRwkvLm), "huggingface"},
      "RWKV-4: averages of the values so far with decaying weights, token shifts, and a gated channel mix",
      "λ = e^{-w}·b_{i-1}/b_i, b_i = e^{-w}·b_{i-1} + e^{k_i}, per channel and step, in (0,1); gauge raw: "
      "e^{-w}, constant",
      /*trainable=*/true,
      LoadLayout<Rwkv4DecoderSpec>,
      InitializeLayout<Rwkv4DecoderSpec, kRwkvLm>,
      "arXiv 2305.13048"};
}

}  // namespace eigsvc
