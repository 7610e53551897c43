// LayerNorm (before, or after the residual sum), SSM over [x | B | C | Δ] without gate or gated norm, GELU,
// GLU, sum. Token embedding, blocks and a linear decoder with bias; no positions, no final norm.
#include "models/zoo/mamba2_paper.h"

#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "ATen/TensorOperators.h"
#include "ATen/ops/embedding.h"
#include "ATen/ops/gelu.h"
#include "ATen/ops/glu.h"
#include "ATen/ops/linear.h"
#include "absl/strings/str_cat.h"
#include "models/base/status_macros.h"
#include "models/layers/norm.h"
#include "models/zoo/mamba2_model.h"
#include "models/zoo/settings_reader.h"
#include "models/zoo/weight_loader.h"

namespace eigsvc {
namespace {

constexpr double kPaperNormEps = 1e-5;

struct PaperMamba2Config {
  int64_t layers = 0, width = 0, vocab_size = 0;
  SsmShape ssm;
  bool prenorm = true;
  bool glu = true;
  bool learned_start = false;  // init_states
  bool projection_bias = false;

  Settings ToSettings() const {
    Settings settings;
    settings.Set("family", "mamba2");
    settings.Set("layout", "paper");
    settings.Set("version", "mamba2");
    settings.Set("num_layers", layers);
    settings.Set("hidden_dim", width);
    settings.Set("vocab_size", vocab_size);
    settings.Set("output_dim", vocab_size);
    // The reference's own num_heads counts the heads of width hidden_dim, before expansion.
    settings.Set("num_heads", width / ssm.head_width);
    settings.Set("expansion", ssm.inner() / width);
    settings.Set("state_dim", ssm.order);
    settings.Set("ngroups", ssm.groups);
    settings.Set("conv_dim", ssm.taps);
    settings.Set("norm", "layer");
    settings.Set("prenorm", prenorm);
    settings.Set("glu", glu);
    settings.Set("learnable_init_states", learned_start);
    settings.Set("bias", projection_bias);
    settings.Set("pooling", "none");
    settings.Set("dual", false);
    return settings;
  }
};

struct PaperShapes {
  std::optional<int64_t> layers, width, vocab_size, classes, inner, heads, conv_rows, taps;
  std::optional<bool> glu, learned_start, projection_bias;
};

absl::Status RefusePaperVariants(const Archive& archive) {
  const auto has = [&](absl::string_view key) { return archive.tensors().contains(std::string(key)); };
  if (has("blocks.0.mamba.beta")) {
    return absl::FailedPreconditionError(
        "this is the pseudo-LTI variant (blocks.0.mamba.beta), which this version does not run; the "
        "time-varying one "
        "(pseudoLTI: false) is supported");
  }
  if (has("encoder.weight")) {
    return absl::FailedPreconditionError(
        "this model's encoder is a Linear layer over real inputs (token_embedding: false); this version runs "
        "token "
        "models, whose encoder is encoder.word_embeddings.weight");
  }
  return absl::OkStatus();
}

absl::Status RefusePaperSettings(const Settings& settings) {
  SettingsReader reader(settings);
  const std::string version = reader.Text({"version"}, "mamba2"), norm = reader.Text({"norm"}, "layer");
  const std::string pooling = reader.Text({"pooling"}, "none");
  const bool dual = reader.Bool({"dual"}, false), lti = reader.Bool({"pseudoLTI"}, false);
  EIGSVC_RETURN_IF_ERROR(reader.status());
  const auto refuse = [](absl::string_view name, absl::string_view value, absl::string_view supported) {
    return absl::FailedPreconditionError(
        absl::StrCat("setting \"", name, "\" is ", value, "; the paper's Mamba-2 is read with ", supported));
  };
  if (version != "mamba2") return refuse("version", version, "\"mamba2\"");
  if (norm != "layer") return refuse("norm", norm, "\"layer\"");
  if (lti) return refuse("pseudoLTI", "true", "false");
  if (pooling != "none" || dual) {
    return refuse(
        dual ? "dual" : "pooling", dual ? "true" : pooling,
        "a decoder at every step (pooling \"none\", dual false): classifiers that pool over time are not "
        "supported in this version");
  }
  return absl::OkStatus();
}

PaperShapes PaperShapesOf(const Archive& archive, int64_t layers) {
  const auto size = [&](const std::string& key, size_t dimension) -> std::optional<int64_t> {
    const auto found = archive.tensors().find(key);
    if (found == archive.tensors().end() || found->second.shape.size() <= dimension) return std::nullopt;
    return found->second.shape[dimension];
  };
  const std::string mixer = "blocks.0.mamba.";
  PaperShapes shapes;
  shapes.layers = layers;
  shapes.vocab_size = size("encoder.word_embeddings.weight", 0);
  shapes.width = size("encoder.word_embeddings.weight", 1);
  shapes.classes = size("decoder.weight", 0);
  shapes.inner = size(mixer + "out_proj.weight", 1);
  shapes.heads = size(mixer + "A_log", 0);
  // Without a convolution the projection's rows [x | B | C | Δ] say the same.
  shapes.taps = size(mixer + "conv1d.weight", 2).value_or(0);
  shapes.conv_rows = size(mixer + "conv1d.weight", 0);
  if (const auto rows = size(mixer + "in_proj.weight", 0); !shapes.conv_rows && rows && shapes.heads) {
    shapes.conv_rows = *rows - *shapes.heads;
  }
  shapes.glu = size("blocks.0.glu.linear.weight", 0).has_value();
  shapes.learned_start = size(mixer + "init_states", 0).has_value();
  shapes.projection_bias = size(mixer + "in_proj.bias", 0).has_value();
  return shapes;
}

absl::StatusOr<PaperMamba2Config> ReadPaperConfig(const Settings& settings, const Settings& typed,
                                                  const PaperShapes& shapes) {
  EIGSVC_RETURN_IF_ERROR(CheckKnownSettings(
      typed, "mamba2 (paper)",
      {"version", "num_layers", "n_layer", "hidden_dim", "d_model", "vocab_size", "output_dim", "num_heads",
       "expansion", "expand", "state_dim", "d_state", "ngroups", "conv_dim", "d_conv", "norm", "prenorm",
       "glu", "learnable_init_states", "bias", "pooling", "dual", "pseudoLTI",
       // Without effect here.
       "layer", "input_dim", "mixer", "mixer_dim", "classifier", "embedding", "token_embedding",
       "max_pos_embed"}));
  EIGSVC_RETURN_IF_ERROR(RefusePaperSettings(settings));
  const bool fresh = !shapes.heads.has_value();
  SettingsReader reader(settings);
  PaperMamba2Config config;
  config.layers = reader.IntWithin({"num_layers", "n_layer"}, 1, 4096, shapes.layers.value_or(2));
  config.width = reader.IntWithin({"hidden_dim", "d_model"}, 1, kLargestSize, shapes.width.value_or(64));
  config.vocab_size = reader.IntWithin({"vocab_size"}, 1, kLargestSize, shapes.vocab_size.value_or(64));
  const int64_t classes =
      reader.IntWithin({"output_dim"}, 1, kLargestSize, shapes.classes.value_or(config.vocab_size));
  const int64_t expansion = reader.IntWithin(
      {"expansion", "expand"}, 1, 64,
      shapes.inner && config.width > 0 ? std::max<int64_t>(*shapes.inner / config.width, 1) : 1);
  EIGSVC_RETURN_IF_ERROR(reader.status());
  const int64_t inner = expansion * config.width;
  const int64_t heads_of_width = reader.IntWithin(
      {"num_heads"}, 1, config.width, fresh ? 1 : std::max<int64_t>(*shapes.heads / expansion, 1));
  config.ssm.taps = reader.IntWithin({"conv_dim", "d_conv"}, 0, 64, shapes.taps.value_or(4));
  config.ssm.groups = reader.IntWithin({"ngroups"}, 1, kLargestSize, 1);
  EIGSVC_RETURN_IF_ERROR(reader.status());
  const int64_t bc = fresh ? 0 : (shapes.conv_rows.value_or(0) - inner) / 2 / config.ssm.groups;
  config.ssm.order =
      reader.IntWithin({"state_dim", "d_state"}, 1, kLargestSize, fresh ? 32 : std::max<int64_t>(bc, 1));
  // Nothing in the weights tells whether the norm comes first: the authors used both.
  config.prenorm = fresh ? reader.Bool({"prenorm"}, true) : reader.Bool({"prenorm"});
  config.glu = reader.Bool({"glu"}, shapes.glu.value_or(true));
  config.learned_start = reader.Bool({"learnable_init_states"}, shapes.learned_start.value_or(false));
  config.projection_bias = reader.Bool({"bias"}, shapes.projection_bias.value_or(false));
  EIGSVC_RETURN_IF_ERROR(reader.status());
  config.ssm.head_width = config.width / heads_of_width;
  config.ssm.heads = inner / config.ssm.head_width;
  if (config.ssm.inner() != inner || config.width % heads_of_width != 0) {
    return absl::InvalidArgumentError(absl::StrCat("setting \"num_heads\" is ", heads_of_width,
                                                   ", which does not divide hidden_dim ", config.width));
  }
  if (config.ssm.heads % config.ssm.groups != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "settings disagree: ", config.ssm.heads, " heads do not divide into ngroups = ", config.ssm.groups));
  }
  if (classes != config.vocab_size) {
    return absl::FailedPreconditionError(
        absl::StrCat("the decoder has ", classes, " outputs (output_dim) but the vocabulary has ",
                     config.vocab_size, " tokens: this is a classifier, which this version does not run"));
  }
  return config;
}

