// DeltaNet (arXiv 2406.06484), Gated DeltaNet (arXiv 2412.06464), Gated DeltaProduct (arXiv 2502.10297) and
// Kimi Delta Attention (arXiv 2510.26692) as flash-linear-attention stores them.
#include "models/mixers/delta_net.h"

#include <memory>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "models/zoo/families.h"
#include "models/zoo/fla.h"

namespace eigsvc {
namespace {

FlaMixer Make(DeltaNetSpec spec) {
  return [spec = std::move(spec)](int64_t) { return std::make_unique<DeltaNet>("attn.", spec); };
}

FlaMixer ReadDeltaNet(const FlaRequest& request, DecoderSpec&) {
  SettingsReader& reader = request.reader;
  const FlaHeads sizes = ReadExpandedHeads(request, 1, 1);
  DeltaNetSpec spec;
  spec.mixer = "delta_net";
  spec.width = request.width;
  spec.heads = spec.value_heads = sizes.heads;
  spec.key_size = sizes.key_size;
  spec.value_size = sizes.value_size;
  spec.taps = ReadTaps(reader, true);
  spec.has_beta = reader.Bool({"use_beta"}, true);
  spec.double_beta = reader.Bool({"allow_neg_eigval"}, false);
  spec.gate = reader.Bool({"use_gate"}, false) ? DeltaNetSpec::Gate::kSilu : DeltaNetSpec::Gate::kNone;
  spec.norm_eps = reader.Real({"norm_eps"}, 1e-6);
  const std::string activation = reader.Text({"qk_activation"}, "silu"),
                    norm = reader.Text({"qk_norm"}, "l2");
  if (activation == "silu") {
    spec.key_activation = Activation::kSilu;
  } else if (activation == "relu") {
    spec.key_activation = Activation::kRelu;
  } else if (activation == "elu") {
    spec.key_activation = Activation::kEluPlusOne;
  } else if (activation == "identity") {
    spec.key_activation = Activation::kIdentity;
  } else {
    reader.Fail(absl::FailedPreconditionError(absl::StrCat("setting \"qk_activation\" is \"", activation,
                                                           "\"; supported: silu, relu, elu, identity")));
  }
  if (norm != "l2" && norm != "sum") {
    reader.Fail(absl::FailedPreconditionError(
        absl::StrCat("setting \"qk_norm\" is \"", norm, "\"; supported: l2, sum")));
  }
  spec.sum_norm = norm == "sum";
  return Make(std::move(spec));
}

// head_dim, expand_v, num_heads and num_v_heads: what the gated ones share.
DeltaNetSpec ReadGatedSpec(const FlaRequest& request, double expand_v) {
  SettingsReader& reader = request.reader;
  const auto needed = [&](int64_t fresh) {
    return request.archive ? std::nullopt : std::optional<int64_t>(fresh);
  };
  DeltaNetSpec spec;
  spec.width = request.width;
  spec.key_size = reader.IntWithin({"head_dim"}, 1, kLargestFlaSize, needed(8));
  spec.heads = reader.IntWithin({"num_heads"}, 1, 65536, needed(2));
  if (!reader.status().ok()) return spec;
  spec.value_heads = reader.IntWithin({"num_v_heads"}, 1, 65536, spec.heads);
  spec.value_size =
      static_cast<int64_t>(static_cast<double>(spec.key_size) * reader.Real({"expand_v"}, expand_v));
  if (reader.status().ok() &&
      (spec.value_heads % spec.heads != 0 || spec.value_size < 1 || spec.value_size > kLargestFlaSize)) {
    reader.Fail(absl::InvalidArgumentError(absl::StrCat(
        "settings \"num_v_heads\" (", spec.value_heads, ") must be a multiple of \"num_heads\" (", spec.heads,
        "), and \"expand_v\" times \"head_dim\" (", spec.value_size, ") a size of a head")));
  }
  spec.taps = ReadTaps(reader, true);
  spec.double_beta = reader.Bool({"allow_neg_eigval"}, false);
  spec.norm_eps = reader.Real({"norm_eps"}, 1e-6);
  return spec;
}

FlaMixer ReadGatedDeltaNet(const FlaRequest& request, DecoderSpec&) {
  DeltaNetSpec spec = ReadGatedSpec(request, 2);
  spec.mixer = "gated_delta_net";
  spec.decay = DeltaNetSpec::Decay::kPerHead;
  spec.gate = request.reader.Bool({"use_gate"}, true) ? DeltaNetSpec::Gate::kSilu : DeltaNetSpec::Gate::kNone;
  return Make(std::move(spec));
}

FlaMixer ReadGatedDeltaProduct(const FlaRequest& request, DecoderSpec&) {
  SettingsReader& reader = request.reader;
  DeltaNetSpec spec = ReadGatedSpec(request, 2);
  spec.mixer = "gated_delta_product";
  spec.writes = reader.IntWithin({"num_householder"}, 1, 64, request.archive ? 1 : 2);
  if (reader.Bool({"use_forget_gate"}, false)) spec.decay = DeltaNetSpec::Decay::kPerHead;
  spec.gate = reader.Bool({"use_output_gate"}, true) ? DeltaNetSpec::Gate::kSilu : DeltaNetSpec::Gate::kNone;
  return Make(std::move(spec));
}

// Some releases store A_log as [1,1,H,1].
std::vector<int64_t> StoredShape(const Archive* archive, const std::string& key) {
  if (archive == nullptr) return {};
  const auto found = archive->tensors().find(key);
  return found == archive->tensors().end() ? std::vector<int64_t>() : found->second.shape;
}

FlaMixer ReadKda(const FlaRequest& request, DecoderSpec&) {
  SettingsReader& reader = request.reader;
  DeltaNetSpec spec = ReadGatedSpec(request, 1);
  spec.mixer = "kda";
  spec.decay = DeltaNetSpec::Decay::kPerDimension;
  if (reader.Has({"lower_bound"})) {
    spec.lower_bound = reader.Real({"lower_bound"});
    if (!(*spec.lower_bound < 0)) {
      reader.Fail(absl::InvalidArgumentError(absl::StrCat("setting \"lower_bound\" is ", *spec.lower_bound,
                                                          "; a log decay's bound is negative")));
    }
  }
  if (reader.Bool({"safe_gate"}, false) && !spec.lower_bound) {
    reader.Fail(absl::FailedPreconditionError("setting \"safe_gate\" needs a \"lower_bound\""));
  }
  spec.gate = DeltaNetSpec::Gate::kLowRankSigmoid;
  const auto size = [](const std::vector<int64_t>& shape) {
    int64_t product = 1;
    for (const int64_t n : shape) product *= n;
    return product;
  };
  for (int64_t layer = 0; layer < request.layers; ++layer) {
    const std::string key = absl::StrCat("model.layers.", layer, ".attn.A_log");
    if (const std::vector<int64_t> shape = StoredShape(request.archive, key);
        !shape.empty() && size(shape) == spec.value_heads) {
      spec.a_log_shape = shape;
      break;
    }
  }
  return Make(std::move(spec));
}

constexpr FlaFamily kDeltaNet{"delta_net", 4, ReadDeltaNet},
    kGatedDeltaNet{"gated_deltanet", 4, ReadGatedDeltaNet},
    kGatedDeltaProduct{"gated_deltaproduct", 4, ReadGatedDeltaProduct}, kKda{"kda", 4, ReadKda};

}  // namespace

FamilyEntry DeltaNetFamily() {
  return FlaEntry<kDeltaNet>("DeltaNet: linear attention that replaces what a key held before",
                             "1 and 1 - β_i‖k_i‖², per head and step, in (-1,1]", "arXiv 2406.06484");
}
FamilyEntry GatedDeltaNetFamily() {
  return FlaEntry<kGatedDeltaNet>("Gated DeltaNet: DeltaNet with a decay a head, read from the input",
                                  "α_i and α_i(1 - β_i‖k_i‖²), per head and step, in (-1,1]",
                                  "arXiv 2412.06464");
}
FamilyEntry GatedDeltaProductFamily() {
  return FlaEntry<kGatedDeltaProduct>("Gated DeltaProduct: (gated) DeltaNet with several writes a step",
                                      "α_i and α_i times those of a product of reflections, per head and "
                                      "step, |λ| <= 1, complex for two and more",
                                      "arXiv 2502.10297");
}
FamilyEntry KdaFamily() {
  return FlaEntry<kKda>("Kimi Delta Attention: DeltaNet with a decay a key dimension, read from the input",
                        "eigenvalues of (I - β_i k_i k_iᵀ) diag(α_i), per head and step, real, in (-1,1)",
                        "arXiv 2510.26692");
}

}  // namespace eigsvc
