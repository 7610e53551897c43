#include "models/zoo/fla.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "models/base/status_macros.h"
#include "models/mixers/attention.h"
#include "models/mixers/feed_forward.h"
#include "models/zoo/weight_loader.h"

namespace eigsvc {
namespace {

// Softmax attention in some layers; which ones.
struct Hybrid {
  AttentionSpec attention;
  std::set<int64_t> layers;
};

Hybrid ReadHybrid(const FlaRequest& request) {
  SettingsReader& reader = request.reader;
  Hybrid hybrid;
  if (!reader.Has({"attn"})) return hybrid;
  const std::vector<int64_t> layers = reader.Ints({"attn.layers"}, {});
  hybrid.layers.insert(layers.begin(), layers.end());
  for (const int64_t layer : layers) {
    if (layer < 0 || layer >= request.layers) {
      reader.Fail(reader.Disagree(absl::StrCat("there is no layer ", layer, " of ", request.layers),
                                  {"attn.layers", "num_hidden_layers"}));
    }
  }
  AttentionSpec& spec = hybrid.attention;
  spec.width = request.width;
  spec.heads = reader.IntWithin({"attn.num_heads"}, 1, 65536);
  if (!reader.status().ok()) return hybrid;
  spec.groups = reader.IntWithin({"attn.num_kv_heads"}, 1, spec.heads, spec.heads, {"attn.num_heads"});
  spec.qkv_bias = reader.Bool({"attn.qkv_bias"}, false);
  if (reader.Has({"attn.window_size"})) {
    spec.window = reader.IntWithin({"attn.window_size"}, 1, kLargestSize);
  }
  const double base = reader.Positive({"attn.rope_theta"}, 10000.0);
  if (reader.status().ok() && (request.width % spec.heads != 0 || spec.heads % spec.groups != 0 ||
                               request.width / spec.heads % 2 != 0)) {
    reader.Fail(reader.Disagree("the width does not divide into heads of an even size",
                                {"hidden_size", "attn.num_heads", "attn.num_kv_heads"}));
  }
  if (!reader.status().ok()) return hybrid;
  spec.key_size = spec.value_size = request.width / spec.heads;
  spec.rotary = std::make_shared<Rotary>(RotarySpec{spec.key_size, base}, request.dtype);
  return hybrid;
}

FeedForwardSpec ReadNetwork(const FlaRequest& request, double hidden_ratio) {
  SettingsReader& reader = request.reader;
  FeedForwardSpec spec;
  spec.width = request.width;
  const double ratio = reader.Real({"hidden_ratio"}, hidden_ratio);
  // A multiple of 256, near two thirds of the ratio, as in LLaMA.
  const int64_t wanted = WholePart(static_cast<double>(request.width) * ratio * 2 / 3);
  const int64_t rounded = std::max<int64_t>(256 * ((wanted + 255) / 256), 1);
  spec.hidden = reader.IntWithin({"intermediate_size"}, 1, kLargestSize, request.archive ? rounded : 48,
                                 {"hidden_ratio", "hidden_size"});
  reader.Choice({"hidden_act"}, {"swish", "silu"}, "swish");
  // Files written before February 2025 hold [gate | up] in one.
  spec.fused_gate =
      request.archive != nullptr && !request.archive->tensors().contains("model.layers.0.mlp.up_proj.weight");
  return spec;
}

absl::StatusOr<DecoderSpec> FlaDecoderSpec(const FlaFamily& family, const Settings& settings,
                                           const Settings& typed, const Archive* archive, int64_t layers,
                                           at::ScalarType dtype) {
  SettingsReader reader(settings);
  DecoderSpec spec;
  FlaRequest request{reader, archive, 0, 0, dtype};
  request.layers = reader.IntWithin({"num_hidden_layers"}, 1, 4096, archive ? layers : 2);
  request.width = reader.IntWithin(
      {"hidden_size"}, 1, kLargestSize,
      archive ? StoredSize(*archive, "model.embeddings.weight", 1) : std::optional<int64_t>(32));
  EIGSVC_RETURN_IF_ERROR(reader.status());
  spec.description.family = std::string(family.name);
  spec.description.layout = "fla";
  spec.description.width = request.width;
  spec.description.vocab_size = reader.IntWithin(
      {"vocab_size"}, 1, kLargestSize,
      archive ? StoredSize(*archive, "model.embeddings.weight", 0) : std::optional<int64_t>(64));
  spec.norm = {NormSpec::Kind::kRms, reader.NonNegative({"norm_eps"}, 1e-6)};
  spec.tied = reader.Bool({"tie_word_embeddings"}, false);
  spec.draw_deviation = reader.NonNegative({"initializer_range"}, 0.02);
  spec.embedding_key = "model.embeddings";
  const FeedForwardSpec network = ReadNetwork(request, family.hidden_ratio);
  // A list of them, of different attention by layer, is not read.
  if (const absl::Status one = settings.Child("attn").status(); !one.ok()) reader.Fail(one);
  const Hybrid hybrid = ReadHybrid(request);
  if (reader.Has({"attnres_block_size"})) {
    reader.Fail(absl::FailedPreconditionError(
        "setting \"attnres_block_size\" asks for attention over residuals, which is not supported"));
  }
  const FlaMixer make_mixer = family.read_mixer(request, spec);
  EIGSVC_RETURN_IF_ERROR(reader.status());
  for (int64_t layer = 0; layer < request.layers; ++layer) {
    Branch mixer{nullptr, "attn_norm"},
        second{std::make_unique<GatedFeedForward>("mlp.", network), "mlp_norm"};
    if (hybrid.layers.contains(layer)) {
      mixer.module = std::make_unique<Attention>("attn.", hybrid.attention);
    } else {
      mixer.module = make_mixer(layer);
    }
    spec.layers.push_back(MixerAndNetwork(std::move(mixer), std::move(second)));
  }
  if (!hybrid.layers.empty()) spec.description.conventions.gauges = {Gauge::kDsf, Gauge::kRaw};
  // How it is computed there, and what training does.
  reader.Ignore({"attn", "attn_mode", "fuse_norm", "fuse_swiglu", "fuse_cross_entropy",
                 "fuse_linear_cross_entropy", "use_l2warp", "max_position_embeddings", "use_gk", "use_gv",
                 "use_output_norm", "num_heads"});
  EIGSVC_RETURN_IF_ERROR(reader.RefuseUnknown(typed, family.name));
  spec.description.settings = reader.Resolved(family.name, "fla");
  return spec;
}

}  // namespace

absl::StatusOr<std::shared_ptr<const SequenceModel>> LoadFla(const FlaFamily& family, const Archive& archive,
                                                             const Detection& detection,
                                                             const LoadOptions& options) {
  EIGSVC_ASSIGN_OR_RETURN(DecoderSpec spec, FlaDecoderSpec(family, detection.settings, detection.typed,
                                                           &archive, detection.layers, options.dtype));
  return LoadDecoder(std::move(spec), archive, options);
}

absl::StatusOr<std::shared_ptr<const SequenceModel>> InitializeFla(const FlaFamily& family,
                                                                   const Settings& settings, uint64_t seed,
                                                                   const LoadOptions& options) {
  EIGSVC_ASSIGN_OR_RETURN(DecoderSpec spec,
                          FlaDecoderSpec(family, settings, settings, nullptr, 0, options.dtype));
  return InitializeDecoder(std::move(spec), seed, options);
}

FlaHeads ReadExpandedHeads(const FlaRequest& request, double expand_k, double expand_v) {
  SettingsReader& reader = request.reader;
  FlaHeads sizes;
  sizes.heads =
      reader.IntWithin({"num_heads"}, 1, 65536, request.archive ? std::nullopt : std::optional<int64_t>(2));
  if (!reader.status().ok()) return sizes;
  sizes.groups = reader.IntWithin({"num_kv_heads"}, 1, sizes.heads, sizes.heads, {"num_heads"});
  const auto width = static_cast<double>(request.width);
  const int64_t keys = WholePart(width * reader.Real({"expand_k"}, expand_k)),
                values = WholePart(width * reader.Real({"expand_v"}, expand_v));
  if (!reader.status().ok()) return sizes;
  if (keys < sizes.heads || values < sizes.heads || keys % sizes.heads != 0 || values % sizes.heads != 0 ||
      sizes.heads % sizes.groups != 0 || keys > kLargestSize || values > kLargestSize) {
    reader.Fail(
        reader.Disagree(absl::StrCat(keys, " keys and ", values, " values do not divide into the heads"),
                        {"num_heads", "num_kv_heads", "hidden_size", "expand_k", "expand_v"}));
    return sizes;
  }
  sizes.key_size = keys / sizes.heads;
  sizes.value_size = values / sizes.heads;
  return sizes;
}

int64_t ReadTaps(SettingsReader& reader, bool by_default) {
  const int64_t taps = reader.IntWithin({"conv_size"}, 1, 1024, 4);
  return reader.Bool({"use_short_conv"}, by_default) ? taps : 0;
}

}  // namespace eigsvc