WeightPlan PaperPlan(const PaperMamba2Config& config) {
  WeightPlan plan;
  const auto add = [&](int layer, const std::string& name, const std::string& key, std::vector<int64_t> shape,
                       Draw draw) {
    plan.push_back({layer, name, key, std::move(shape), std::move(draw)});
  };
  const auto add_linear = [&](int layer, const std::string& name, const std::string& key, int64_t out,
                              int64_t in, bool bias) {
    add(layer, name + ".weight", key + ".weight", {out, in}, DrawLinear(in));
    if (bias) add(layer, name + ".bias", key + ".bias", {out}, DrawLinear(in));
  };
  const int64_t inner = config.ssm.inner();
  add(WeightSpec::kOuter, "embedding", "encoder.word_embeddings.weight", {config.vocab_size, config.width},
      DrawNormal(1));
  add_linear(WeightSpec::kOuter, "decoder", "decoder", config.vocab_size, config.width, true);
  for (int layer = 0; layer < config.layers; ++layer) {
    const std::string prefix = absl::StrCat("blocks.", layer, ".");
    const std::string mixer = prefix + "mamba.";
    add(layer, "norm.weight", prefix + "norm.weight", {config.width}, DrawConstant(1));
    add(layer, "norm.bias", prefix + "norm.bias", {config.width}, DrawConstant(0));
    add_linear(layer, "in_proj", mixer + "in_proj", config.ssm.conv_rows() + config.ssm.heads, config.width,
               config.projection_bias);
    PlanSsm(config.ssm, layer, mixer, /*conv_bias=*/true, config.ssm.heads, plan);
    if (config.learned_start) {
      add(layer, "init_states", mixer + "init_states",
          {config.ssm.heads, config.ssm.head_width, config.ssm.order}, DrawConstant(0));
      plan.back().decays = false;
    }
    add_linear(layer, "out_proj", mixer + "out_proj", config.width, inner, config.projection_bias);
    if (config.glu) add_linear(layer, "glu", prefix + "glu.linear", 2 * config.width, config.width, true);
  }
  return plan;
}

