// The softmax transformer block of arXiv 2510.09379 (layout "paper") as its authors' repository defines and
// stores it: LayerNorm, one projection to [q | k | v] with d_qk independent of the width, an optional short
// convolution, attention, then the same LayerNorm again before the mixer; an optional gate over the whole
// block.
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "ATen/TensorOperators.h"
#include "ATen/core/IListRef.h"
#include "ATen/ops/cat.h"
#include "ATen/ops/embedding.h"
#include "ATen/ops/gelu.h"
#include "ATen/ops/glu.h"
#include "ATen/ops/linear.h"
#include "ATen/ops/sigmoid.h"
#include "ATen/ops/silu.h"
#include "absl/strings/str_cat.h"
#include "models/base/status_macros.h"
#include "models/base/status_util.h"
#include "models/layers/conv1d.h"
#include "models/layers/mlp.h"
#include "models/layers/norm.h"
#include "models/zoo/attention_model.h"
#include "models/zoo/families.h"
#include "models/zoo/settings_reader.h"
#include "models/zoo/weight_loader.h"

namespace eigsvc {
namespace {

constexpr double kPaperAttentionNormEps = 1e-5;
enum class Mixer { kNone, kMlp, kGlu, kHybrid };

struct SoftmaxAttentionConfig {
  int64_t layers = 0, width = 0, vocab_size = 0, outputs = 0;
  int64_t heads = 0, qk_width = 0;  // d_qk: q's (and k's) rows over all heads
  int64_t positions = 0;            // learned positions; 0: none
  int64_t taps = 0;                 // of the short convolution; 0: none
  bool conv_over_v = true;          // conv_type full; partial leaves v alone
  bool gated = false;
  Mixer mixer = Mixer::kMlp;
  int64_t mixer_width = 0;

  int64_t conv_rows() const { return 2 * qk_width + (conv_over_v ? width : 0); }

