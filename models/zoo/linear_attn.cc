// Linear attention by a choice of feature maps as flash-linear-attention stores it (arXiv 2006.16236,
// 2102.11174, 2103.13076, 2402.04347): summed as it is, unless it is divided by its kernel's sum.
#include <cmath>
#include <map>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "models/mixers/kernel_attention.h"
#include "models/zoo/families.h"
#include "models/zoo/fla.h"

namespace eigsvc {
namespace {

FlaMixer ReadLinearAttn(const FlaRequest& request, DecoderSpec& decoder) {
  static const auto* const maps =
      new std::map<std::string, FeatureMap>{{"elementwise_product", FeatureMap::kProduct},
                                            {"hedgehog", FeatureMap::kHedgehog},
                                            {"t2r", FeatureMap::kT2r},
                                            {"dpfp", FeatureMap::kDpfp},
                                            {"elu", FeatureMap::kElu},
                                            {"relu", FeatureMap::kRelu},
                                            {"identity", FeatureMap::kIdentity}};
  SettingsReader& reader = request.reader;
  const FlaHeads sizes = ReadExpandedHeads(request, 1, 1);
  KernelAttentionSpec spec;
  spec.mixer = "linear_attention";
  spec.width = request.width;
  spec.heads = sizes.heads;
  spec.groups = sizes.groups;
  spec.key_size = sizes.key_size;
  spec.value_size = sizes.value_size;
  std::vector<std::string> known;
  for (const auto& [name, map] : *maps) known.push_back(name);
  const std::string map = reader.Choice({"feature_map"}, known, "elementwise_product");
  if (!reader.status().ok()) return nullptr;
  spec.map = maps->at(map);
  spec.scale = 1 / std::sqrt(static_cast<double>(spec.features()));
  spec.share_q = reader.Bool({"norm_q"}, false);
  spec.share_k = reader.Bool({"norm_k"}, false);
  spec.normalised = reader.Bool({"norm_feature_map"}, false);
  spec.eps = 1e-10;
  spec.norm = "norm";
  spec.affine = reader.Bool({"elementwise_affine"}, true);
  spec.norm_eps = reader.NonNegative({"norm_eps"}, 1e-6);
  const bool layers =
      spec.map == FeatureMap::kProduct || spec.map == FeatureMap::kT2r || spec.map == FeatureMap::kHedgehog;
  if (reader.Bool({"tie_feature_map_qk"}, false) && layers) {
    reader.Fail(
        absl::FailedPreconditionError(absl::StrCat("setting \"tie_feature_map_qk\": one map \"", map,
                                                   "\" for both q and k is not supported; store both")));
  }
  const bool signed_kernel =
      spec.map == FeatureMap::kProduct || spec.map == FeatureMap::kIdentity || spec.map == FeatureMap::kDpfp;
  if (spec.normalised && signed_kernel) {
    reader.Fail(absl::FailedPreconditionError(absl::StrCat(
        "setting \"norm_feature_map\" divides by the kernel's sum, which of \"feature_map\" = \"", map,
        "\" may be negative or 0, and is supported for elu, relu, t2r and hedgehog")));
  }
  if (spec.normalised) decoder.description.conventions.gauges = {Gauge::kDsf, Gauge::kRaw};
  return [spec = std::move(spec)](int64_t) { return std::make_unique<KernelAttention>("attn.", spec); };
}

constexpr FlaFamily kLinearAttn{"linear_attn", 4, ReadLinearAttn};

}  // namespace

FamilyEntry LinearAttnFamily() {
  return FlaEntry<kLinearAttn>(
      "linear attention by feature maps, as flash-linear-attention has it",
      "λ = 1; with norm_feature_map λ_i = η_{i-1}/η_i, per head, the former constant, the latter real > 0",
      "arXiv 2006.16236; arXiv 2405.15731");
}

}  // namespace eigsvc