ModelDescription PaperDescription(const PaperMamba2Config& config) {
  ModelDescription description;
  description.family = "mamba2";
  description.layout = "paper";
  description.width = config.width;
  description.vocab_size = config.vocab_size;
  description.settings = config.ToSettings();
  DescribeSsm(config.ssm, config.layers, description);
  return description;
}

class PaperMamba2 final : public Mamba2Model {
 public:
  PaperMamba2(const PaperMamba2Config& config, WeightPlan plan, ModelWeights weights, at::ScalarType dtype)
      : Mamba2Model(PaperDescription(config), std::move(plan), std::move(weights), dtype, config.ssm),
        config_(config) {}

 private:
  at::Tensor DoEmbed(const ModelWeights& weights, const at::Tensor& tokens, int64_t) const override {
    return at::embedding(weights.outer["embedding"], tokens);
  }

  at::Tensor DoHead(const ModelWeights& weights, const at::Tensor& x) const override {
    return at::linear(x, weights.outer["decoder.weight"], weights.outer["decoder.bias"]);
  }

  static at::Tensor Project(const Weights& weights, const std::string& name, const at::Tensor& x) {
    if (!weights.Has(name + ".bias")) return at::linear(x, weights[name + ".weight"]);
    return at::linear(x, weights[name + ".weight"], weights[name + ".bias"]);
  }