  Settings ToSettings() const {
    constexpr const char* kMixerNames[] = {"none", "mlp", "glu", "hybrid"};
    return Settings(nlohmann::json{{"family", "softmax-attention"},
                                   {"layout", "paper"},
                                   {"attention_fn", "sm-attention"},
                                   {"num_layers", layers},
                                   {"hidden_dim", width},
                                   {"state_dim", qk_width},
                                   {"num_heads", heads},
                                   {"embedding", true},
                                   {"vocab_size", vocab_size},
                                   {"output_dim", outputs},
                                   {"max_pos_embed", positions},
                                   {"dim_conv", taps},
                                   {"conv_type", conv_over_v ? "full" : "partial"},
                                   {"use_gate", gated},
                                   {"mixer", kMixerNames[static_cast<int>(mixer)]},
                                   {"mixer_dim", mixer_width},
                                   {"norm", "layer"},
                                   {"classifier", false},
                                   {"dual", false}},
                    "the model's settings");
  }
};

struct SoftmaxAttentionShapes {
  std::optional<int64_t> layers, width, vocab_size, outputs, projection_rows, positions, taps, conv_rows,
      mixer_width;
  std::optional<bool> gated;
  std::optional<std::string> mixer;
};

absl::Status RefuseSoftmaxAttentionVariants(const Archive& archive) {
  const auto has = [&](absl::string_view key) { return archive.tensors().contains(std::string(key)); };
  if (has("encoder.weight")) {
    return absl::FailedPreconditionError(
        "this model's encoder is a Linear layer over real inputs (embedding: false); this version runs token "
        "models, "
        "whose encoder is encoder.word_embeddings.weight");
  }
  if (has("classifier.encoder.weight") || has("match.encoder.weight")) {
    return absl::FailedPreconditionError(
        "this model ends in a classifier over pooled steps (keys classifier.* or match.*), which this "
        "version does not "
        "run; language models, which end in decoder.weight, are supported");
  }
  return absl::OkStatus();
}

SoftmaxAttentionShapes SoftmaxAttentionShapesOf(const Archive& archive, int64_t layers) {
  const std::string prefix = "layers.0.";
  SoftmaxAttentionShapes shapes;
  shapes.layers = layers;
  shapes.vocab_size = StoredSize(archive, "encoder.word_embeddings.weight", 0);
  shapes.width = StoredSize(archive, "encoder.word_embeddings.weight", 1);
  shapes.positions = StoredSize(archive, "encoder.position_embeddings.weight", 0).value_or(0);
  shapes.outputs = StoredSize(archive, "decoder.weight", 0);
  shapes.projection_rows = StoredSize(archive, prefix + "attention.Wqkv.weight", 0);
  shapes.conv_rows = StoredSize(archive, prefix + "attention.conv1d.weight", 0);
  shapes.taps = StoredSize(archive, prefix + "attention.conv1d.weight", 2).value_or(0);
  shapes.gated = archive.tensors().contains(prefix + "Wz.weight");
  shapes.mixer_width = StoredSize(archive, prefix + "mixer.encoder.weight", 0).value_or(0);
  if (archive.tensors().contains(prefix + "mixer.alpha")) {
    shapes.mixer = "hybrid";
  } else if (archive.tensors().contains(prefix + "mixer.linear.weight")) {
    shapes.mixer = "glu";
  } else {
    shapes.mixer = *shapes.mixer_width > 0 ? "mlp" : "none";
  }
  return shapes;
}

absl::StatusOr<Mixer> MixerOf(const std::string& name) {
  if (name == "none") return Mixer::kNone;
  if (name == "mlp") return Mixer::kMlp;
  if (name == "glu") return Mixer::kGlu;
  if (name == "hybrid") return Mixer::kHybrid;
  return UnknownName("mixer of softmax-attention", name, {"none", "mlp", "glu", "hybrid"});
}

absl::StatusOr<SoftmaxAttentionConfig> ReadSoftmaxAttention(const Settings& settings, const Settings& typed,
                                                            const SoftmaxAttentionShapes& shapes) {
  EIGSVC_RETURN_IF_ERROR(
      CheckKnownSettings(typed, "softmax-attention",
                         {"attention_fn", "num_layers", "hidden_dim", "state_dim", "num_heads", "embedding",
                          "vocab_size", "output_dim", "max_pos_embed", "dim_conv", "conv_type", "use_gate",
                          "mixer", "mixer_dim", "norm", "classifier", "dual"}));
  constexpr int64_t kLargest = int64_t{1} << 24;
  const bool fresh = !shapes.layers.has_value();
  SettingsReader reader(settings);
  SoftmaxAttentionConfig config;
  config.layers = reader.IntWithin({"num_layers"}, 1, 4096, shapes.layers.value_or(2));
  config.width = reader.IntWithin({"hidden_dim"}, 1, kLargest, shapes.width.value_or(64));
  config.vocab_size = reader.IntWithin({"vocab_size"}, 1, kLargest, shapes.vocab_size.value_or(64));
  config.outputs = reader.IntWithin({"output_dim"}, 1, kLargest, shapes.outputs.value_or(config.vocab_size));
  // The rows are [q | k | v] with as many rows of v as the width.
  config.qk_width =
      reader.IntWithin({"state_dim"}, 1, kLargest,
                       fresh ? config.width : (shapes.projection_rows.value_or(0) - config.width) / 2);
  config.heads = reader.IntWithin({"num_heads"}, 1, 65536, fresh ? std::optional<int64_t>(1) : std::nullopt);
  config.positions = reader.IntWithin({"max_pos_embed"}, 0, kLargest, shapes.positions.value_or(1024));
  config.taps = reader.IntWithin({"dim_conv"}, 0, 64, shapes.taps.value_or(0));
  const bool has_partial_rows = shapes.conv_rows && *shapes.conv_rows == 2 * config.qk_width;
  const std::string conv_type = reader.Text({"conv_type"}, has_partial_rows ? "partial" : "full");
  config.conv_over_v = conv_type != "partial";
  config.gated = reader.Bool({"use_gate"}, shapes.gated.value_or(false));
  const std::string mixer = reader.Text({"mixer"}, shapes.mixer.value_or("mlp"));
  const std::string norm = reader.Text({"norm"}, "layer");
  const bool embeds = reader.Bool({"embedding"}, true);
  const bool classifies = reader.Bool({"classifier"}, false) || reader.Bool({"dual"}, false);
  EIGSVC_RETURN_IF_ERROR(reader.status());
  EIGSVC_ASSIGN_OR_RETURN(config.mixer, MixerOf(mixer));
  if (config.mixer == Mixer::kMlp) {
    config.mixer_width =
        reader.IntWithin({"mixer_dim"}, 1, kLargest, shapes.mixer_width.value_or(4 * config.width));
    EIGSVC_RETURN_IF_ERROR(reader.status());
  }
  if (config.qk_width % config.heads != 0 || config.width % config.heads != 0) {
    return absl::InvalidArgumentError(absl::StrCat("num_heads = ", config.heads,
                                                   " must divide both state_dim = ", config.qk_width,
                                                   " and hidden_dim = ", config.width));
  }
  if (conv_type != "full" && conv_type != "partial") {
    return absl::InvalidArgumentError(
        absl::StrCat("setting \"conv_type\" is \"", conv_type, "\"; it must be full or partial"));
  }
  if (norm != "layer" || !embeds || classifies) {
    return absl::FailedPreconditionError(
        "this version runs the paper's softmax attention with norm \"layer\", embedding true, classifier "
        "false and "
        "dual false; the settings ask for another variant");
  }
  if (config.outputs != config.vocab_size) {
    return absl::FailedPreconditionError(
        absl::StrCat("the decoder has ", config.outputs, " outputs (output_dim) but the vocabulary has ",
                     config.vocab_size, " tokens: this is a classifier, which this version does not run"));
  }
  return config;
}

WeightPlan SoftmaxAttentionPlan(const SoftmaxAttentionConfig& config) {
  WeightPlan plan;
  const auto add = [&](int layer, const std::string& name, const std::string& key, std::vector<int64_t> shape,
                       Draw draw) {
    plan.push_back({layer, name, key, std::move(shape), std::move(draw)});
  };
  const int64_t width = config.width;
  // torch's own defaults, which the reference leaves as they are: N(0,1) embeddings, DrawLinear for the rest.
  add(WeightSpec::kOuter, "embedding", "encoder.word_embeddings.weight", {config.vocab_size, width},
      DrawNormal(1));
  if (config.positions > 0) {
    add(WeightSpec::kOuter, "positions", "encoder.position_embeddings.weight", {config.positions, width},
        DrawNormal(1));
  }
  add(WeightSpec::kOuter, "norm.weight", "norm.weight", {width}, DrawConstant(1));
  add(WeightSpec::kOuter, "norm.bias", "norm.bias", {width}, DrawConstant(0));
  add(WeightSpec::kOuter, "decoder", "decoder.weight", {config.outputs, width}, DrawLinear(width));
  for (int layer = 0; layer < config.layers; ++layer) {
    const std::string prefix = absl::StrCat("layers.", layer, ".");
    const auto linear = [&](const std::string& name, int64_t out, int64_t in) {
      add(layer, name + ".weight", prefix + name + ".weight", {out, in}, DrawLinear(in));
      add(layer, name + ".bias", prefix + name + ".bias", {out}, DrawLinear(in));
    };
    add(layer, "norm.weight", prefix + "norm.weight", {width}, DrawConstant(1));
    add(layer, "norm.bias", prefix + "norm.bias", {width}, DrawConstant(0));
    linear("attention.Wqkv", 2 * config.qk_width + width, width);
    linear("attention.out_proj", width, width);
    if (config.taps > 0) {
      add(layer, "conv1d.weight", prefix + "attention.conv1d.weight", {config.conv_rows(), 1, config.taps},
          DrawLinear(config.taps));
      add(layer, "conv1d.bias", prefix + "attention.conv1d.bias", {config.conv_rows()},
          DrawLinear(config.taps));
    }
    if (config.gated) {
      // The reference: bias 1, Xavier uniform with gain 0.1.
      const double bound = 0.1 * std::sqrt(6.0 / (2.0 * static_cast<double>(width)));
      add(layer, "Wz.weight", prefix + "Wz.weight", {width, width}, DrawUniform(-bound, bound));
      add(layer, "Wz.bias", prefix + "Wz.bias", {width}, DrawConstant(1));
    }
    switch (config.mixer) {
      case Mixer::kNone:
        break;
      case Mixer::kMlp:
        linear("mixer.encoder", config.mixer_width, width);
        linear("mixer.decoder", width, config.mixer_width);
        break;
      case Mixer::kGlu:
        linear("mixer.linear", 2 * width, width);
        break;
      case Mixer::kHybrid:
        add(layer, "mixer.alpha", prefix + "mixer.alpha", {1},
            DrawConstant(-std::log(1 / 0.2 - 1)));  // σ(α) = 0.2
        linear("mixer.encoder", 2 * width, width);
        linear("mixer.decoder", width, 2 * width);
        break;
    }
  }
  return plan;
}

ModelDescription SoftmaxAttentionDescription(const SoftmaxAttentionConfig& config) {
  ModelDescription description;
  description.family = "softmax-attention";
  description.layout = "paper";
  description.width = config.width;
  description.vocab_size = config.vocab_size;
  description.max_positions = config.positions;
  description.settings = config.ToSettings();
  DescribeAttention({config.heads, config.heads, config.qk_width / config.heads, config.width / config.heads},
                    config.layers, description);
  return description;
}

class SoftmaxAttention final : public AttentionModel {
 public:
  SoftmaxAttention(const SoftmaxAttentionConfig& config, WeightPlan plan, ModelWeights weights,
                   at::ScalarType dtype)
      : AttentionModel(SoftmaxAttentionDescription(config), std::move(plan), std::move(weights), dtype),
        config_(config) {}

