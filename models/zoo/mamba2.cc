// Mamba-2 (arXiv 2405.21060) as state-spaces/mamba and Hugging Face store it: [z | x | B | C | Δ] from one
// projection, a short convolution, the selective SSM, a gated RMSNorm and an output projection, on a
// pre-normed residual stream. The layout of arXiv 2510.09379 has its own block: mamba2_paper.cc.
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "ATen/TensorOperators.h"
#include "ATen/core/IListRef.h"
#include "ATen/ops/cat.h"
#include "ATen/ops/embedding.h"
#include "ATen/ops/linear.h"
#include "ATen/ops/promote_types.h"
#include "ATen/ops/silu.h"
#include "absl/strings/str_cat.h"
#include "models/base/status_macros.h"
#include "models/base/status_util.h"
#include "models/layers/norm.h"
#include "models/zoo/families.h"
#include "models/zoo/mamba2_config.h"
#include "models/zoo/mamba2_model.h"
#include "models/zoo/mamba2_paper.h"
#include "models/zoo/weight_loader.h"

namespace eigsvc {
namespace {

WeightPlan Mamba2Plan(const Mamba2Config& config) {
  WeightPlan plan;
  const auto add = [&](int layer, std::string name, std::string key, std::vector<int64_t> shape, Draw draw,
                       std::string tied_to = "") {
    plan.push_back({layer, std::move(name), std::move(key), std::move(shape), std::move(draw), false, false,
                    std::move(tied_to)});
  };
  const auto add_norm = [&](int layer, const std::string& name, const std::string& key) {
    add(layer, name + ".weight", key + ".weight", {config.width}, DrawConstant(1));
    if (!config.rms_norm) add(layer, name + ".bias", key + ".bias", {config.width}, DrawConstant(0));
  };
  add(WeightSpec::kOuter, "embedding", config.embedding_key, {config.vocab_size, config.width},
      DrawNormal(0.02));
  add_norm(WeightSpec::kOuter, "norm_f", "backbone.norm_f");
  add(WeightSpec::kOuter, "lm_head", "lm_head.weight", {config.vocab_size, config.width},
      DrawLinear(config.width), config.tied ? "embedding" : "");

  // The output projections are scaled so that the residual stream does not grow with depth (GPT-2's scheme).
  const double out_bound =
      1 / std::sqrt(static_cast<double>(config.inner()) * static_cast<double>(config.layers));
  for (int layer = 0; layer < config.layers; ++layer) {
    const std::string prefix = absl::StrCat("backbone.layers.", layer, ".");
    const std::string mixer = prefix + "mixer.";
    add_norm(layer, "norm", prefix + "norm");
    add(layer, "in_proj.weight", mixer + "in_proj.weight", {config.projection_rows(), config.width},
        DrawLinear(config.width));
    PlanSsm(config.ssm, layer, mixer, config.conv_bias,
            config.skip_per_channel ? config.ssm.inner() : config.ssm.heads, plan);
    if (config.gated_norm) {
      add(layer, "gated_norm.weight", mixer + "norm.weight", {config.ssm.inner()}, DrawConstant(1));
    }
    add(layer, "out_proj.weight", mixer + "out_proj.weight", {config.width, config.inner()},
        DrawUniform(-out_bound, out_bound));
    if (config.projection_bias) {
      add(layer, "in_proj.bias", mixer + "in_proj.bias", {config.projection_rows()}, DrawConstant(0));
      add(layer, "out_proj.bias", mixer + "out_proj.bias", {config.width}, DrawConstant(0));
    }
  }
  return plan;
}

ModelDescription Mamba2Description(const Mamba2Config& config) {
  ModelDescription description;
  description.family = "mamba2";
  description.layout = config.layout;
  description.width = config.width;
  description.vocab_size = config.vocab_size;
  description.settings = config.ToSettings();
  DescribeSsm(config.ssm, config.layers, description);
  return description;
}

class OfficialMamba2 final : public Mamba2Model {
 public:
  OfficialMamba2(const Mamba2Config& config, WeightPlan plan, ModelWeights weights, at::ScalarType dtype)
      : Mamba2Model(Mamba2Description(config), std::move(plan), std::move(weights), dtype, config.ssm),
        config_(config) {}

 private:
  at::Tensor DoEmbed(const ModelWeights& weights, const at::Tensor& tokens, int64_t) const override {
    return at::embedding(weights.outer["embedding"], tokens);
  }