  SegmentOutput Segment(const Weights& weights, const at::Tensor& x, LayerState& state) const override {
    const auto norm = [&](const at::Tensor& input) {
      return LayerNorm(input, weights["norm.weight"], weights["norm.bias"], kPaperNormEps);
    };
    const at::Tensor projected = Project(weights, "in_proj", config_.prenorm ? norm(x) : x);
    const std::vector<at::Tensor> parts =
        projected.split_with_sizes({config_.ssm.conv_rows(), config_.ssm.heads}, -1);
    const SsmOutput scanned = RunSsm(weights, parts[0], parts[1], state);
    at::Tensor y = at::gelu(Project(weights, "out_proj", scanned.y.to(projected.scalar_type())));
    if (config_.glu) y = at::glu(Project(weights, "glu", y), -1);
    y = y + x;
    return {config_.prenorm ? y : norm(y), scanned.log_decay};
  }

  const PaperMamba2Config config_;
};

}  // namespace

absl::StatusOr<std::shared_ptr<const SequenceModel>> LoadPaperMamba2(const Archive& archive,
                                                                     const Detection& detection,
                                                                     const LoadOptions& options) {
  EIGSVC_RETURN_IF_ERROR(RefusePaperVariants(archive));
  EIGSVC_ASSIGN_OR_RETURN(
      const PaperMamba2Config config,
      ReadPaperConfig(detection.settings, detection.typed, PaperShapesOf(archive, detection.layers)));
  WeightPlan plan = PaperPlan(config);
  EIGSVC_ASSIGN_OR_RETURN(ModelWeights weights, LoadWeights(archive, plan, {}, options));
  return std::make_shared<PaperMamba2>(config, std::move(plan), std::move(weights), options.dtype);
}

absl::StatusOr<std::shared_ptr<const SequenceModel>> InitializePaperMamba2(const Settings& settings,
                                                                           uint64_t seed,
                                                                           const LoadOptions& options) {
  EIGSVC_ASSIGN_OR_RETURN(const PaperMamba2Config config, ReadPaperConfig(settings, settings, {}));
  WeightPlan plan = PaperPlan(config);
  EIGSVC_ASSIGN_OR_RETURN(ModelWeights weights, InitializeWeights(plan, seed, options));
  return std::make_shared<PaperMamba2>(config, std::move(plan), std::move(weights), options.dtype);
}

}  // namespace eigsvc
