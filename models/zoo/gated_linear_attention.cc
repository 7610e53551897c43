// RetNet (arXiv 2307.08621), GLA (arXiv 2312.06635), HGRN (arXiv 2311.04823) and HGRN2 (arXiv 2404.07904) as
// flash-linear-attention stores them.
#include <cmath>
#include <limits>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "models/mixers/hgrn.h"
#include "models/mixers/linear_attention.h"
#include "models/zoo/families.h"
#include "models/zoo/fla.h"

namespace eigsvc {
namespace {

// What RetNet and GLA share: sizes, feature map, and the norm and gate of the output.
LinearAttentionSpec ReadLinearAttention(const FlaRequest& request, double expand_k, double expand_v) {
  SettingsReader& reader = request.reader;
  const FlaHeads sizes = ReadExpandedHeads(request, expand_k, expand_v);
  LinearAttentionSpec spec;
  spec.width = request.width;
  spec.heads = sizes.heads;
  spec.groups = sizes.groups;
  spec.key_size = sizes.key_size;
  spec.value_size = sizes.value_size;
  if (reader.Has({"feature_map"})) {
    const std::string map = reader.Text({"feature_map"});
    if (map != "relu") {
      reader.Fail(absl::FailedPreconditionError(
          absl::StrCat("setting \"feature_map\" is \"", map, "\"; supported: none (null) and relu")));
    }
    spec.feature_map = Activation::kRelu;
  }
  spec.gated = reader.Bool({"use_output_gate"}, true);
  // One kernel for norm and gate has another key than two.
  spec.norm = reader.Bool({"fuse_norm"}, true) && spec.gated ? "g_norm_swish_gate" : "g_norm";
  spec.affine = reader.Bool({"elementwise_affine"}, true);
  spec.norm_eps = reader.NonNegative({"norm_eps"}, 1e-6);
  return spec;
}

FlaMixer Make(LinearAttentionSpec spec) {
  return [spec = std::move(spec)](int64_t) { return std::make_unique<LinearAttentionMixer>("attn.", spec); };
}

FlaMixer ReadRetNet(const FlaRequest& request, DecoderSpec& decoder) {
  decoder.description.conventions.rotations = {Rotation::kIo, Rotation::kState};
  LinearAttentionSpec spec = ReadLinearAttention(request, 1, 2);
  spec.mixer = "retention";
  for (int64_t head = 0; head < spec.heads; ++head) {
    spec.log_decays.push_back(std::log1p(-std::exp2(-5 - static_cast<double>(head))));
  }
  if (request.reader.status().ok() && spec.key_size % 2 != 0) {
    request.reader.Fail(request.reader.Disagree(
        absl::StrCat("rotary embeddings cannot turn heads of size ", spec.key_size, ", which is odd"),
        {"hidden_size", "num_heads", "expand_k"}));
  }
  spec.rotary = std::make_shared<Rotary>(RotarySpec{spec.key_size, 10000}, request.dtype);
  return Make(std::move(spec));
}

FlaMixer ReadGla(const FlaRequest& request, DecoderSpec&) {
  SettingsReader& reader = request.reader;
  LinearAttentionSpec spec = ReadLinearAttention(request, 0.5, 1);
  spec.mixer = "gla";
  spec.decay = LinearAttentionSpec::Decay::kPerDimension;
  spec.taps = ReadTaps(reader, false);
  spec.gate_rank = 16;
  if (reader.Has({"clamp_min"})) {
    spec.least_log_decay = reader.Real({"clamp_min"});
    if (!(*spec.least_log_decay <= 0 && *spec.least_log_decay >= std::numeric_limits<float>::lowest())) {
      reader.Fail(absl::InvalidArgumentError(absl::StrCat("setting \"clamp_min\" is ", *spec.least_log_decay,
                                                          "; a log decay's bound is a float of at most 0")));
    }
  }
  return Make(std::move(spec));
}

// Settings of both; sizes are each one's own.
HgrnSpec ReadHgrnSpec(const FlaRequest& request, DecoderSpec& spec, int64_t size) {
  SettingsReader& reader = request.reader;
  HgrnSpec mixer;
  mixer.width = request.width;
  mixer.size = size;
  mixer.taps = ReadTaps(reader, false);
  mixer.affine = reader.Bool({"elementwise_affine"}, true);
  if (reader.Bool({"use_lower_bound"}, true)) {
    mixer.bounded_layers = request.layers;
    spec.plan_shared = [layers = request.layers, size](const WeightPlanner& outer) {
      outer.Add(kLowerBounds, {layers, size}, DrawConstant(0)).key = "model.lower_bounds";
    };
  }
  return mixer;
}

template <typename Mixer>
FlaMixer MakeHgrn(HgrnSpec spec) {
  return [spec](int64_t layer) {
    HgrnSpec own = spec;
    own.layer = layer;
    return std::make_unique<Mixer>("attn.", own);
  };
}

FlaMixer ReadHgrn(const FlaRequest& request, DecoderSpec& spec) {
  const int64_t size = request.width * request.reader.IntWithin({"expand_ratio"}, 1, 1024, 1);
  HgrnSpec mixer = ReadHgrnSpec(request, spec, size);
  mixer.norm_eps = request.reader.NonNegative({"norm_eps"}, 1e-6);
  return MakeHgrn<Hgrn>(mixer);
}

FlaMixer ReadHgrn2(const FlaRequest& request, DecoderSpec& spec) {
  SettingsReader& reader = request.reader;
  // fla: expand_ratio, the size of a head's keys, decides the heads; without it they decide it.
  int64_t key_size = 0, heads = 0;
  absl::string_view decided = "expand_ratio";
  if (request.archive != nullptr && !reader.Has({"expand_ratio"}) && reader.Has({"num_heads"})) {
    heads = reader.IntWithin({"num_heads"}, 1, request.width, std::nullopt, {"hidden_size"});
    decided = "num_heads";
    key_size = heads > 0 ? request.width / heads : 0;
  } else {
    key_size = reader.IntWithin({"expand_ratio"}, 1, kLargestSize, request.archive ? 128 : 8);
    heads = key_size > 0 ? request.width / key_size : 0;
  }
  if (reader.status().ok() && (heads == 0 || request.width % heads != 0)) {
    reader.Fail(reader.Disagree(absl::StrCat("the width does not divide into ", heads, " heads"),
                                {decided, "hidden_size"}));
  }
  HgrnSpec mixer = ReadHgrnSpec(request, spec, heads * key_size);
  mixer.heads = heads;
  // fla norms the output with its function's default instead of norm_eps.
  mixer.norm_eps = 1e-5;
  return MakeHgrn<Hgrn2>(mixer);
}

constexpr FlaFamily kRetNet{"retnet", 2, ReadRetNet}, kGla{"gla", 4, ReadGla}, kHgrn{"hgrn", 4, ReadHgrn},
    kHgrn2{"hgrn2", 4, ReadHgrn2};

}  // namespace

FamilyEntry RetNetFamily() {
  return FlaEntry<kRetNet>("RetNet: linear attention with rotary embeddings and a fixed decay a head",
                           "λ_h = 1 - 2^(-5-h), per head, constant; rotation state: λ_h e^{±iθ}",
                           "arXiv 2307.08621");
}
FamilyEntry GlaFamily() {
  return FlaEntry<kGla>("GLA: linear attention whose decays are read from the input, one a key dimension",
                        "λ = sigmoid(gate)^(1/16), per head, key dimension and step, in (0,1)",
                        "arXiv 2312.06635");
}
FamilyEntry HgrnFamily() {
  return FlaEntry<kHgrn>(
      "HGRN: a gated linear recurrence a channel, with lower bounds that rise with the layers",
      "λ = the forget gate, per channel and step, in (lower bound, 1)", "arXiv 2311.04823");
}
FamilyEntry Hgrn2Family() {
  return FlaEntry<kHgrn2>("HGRN2: HGRN with a matrix-valued state a head",
                          "λ = the forget gate, per head, key dimension and step, in (lower bound, 1)",
                          "arXiv 2404.07904");
}

}  // namespace eigsvc