 private:
  at::Tensor DoEmbed(const ModelWeights& weights, const at::Tensor& tokens,
                     int64_t first_position) const override {
    const at::Tensor words = at::embedding(weights.outer["embedding"], tokens);
    if (config_.positions == 0) return words;
    return words + weights.outer["positions"].narrow(0, first_position, tokens.size(1));
  }

  at::Tensor DoHead(const ModelWeights& weights, const at::Tensor& x) const override {
    return at::linear(Normed(weights.outer, x), weights.outer["decoder"]);
  }

  double Scale(int) const override {
    return 1 / std::sqrt(static_cast<double>(config_.qk_width / config_.heads));
  }

  AttentionHeads Project(const Weights& weights, const at::Tensor& x, int64_t,
                         LayerState& state) const override {
    at::Tensor projected = Affine(weights, "attention.Wqkv", Normed(weights, x));
    if (config_.taps > 0) {
      at::Tensor& tail = state.tensors["conv"];
      const int64_t rows = config_.conv_rows(), rest = projected.size(-1) - rows;
      const CausalConv1dOutput convolved =
          CausalConv1d(projected.narrow(-1, 0, rows), weights["conv1d.weight"], weights["conv1d.bias"], tail);
      tail = convolved.tail;
      const at::Tensor mixed = at::silu(convolved.output);
      projected = rest == 0 ? mixed : at::cat({mixed, projected.narrow(-1, rows, rest)}, -1);
    }
    const std::vector<at::Tensor> parts =
        projected.split_with_sizes({config_.qk_width, config_.qk_width, config_.width}, -1);
    const auto heads = [&](const at::Tensor& part) { return part.unflatten(-1, {config_.heads, -1}); };
    return {heads(parts[0]), heads(parts[1]), heads(parts[2])};
  }

