// The attention models of arXiv 2510.09379 (layout "paper") and of its predecessor arXiv 2405.15731 on long
// sequences (layout "ssm-benchmark"), as their authors' repositories define and store them: softmax, linear
// and norm attention in one block, an optional short convolution and gate, with a decoder at every step or a
// classifier over pooled steps.
#include <cmath>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "models/base/status_macros.h"
#include "models/mixers/feed_forward.h"
#include "models/mixers/gated_units.h"
#include "models/mixers/residual_blocks.h"
#include "models/zoo/families.h"
#include "models/zoo/norm_function.h"
#include "models/zoo/settings_reader.h"
#include "models/zoo/stack.h"
#include "models/zoo/weight_loader.h"

namespace eigsvc {
namespace {

using AttentionKind = NormalizedAttentionSpec::Kind;

constexpr absl::string_view kFamilies[] = {"softmax-attention", "linear-attention", "norm-attention"};
constexpr absl::string_view kAttentionNames[] = {"sm-attention", "lin-attention", "norm-attention"};

// What the shapes of a checkpoint say; nothing of a fresh model.
struct TransformerShapes {
  std::optional<int64_t> width, vocab_size, channels, classes, positions, projection_rows, heads, taps,
      conv_rows, network_width, classifier_width;
  std::optional<bool> gated, classifies, offset;
  std::optional<std::string> network;
};

TransformerShapes ShapesOf(const Archive& archive, bool paper) {
  const auto has = [&](const std::string& key) { return archive.tensors().contains(key); };
  const std::string layer = "layers.0.", attention = layer + "attention.";
  TransformerShapes shapes;
  shapes.width = StoredSize(archive, layer + "norm.weight", 0);
  shapes.vocab_size = StoredSize(archive, "encoder.word_embeddings.weight", 0);
  shapes.channels = StoredSize(archive, "encoder.weight", 1);
  shapes.positions = StoredSize(archive, "encoder.position_embeddings.weight", 0).value_or(0);
  shapes.classifies = has("classifier.decoder.weight");
  shapes.classes =
      StoredSize(archive, *shapes.classifies ? "classifier.decoder.weight" : "decoder.weight", 0);
  shapes.classifier_width = StoredSize(archive, "classifier.encoder.weight", 0);
  shapes.offset = has(attention + "inner_attn.offset");
  shapes.heads = StoredSize(archive, attention + "inner_attn.offset", 0);
  if (!shapes.heads) shapes.heads = StoredSize(archive, attention + "Wn.weight", 0);
  for (const char* projection : {"Wqkv.weight", "Wvqkn.weight", "Wqk.weight"}) {
    if (has(attention + projection)) shapes.projection_rows = StoredSize(archive, attention + projection, 0);
  }
  shapes.taps = StoredSize(archive, attention + "conv1d.weight", 2).value_or(0);
  shapes.conv_rows = StoredSize(archive, attention + "conv1d.weight", 0);
  shapes.gated = has(layer + "Wz.weight");
  shapes.network_width =
      StoredSize(archive, layer + (paper ? "mixer.encoder.weight" : "mlp.encoder.weight"), 0);
  if (has(layer + "mixer.alpha")) {
    shapes.network = "hybrid";
  } else if (has(layer + "mixer.linear.weight")) {
    shapes.network = "glu";
  } else {
    shapes.network = shapes.network_width ? "mlp" : "none";
  }
  return shapes;
}

struct TransformerOptions {
  const Settings& settings;
  const Settings& typed;  // those that a user typed
  bool fresh;
  bool paper;  // false: ssm-benchmark
  AttentionKind kind;
};

// d_qk over all heads, from the rows of the projection.
std::optional<int64_t> StoredKeyRows(const TransformerShapes& shapes, const TransformerOptions& options,
                                     int64_t width, int64_t heads) {
  if (!shapes.projection_rows) return std::nullopt;
  int64_t rows = *shapes.projection_rows;
  if (options.paper) rows -= width + (options.kind == AttentionKind::kNorm ? heads : 0);
  return std::max<int64_t>(rows / 2, 1);
}

absl::StatusOr<NormalizedAttentionSpec> ReadAttention(SettingsReader& reader, const TransformerShapes& shapes,
                                                      const TransformerOptions& options, int64_t width) {
  NormalizedAttentionSpec spec;
  spec.kind = options.kind;
  spec.width = width;
  spec.fused = options.paper;
  // A file that holds no value a head leaves their number open.
  spec.heads =
      reader.IntWithin({"num_heads"}, 1, 65536, options.fresh ? std::optional<int64_t>(1) : shapes.heads);
  spec.key_rows = reader.IntWithin({"state_dim"}, 1, kLargestSize,
                                   StoredKeyRows(shapes, options, width, spec.heads).value_or(width));
  spec.dropout = reader.Dropout({"att_dropout"});
  spec.dropout_on_scores = options.kind == AttentionKind::kSoftmax;
  if (options.paper) {
    spec.taps = reader.IntWithin({"dim_conv"}, 0, 64, shapes.taps.value_or(0));
    const bool partial = shapes.conv_rows && *shapes.conv_rows == 2 * spec.key_rows;
    spec.convolve_values =
        reader.Choice({"conv_type"}, {"full", "partial"}, partial ? "partial" : "full") == "full";
  }
  if (options.kind == AttentionKind::kNorm) {
    EIGSVC_RETURN_IF_ERROR(ReadNormFunction(reader, options.fresh, options.paper, spec));
    if (options.paper) spec.offset = reader.Bool({"offset"}, shapes.offset.value_or(true));
  }
  EIGSVC_RETURN_IF_ERROR(reader.status());
  if (spec.key_rows % spec.heads != 0 || width % spec.heads != 0) {
    return reader.Disagree("the heads must divide both the state and the width",
                           {"num_heads", "state_dim", "hidden_dim"});
  }
  return spec;
}

struct Network {
  std::string kind;
  int64_t width = 0;
};

std::unique_ptr<const Module> MakeNetwork(const Network& network, int64_t width, double dropout) {
  if (network.kind == "glu") return std::make_unique<GatedLinearUnit>("mixer.", width);
  if (network.kind == "hybrid") return std::make_unique<MixedUnit>("mixer.", width, dropout);
  if (network.kind == "none") return nullptr;
  FeedForwardSpec spec{width, network.width, Activation::kGelu, /*bias=*/true};
  spec.dropout = dropout;
  return std::make_unique<FeedForward>("mixer.", spec);
}

// What the released analysis departs in, of each kind.
Departures DeparturesOf(const NormalizedAttentionSpec& attention) {
  Departures departures;
  departures.layer_output = departures.skip_norm = departures.count_padding = departures.closed_bins = true;
  departures.unscaled_scores = departures.masked_as_zero = attention.kind == AttentionKind::kSoftmax;
  departures.clamp_zero = attention.kind != AttentionKind::kSoftmax;
  departures.skip_convolution = attention.kind != AttentionKind::kNorm && attention.taps > 0;
  return departures;
}

absl::StatusOr<StackSpec> TransformerSpec(const TransformerOptions& options, const TransformerShapes& shapes,
                                          std::optional<int64_t> stored_layers) {
  SettingsReader reader(options.settings);
  StackSpec spec;
  ModelDescription& description = spec.description;
  const int64_t layers = reader.IntWithin({"num_layers"}, 1, 4096, stored_layers.value_or(2));
  description.width = reader.IntWithin({"hidden_dim"}, 1, kLargestSize, shapes.width.value_or(64));
  const bool embeds = reader.Bool({"embedding"}, options.fresh || shapes.vocab_size.has_value());
  if (embeds) {
    spec.encoder = StackSpec::Encoder::kEmbedding;
    description.vocab_size =
        reader.IntWithin({"vocab_size"}, 1, kLargestSize, shapes.vocab_size.value_or(64));
    spec.positions = reader.IntWithin({"max_pos_embed"}, 0, kLargestSize, shapes.positions.value_or(1024));
    description.max_positions = spec.positions;
    reader.Ignore({"input_dim"});
  } else {
    spec.encoder = StackSpec::Encoder::kLinear;
    description.channels = reader.IntWithin({"input_dim"}, 1, kLargestSize, shapes.channels.value_or(1));
    reader.Ignore({"vocab_size", "max_pos_embed"});
  }
  const bool classifies = reader.Bool({"classifier"}, shapes.classifies.value_or(false));
  description.classes =
      reader.IntWithin({"output_dim"}, 1, kLargestSize,
                       shapes.classes.value_or(embeds && !classifies ? description.vocab_size : 10));
  EIGSVC_RETURN_IF_ERROR(reader.status());
  EIGSVC_ASSIGN_OR_RETURN(const NormalizedAttentionSpec attention,
                          ReadAttention(reader, shapes, options, description.width));

  Network network{"mlp", 0};
  AttentionBlockSpec block{description.width, {NormSpec::Kind::kLayer, 1e-5}};
  if (options.paper) {
    network.kind = reader.Choice({"mixer"}, {"none", "mlp", "glu", "hybrid"}, shapes.network.value_or("mlp"));
    block.gated = reader.Bool({"use_gate"}, shapes.gated.value_or(false));
  }
  block.scaled_skip = !options.paper;
  const absl::string_view width_name = options.paper ? "mixer_dim" : "mlp_dim";
  const bool has_width = network.kind == "mlp" || classifies;
  if (has_width) {
    const std::optional<int64_t> stored =
        shapes.network_width && network.kind == "mlp" ? shapes.network_width : shapes.classifier_width;
    network.width = reader.IntWithin({width_name}, 1, kLargestSize, stored.value_or(4 * description.width));
  }
  block.dropout = reader.Dropout({"dropout"});
  reader.Choice({"norm"}, {"layer"}, "layer");
  const bool dual = reader.Bool({"dual"}, false);
  // Nothing in the weights tells how steps are pooled.
  const std::optional<std::string> pooled = options.fresh ? std::optional<std::string>("mean") : std::nullopt;
  EIGSVC_RETURN_IF_ERROR(reader.status());
  const std::string pooling = classifies ? reader.Text({"pooling"}, pooled) : "none";
  reader.Blame({"classifier"});
  EIGSVC_RETURN_IF_ERROR(reader.status());
  if (dual) {
    return absl::FailedPreconditionError(
        "setting \"dual\" is true (two documents are matched); false is supported, as the authors' own "
        "configurations have it");
  }
  EIGSVC_ASSIGN_OR_RETURN(spec.pooling, PoolingOf(pooling, {Pooling::kNone, Pooling::kMean, Pooling::kMax,
                                                            Pooling::kSum, Pooling::kFirst}));
  if (classifies) spec.classifier_width = network.width;
  spec.head_bias = classifies || !options.paper;
  spec.norm = block.norm;
  for (int64_t layer = 0; layer < layers; ++layer) {
    block.input_dropout = layer == 0 ? block.dropout : 0;
    spec.layers.push_back(std::make_unique<AttentionBlock>(
        block, std::make_unique<NormalizedAttention>("attention.", attention),
        MakeNetwork(network, description.width, block.dropout)));
  }

  const std::string layout = options.paper ? "paper" : "ssm-benchmark";
  const std::string mlp = options.paper ? "mixer." : "mlp.";
  spec.linear.defaults = LinearStyle::Defaults::kTorch;
  spec.outer_keys = {{"embedding", "encoder.word_embeddings"},
                     {"positions", "encoder.position_embeddings"},
                     {"hidden", "classifier.encoder"},
                     {"head", classifies ? "classifier.decoder" : "decoder"}};
  spec.layer_keys = {{"attention.offset", "attention.inner_attn.offset"},
                     {"mixer.up_proj", mlp + "encoder"},
                     {"mixer.down_proj", mlp + "decoder"}};
  const int index = static_cast<int>(options.kind);
  description.family = std::string(kFamilies[index]);
  description.layout = layout;
  description.conventions.gauges = {Gauge::kDsf, Gauge::kRaw};
  if (options.paper) description.conventions.departures = DeparturesOf(attention);
  // Fewer digits in training alone; what another kind of the same model reads.
  reader.Ignore({"use_flash", "pooling", "mixer_dim", "mlp_dim"});
  reader.Text({"layer"}, "transformer");
  reader.Text({"attention_fn"}, std::string(kAttentionNames[index]));
  EIGSVC_RETURN_IF_ERROR(reader.status());
  EIGSVC_RETURN_IF_ERROR(reader.RefuseUnknown(options.typed, description.family));
  description.settings = reader.Resolved(description.family, layout);
  return spec;
}

template <AttentionKind kind>
absl::StatusOr<std::shared_ptr<const SequenceModel>> LoadTransformer(const Archive& archive,
                                                                     const Detection& detection,
                                                                     const LoadOptions& options) {
  const bool paper = detection.layout == "paper";
  EIGSVC_ASSIGN_OR_RETURN(StackSpec spec,
                          TransformerSpec({detection.settings, detection.typed, /*fresh=*/false, paper, kind},
                                          ShapesOf(archive, paper), detection.layers));
  return LoadStack(std::move(spec), archive, options);
}

template <AttentionKind kind>
absl::StatusOr<std::shared_ptr<const SequenceModel>> InitializeTransformer(const Settings& settings,
                                                                           uint64_t seed,
                                                                           const LoadOptions& options) {
  EIGSVC_ASSIGN_OR_RETURN(const std::string layout, settings.TextOr("layout", "paper"));
  EIGSVC_ASSIGN_OR_RETURN(
      StackSpec spec,
      TransformerSpec({settings, settings, /*fresh=*/true, layout == "paper", kind}, {}, std::nullopt));
  return InitializeStack(std::move(spec), seed, options);
}

}  // namespace

FamilyEntry SoftmaxAttentionFamily() {
  return {"softmax-attention",
          {"paper", "ssm-benchmark"},
          "the softmax attention models of arXiv 2510.09379 and arXiv 2405.15731",
          "λ_i = ν_{i-1}/ν_i of the softmax normalisers, per head and step from the second on, real > 0",
          /*trainable=*/true,
          LoadTransformer<AttentionKind::kSoftmax>,
          InitializeTransformer<AttentionKind::kSoftmax>,
          "arXiv 2510.09379; arXiv 2405.15731"};
}

FamilyEntry LinearAttentionFamily() {
  return {
      "linear-attention",
      {"paper", "ssm-benchmark"},
      "the linear attention models (elu + 1) of arXiv 2510.09379 and arXiv 2405.15731",
      "λ_i = η_{i-1}/η_i for η_i = φ(q_i)·Σ_{j<=i} φ(k_j), per head and step from the second on, real > 0",
      /*trainable=*/true,
      LoadTransformer<AttentionKind::kLinear>,
      InitializeTransformer<AttentionKind::kLinear>,
      "arXiv 2006.16236; arXiv 2405.15731"};
}

FamilyEntry NormAttentionFamily() {
  return {"norm-attention",
          {"paper", "ssm-benchmark"},
          "the norm attention models of arXiv 2510.09379 and arXiv 2405.15731: a learned normaliser",
          "λ_i = η_{i-1}/η_i, η = exp(f(a)) in layout paper, f(a) in the others, per head and step from the "
          "second on, real > 0",
          /*trainable=*/true,
          LoadTransformer<AttentionKind::kNorm>,
          InitializeTransformer<AttentionKind::kNorm>,
          "arXiv 2405.15731; arXiv 2510.09379"};
}

}  // namespace eigsvc
