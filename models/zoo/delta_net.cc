// DeltaNet (arXiv 2406.06484), Gated DeltaNet (arXiv 2412.06464) and
// Kimi Delta Attention (arXiv 2510.26692) as flash-linear-attention stores them.
#include "models/mixers/delta_net.h"

#include <memory>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "models/zoo/families.h"
#include "models/zoo/fla.h"
#include "models/zoo/weight_loader.h"

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
  spec.norm_eps = reader.NonNegative({"norm_eps"}, 1e-6);
  const std::string activation =
      reader.Choice({"qk_activation"}, {"silu", "relu", "elu", "identity"}, "silu");
  if (activation == "relu") {
    spec.key_activation = Activation::kRelu;
  } else if (activation == "elu") {
    spec.key_activation = Activation::kEluPlusOne;
  } else {
    spec.key_activation = activation == "silu" ? Activation::kSilu : Activation::kIdentity;
  }
  spec.sum_norm = reader.Choice({"qk_norm"}, {"l2", "sum"}, "l2") == "sum";
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
  spec.key_size = reader.IntWithin({"head_dim"}, 1, kLargestSize, needed(8));
  spec.heads = reader.IntWithin({"num_heads"}, 1, 65536, needed(2));
  if (!reader.status().ok()) return spec;
  spec.value_heads = reader.IntWithin({"num_v_heads"}, 1, 65536, spec.heads);
  spec.value_size = WholePart(static_cast<double>(spec.key_size) * reader.Real({"expand_v"}, expand_v));
  if (reader.status().ok() &&
      (spec.value_heads % spec.heads != 0 || spec.value_size < 1 || spec.value_size > kLargestSize)) {
    reader.Fail(reader.Disagree(absl::StrCat("the heads of values must be a multiple of the heads, and ",
                                             spec.value_size, " the size of one"),
                                {"num_v_heads", "num_heads", "expand_v", "head_dim"}));
  }
  spec.taps = ReadTaps(reader, true);
  spec.double_beta = reader.Bool({"allow_neg_eigval"}, false);
  spec.norm_eps = reader.NonNegative({"norm_eps"}, 1e-6);
  return spec;
}

FlaMixer ReadGatedDeltaNet(const FlaRequest& request, DecoderSpec&) {
  DeltaNetSpec spec = ReadGatedSpec(request, 2);
  spec.mixer = "gated_delta_net";
  spec.decay = DeltaNetSpec::Decay::kPerHead;
  spec.gate = request.reader.Bool({"use_gate"}, true) ? DeltaNetSpec::Gate::kSilu : DeltaNetSpec::Gate::kNone;
  return Make(std::move(spec));
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
  if (request.archive != nullptr) {  // some releases store it as [1,1,H,1]
    spec.a_log_shape =
        StoredShape(*request.archive, "model.layers.#.attn.A_log", request.layers, spec.value_heads);
  }
  return Make(std::move(spec));
}

constexpr FlaFamily kDeltaNet{"delta_net", 4, ReadDeltaNet},
    kGatedDeltaNet{"gated_deltanet", 4, ReadGatedDeltaNet}, kKda{"kda", 4, ReadKda};

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
FamilyEntry KdaFamily() {
  return FlaEntry<kKda>("Kimi Delta Attention: DeltaNet with a decay a key dimension, read from the input",
                        "eigenvalues of (I - β_i k_i k_iᵀ) diag(α_i), per head and step, real, in (-1,1)",
                        "arXiv 2510.26692");
}

}  // namespace eigsvc