  at::Tensor DoHead(const ModelWeights& weights, const at::Tensor& x) const override {
    return at::linear(Norm(weights.outer, "norm_f", x), weights.outer["lm_head"]);
  }

  at::Tensor Norm(const Weights& weights, const std::string& name, const at::Tensor& x) const {
    const at::Tensor& weight = weights[name + ".weight"];
    if (config_.rms_norm) return RmsNorm(x, weight, config_.norm_eps);
    return LayerNorm(x, weight, weights[name + ".bias"], config_.norm_eps);
  }

  static at::Tensor Project(const Weights& weights, const std::string& name, const at::Tensor& x) {
    if (!weights.Has(name + ".bias")) return at::linear(x, weights[name + ".weight"]);
    return at::linear(x, weights[name + ".weight"], weights[name + ".bias"]);
  }

  SegmentOutput Segment(const Weights& weights, const at::Tensor& x, LayerState& state) const override {
    const SsmShape& ssm = config_.ssm;
    const at::Tensor projected = Project(weights, "in_proj", Norm(weights, "norm", x));
    const std::vector<at::Tensor> parts = projected.split_with_sizes(
        {config_.gated_mlp, config_.gated_mlp, ssm.inner(), ssm.conv_rows(), ssm.heads}, -1);
    const at::Tensor& z = parts[2];
    const SsmOutput scanned = RunSsm(weights, parts[3], parts[4], state);
    at::Tensor y = config_.gated_norm
                       ? GatedRmsNorm(scanned.y, z, weights["gated_norm.weight"], config_.gated_norm_eps,
                                      config_.gated_norm_groups, config_.norm_before_gate)
                       : (scanned.y * at::silu(z.to(scanned.y.scalar_type()))).to(projected.scalar_type());
    if (config_.gated_mlp > 0) y = at::cat({at::silu(parts[0]) * parts[1], y}, -1);
    const at::Tensor residual =
        config_.residual_in_fp32 ? x.to(at::promote_types(x.scalar_type(), at::kFloat)) : x;
    return {residual + Project(weights, "out_proj", y), scanned.log_decay};
  }

  const Mamba2Config config_;
};

absl::StatusOr<std::shared_ptr<const SequenceModel>> LoadMamba2(const Archive& archive,
                                                                const Detection& detection,
                                                                const LoadOptions& options) {
  if (detection.layout == "paper") return LoadPaperMamba2(archive, detection, options);
  EIGSVC_ASSIGN_OR_RETURN(const Mamba2Config config, Mamba2ConfigOf(archive, detection));
  WeightPlan plan = Mamba2Plan(config);
  EIGSVC_ASSIGN_OR_RETURN(ModelWeights weights, LoadWeights(archive, plan, {}, options));
  return std::make_shared<OfficialMamba2>(config, std::move(plan), std::move(weights), options.dtype);
}

absl::StatusOr<std::shared_ptr<const SequenceModel>> InitializeMamba2(const Settings& settings, uint64_t seed,
                                                                      const LoadOptions& options) {
  EIGSVC_ASSIGN_OR_RETURN(const std::string layout, settings.TextOr("layout", "state-spaces"));
  if (layout == "paper") return InitializePaperMamba2(settings, seed, options);
  if (layout != "state-spaces" && layout != "huggingface") {
    return UnknownName("layout of mamba2", layout, {"state-spaces", "huggingface", "paper"});
  }
  EIGSVC_ASSIGN_OR_RETURN(const Mamba2Config config, Mamba2ConfigOf(settings));
  WeightPlan plan = Mamba2Plan(config);
  EIGSVC_ASSIGN_OR_RETURN(ModelWeights weights, InitializeWeights(plan, seed, options));
  return std::make_shared<OfficialMamba2>(config, std::move(plan), std::move(weights), options.dtype);
}

}  // namespace

FamilyEntry Mamba2Family() {
  return {"mamba2",
          {"state-spaces", "huggingface", "paper"},
          "Mamba-2: a selective state-space model with one decay per head",
          "λ = exp(Δ·A) per head and step, real in (0, 1], multiplicity P·N",
          /*trainable=*/true,
          LoadMamba2,
          InitializeMamba2,
          "arXiv 2405.21060"};
}

}  // namespace eigsvc
