// Jamba (arXiv 2403.19887) as Hugging Face stores it: Mamba-1 with normed Δ, B and C, every few layers
// attention without positions in its place, and every other layer a mixture of experts for an MLP.
#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "models/base/status_macros.h"
#include "models/mixers/attention.h"
#include "models/mixers/feed_forward.h"
#include "models/mixers/mamba1.h"
#include "models/mixers/mixture_of_experts.h"
#include "models/zoo/families.h"
#include "models/zoo/hybrid_settings.h"
#include "models/zoo/load_by_settings.h"

namespace eigsvc {
namespace {

// Every `period`-th layer, the first of them at `offset`.
struct EveryFew {
  int64_t period = 1, offset = 0;
  bool Has(int64_t layer) const { return layer % period == offset; }
};

EveryFew ReadEvery(SettingsReader& reader, absl::string_view period, absl::string_view offset,
                   EveryFew usual) {
  EveryFew every;
  every.period = reader.IntWithin({period}, 1, 4096, usual.period);
  every.offset = reader.IntWithin({offset}, 0, every.period - 1, usual.offset % every.period, {period});
  return every;
}

absl::StatusOr<DecoderSpec> JambaSpec(const Settings& settings, const Settings& typed, const Archive* archive,
                                      int64_t checkpoint_layers, at::ScalarType /*dtype*/) {
  HybridReader source(settings, typed, archive);
  SettingsReader& reader = source.reader;
  DecoderSpec spec = source.ReadShell("jamba", "rms_norm_eps", 1e-6);
  const int64_t width = spec.description.width;
  const int64_t layers = source.ReadLayers(checkpoint_layers, 4);
  const AttentionSpec attention = source.ReadAttention(width);
  const EveryFew attends = ReadEvery(reader, "attn_layer_period", "attn_layer_offset",
                                     source.fresh() ? EveryFew{4, 2} : EveryFew{8, 4});
  const EveryFew routes = ReadEvery(reader, "expert_layer_period", "expert_layer_offset", {2, 1});

  Mamba1Spec mamba;
  mamba.width = width;
  mamba.depth = layers;
  mamba.channels = width * reader.IntWithin({"mamba_expand"}, 1, 64, 2);
  mamba.order = reader.IntWithin({"mamba_d_state"}, 1, kLargestSize, 16);
  mamba.rank = reader.IntOrAuto({"mamba_dt_rank"}, 1, kLargestSize, (width + 15) / 16);
  mamba.taps = reader.IntWithin({"mamba_d_conv"}, 1, 64, 4);
  mamba.conv_bias = reader.Bool({"mamba_conv_bias"}, true);
  mamba.projection_bias = reader.Bool({"mamba_proj_bias"}, false);
  mamba.inner_norm = Mamba1Spec::InnerNorm::kWeighted;
  mamba.inner_norm_eps = spec.norm.eps;

  FeedForwardSpec network;
  network.width = width;
  network.hidden = source.Size({"intermediate_size"}, 96);
  source.RequireSilu("hidden_act");
  MixtureOfExpertsSpec mixture;
  const std::vector<absl::string_view> experts = {"num_experts", "num_local_experts"};
  mixture.experts = source.Size(experts, 4);
  mixture.chosen = source.Size({"num_experts_per_tok"}, 2);
  mixture.expert = network;
  reader.Ignore({"use_associative_scan", "use_mambapy"});
  EIGSVC_RETURN_IF_ERROR(reader.status());
  const bool has_mixtures = mixture.experts > 1;
  if (has_mixtures) {
    EIGSVC_RETURN_IF_ERROR(reader.Naming(mixture.Check(), {reader.Spelt(experts), "num_experts_per_tok"}));
  }

  for (int64_t layer = 0; layer < layers; ++layer) {
    Branch mixer{nullptr, "input_layernorm"}, position_wise{nullptr, "pre_ff_layernorm"};
    if (attends.Has(layer)) {
      mixer.module = std::make_unique<Attention>("self_attn.", attention);
    } else {
      mixer.module = std::make_unique<Mamba1>("mamba.", mamba);
    }
    if (has_mixtures && routes.Has(layer)) {
      position_wise.module = std::make_unique<MixtureOfExperts>("feed_forward.", mixture);
    } else {
      position_wise.module = std::make_unique<GatedFeedForward>("feed_forward.", network);
    }
    spec.layers.push_back(MixerAndNetwork(std::move(mixer), std::move(position_wise)));
  }
  EIGSVC_RETURN_IF_ERROR(source.Finish(spec));
  return spec;
}

}  // namespace

FamilyEntry JambaFamily() {
  return {"jamba",
          {"huggingface"},
          "Jamba: Mamba-1 and attention in turn, with mixtures of experts",
          "Mamba: λ = exp(Δ·A) per channel and state; attention: λ_i = ν_{i-1}/ν_i per query head",
          /*trainable=*/true,
          LoadBySettings<JambaSpec>,
          InitializeBySettings<JambaSpec>,
          "arXiv 2403.19887"};
}

}  // namespace eigsvc