  at::Tensor Finish(const Weights& weights, const at::Tensor& x, const at::Tensor& attended) const override {
    const at::Tensor middle = x + Affine(weights, "attention.out_proj", attended);
    const at::Tensor normed = Normed(weights, middle);
    // Without a mixer there is no second skip either: the block's output is the norm's.
    const at::Tensor output = config_.mixer == Mixer::kNone ? normed : middle + Mixed(weights, normed);
    return config_.gated ? output * at::silu(Affine(weights, "Wz", x)) : output;
  }

  at::Tensor Mixed(const Weights& weights, const at::Tensor& x) const {
    switch (config_.mixer) {
      case Mixer::kNone:
        break;
      case Mixer::kMlp:
        return Affine(weights, "mixer.decoder", at::gelu(Affine(weights, "mixer.encoder", x)));
      case Mixer::kGlu:
        return GatedLinear(x, weights["mixer.linear.weight"], weights["mixer.linear.bias"]);
      case Mixer::kHybrid: {
        const at::Tensor hidden = Affine(weights, "mixer.encoder", x);
        const at::Tensor share = at::sigmoid(weights["mixer.alpha"]);
        return share * at::glu(hidden, -1) + (1 - share) * Affine(weights, "mixer.decoder", at::gelu(hidden));
      }
    }
    return x;
  }

  static at::Tensor Normed(const Weights& weights, const at::Tensor& x) {
    return LayerNorm(x, weights["norm.weight"], weights["norm.bias"], kPaperAttentionNormEps);
  }

  static at::Tensor Affine(const Weights& weights, const std::string& name, const at::Tensor& x) {
    return at::linear(x, weights[name + ".weight"], weights[name + ".bias"]);
  }

  const SoftmaxAttentionConfig config_;
};

absl::StatusOr<std::shared_ptr<const SequenceModel>> LoadSoftmaxAttention(const Archive& archive,
                                                                          const Detection& detection,
                                                                          const LoadOptions& options) {
  EIGSVC_RETURN_IF_ERROR(RefuseSoftmaxAttentionVariants(archive));
  EIGSVC_ASSIGN_OR_RETURN(const SoftmaxAttentionConfig config,
                          ReadSoftmaxAttention(detection.settings, detection.typed,
                                               SoftmaxAttentionShapesOf(archive, detection.layers)));
  WeightPlan plan = SoftmaxAttentionPlan(config);
  EIGSVC_ASSIGN_OR_RETURN(ModelWeights weights, LoadWeights(archive, plan, {}, options));
  return std::make_shared<SoftmaxAttention>(config, std::move(plan), std::move(weights), options.dtype);
}

absl::StatusOr<std::shared_ptr<const SequenceModel>> InitializeSoftmaxAttention(const Settings& settings,
                                                                                uint64_t seed,
                                                                                const LoadOptions& options) {
  EIGSVC_ASSIGN_OR_RETURN(const SoftmaxAttentionConfig config, ReadSoftmaxAttention(settings, settings, {}));
  WeightPlan plan = SoftmaxAttentionPlan(config);
  EIGSVC_ASSIGN_OR_RETURN(ModelWeights weights, InitializeWeights(plan, seed, options));
  return std::make_shared<SoftmaxAttention>(config, std::move(plan), std::move(weights), options.dtype);
}

}  // namespace

FamilyEntry SoftmaxAttentionFamily() {
  return {"softmax-attention",
          {"paper"},
          "the softmax attention block of arXiv 2510.09379",
          "λ_i = ν_{i-1}/ν_i of the softmax normalisers, per head and step from the second on, real > 0",
          /*trainable=*/true,
          LoadSoftmaxAttention,
          InitializeSoftmaxAttention,
          "arXiv 2510.09379; arXiv 2405.15731"};
}

}  // namespace eigsvc
