// Zamba2 (arXiv 2411.15242) as Hugging Face stores it: Mamba-2 in every layer, and transformer blocks that
// hybrid layers share in turn, over the residual stream beside the embedding. A shared block's weights are
// stored in the first layer that has it, and with them the adapters of all layers that do.
#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "models/base/status_macros.h"
#include "models/mixers/mamba2.h"
#include "models/mixers/zamba_layer.h"
#include "models/zoo/families.h"
#include "models/zoo/hybrid_settings.h"
#include "models/zoo/load_by_settings.h"
#include "models/zoo/mamba_settings.h"

namespace eigsvc {
namespace {

constexpr char kShared[] = "shared_transformer.";

// For each layer, which of the hybrid ones it is; -1 for the others.
absl::StatusOr<std::vector<int64_t>> ReadHybrids(HybridReader& source, const Archive* archive,
                                                 int64_t layers) {
  std::vector<std::string> usual;
  for (int64_t layer = 0; layer < layers; ++layer) {
    const std::string key = absl::StrCat("model.layers.", layer, ".linear.weight");
    const bool hybrid = archive == nullptr ? layer % 2 == 1 : archive->tensors().contains(key);
    usual.push_back(hybrid ? "hybrid" : "mamba");
  }
  const std::vector<std::string> types = source.reader.Texts({"layers_block_type"}, usual);
  EIGSVC_RETURN_IF_ERROR(source.reader.status());
  if (static_cast<int64_t>(types.size()) != layers) {
    return source.reader.Disagree(absl::StrCat(types.size(), " kinds for ", layers, " layers"),
                                  {"layers_block_type", "num_hidden_layers"});
  }
  std::vector<int64_t> hybrids;
  int64_t count = 0;
  for (const std::string& type : types) {
    if (type != "hybrid" && type != "mamba" && type != "linear_attention") {
      return absl::FailedPreconditionError(absl::StrCat("setting \"layers_block_type\" has a layer \"", type,
                                                        "\"; supported: mamba (linear_attention), hybrid"));
    }
    hybrids.push_back(type == "hybrid" ? count++ : -1);
  }
  return hybrids;
}

absl::StatusOr<Mamba2Spec> ReadMamba(HybridReader& source, int64_t width, int64_t depth, bool bias) {
  SettingsReader& reader = source.reader;
  Mamba2Spec spec;
  spec.width = width;
  spec.depth = depth;
  spec.heads = source.Size({"n_mamba_heads"}, 8);
  const int64_t channels = width * reader.IntWithin({"mamba_expand"}, 1, 64, 2);
  EIGSVC_RETURN_IF_ERROR(reader.status());
  spec.head_width = std::max<int64_t>(channels / spec.heads, 1);
  spec.groups = reader.IntWithin({"mamba_ngroups"}, 1, kLargestSize, 1);
  spec.order = reader.IntWithin({"mamba_d_state"}, 1, kLargestSize, source.fresh() ? 16 : 64);
  spec.taps = reader.IntWithin({"mamba_d_conv"}, 1, 64, 4);
  spec.input_bias = spec.output_bias = bias;
  spec.norm_groups = spec.groups;
  ReadStepLimit(reader, {"time_step_limit"}, spec);
  EIGSVC_RETURN_IF_ERROR(reader.status());
  if (spec.inner() != channels) {
    return reader.Disagree(absl::StrCat(channels, " channels do not divide into ", spec.heads, " heads"),
                           {"mamba_expand", "hidden_size", "n_mamba_heads"});
  }
  EIGSVC_RETURN_IF_ERROR(reader.Naming(spec.Check(), {"n_mamba_heads", "mamba_ngroups"}));
  return spec;
}

absl::StatusOr<ZambaLayerSpec> ReadHybridLayer(HybridReader& source, const DecoderSpec& decoder,
                                               at::ScalarType dtype) {
  SettingsReader& reader = source.reader;
  const int64_t width = decoder.description.width;
  ZambaLayerSpec spec;
  spec.norm = decoder.norm;
  spec.attention = source.ReadAttention(2 * width);
  EIGSVC_RETURN_IF_ERROR(reader.status());
  spec.attention.output_width = width;
  spec.attention.scale = 1 / std::sqrt(static_cast<double>(spec.attention.key_size) / 2);
  spec.adapter_rank = source.Size({"adapter_rank"}, 4);
  if (reader.Bool({"use_shared_attention_adapter"}, false)) spec.attention.adapter_rank = spec.adapter_rank;
  if (reader.Bool({"use_mem_rope"}, false)) source.ReadRotary(1, dtype, spec.attention);
  if (reader.Bool({"use_long_context"}, false)) {
    return absl::FailedPreconditionError(
        "setting \"use_long_context\" stretches the rotation in a way that its implementations disagree on; "
        "it is not supported");
  }
  spec.network = {width,
                  reader.IntWithin({"intermediate_size", "ffn_hidden_size"}, 1, kLargestSize, 4 * width),
                  source.ReadActivation("hidden_act", "gelu"), reader.Bool({"add_bias_linear"}, false)};
  reader.Ignore({"attention_head_dim", "attention_hidden_size", "chunk_size", "hybrid_layer_ids",
                 "kv_channels", "mamba_headdim", "num_query_groups", "rope_scaling", "rope_theta",
                 "rope_parameters", "time_step_floor", "time_step_max", "time_step_min", "use_conv_bias",
                 "use_mem_eff_path"});
  EIGSVC_RETURN_IF_ERROR(reader.status());
  return spec;
}

absl::StatusOr<DecoderSpec> Zamba2Spec(const Settings& settings, const Settings& typed,
                                       const Archive* archive, int64_t checkpoint_layers,
                                       at::ScalarType dtype) {
  HybridReader source(settings, typed, archive);
  DecoderSpec spec = source.ReadShell("zamba2", "rms_norm_eps", 1e-5);
  spec.carries_embedding = true;
  const int64_t layers = source.ReadLayers(checkpoint_layers, 4);
  EIGSVC_RETURN_IF_ERROR(source.reader.status());
  EIGSVC_ASSIGN_OR_RETURN(const std::vector<int64_t> hybrids, ReadHybrids(source, archive, layers));
  const int64_t blocks = source.reader.IntWithin({"num_mem_blocks"}, 1, 4096, 1);
  EIGSVC_ASSIGN_OR_RETURN(ZambaLayerSpec hybrid, ReadHybridLayer(source, spec, dtype));
  EIGSVC_ASSIGN_OR_RETURN(hybrid.mamba,
                          ReadMamba(source, spec.description.width, layers, hybrid.network.bias));
  for (int64_t layer = 0; layer < layers; ++layer) {
    Branch branch{nullptr, ""};
    if (hybrids[layer] >= 0) {
      branch.module = std::make_unique<ZambaLayer>(hybrid);
      branch.takes_embedding = true;
    } else {
      branch.module = std::make_unique<Mamba2>("mamba.", hybrid.mamba);
      branch.norm = "input_layernorm";
    }
    spec.layers.emplace_back().emplace_back().branches.push_back(std::move(branch));
  }
  spec.adjust = [hybrids, blocks](WeightSpec& weight) {
    if (weight.layer == WeightSpec::kOuter || !absl::StartsWith(weight.name, kShared)) return;
    const int64_t hybrid_index = hybrids[weight.layer];
    const auto owner = std::find(hybrids.begin(), hybrids.end(), hybrid_index % blocks) - hybrids.begin();
    const std::string number = absl::StrCat(".", hybrid_index, ".");
    if (absl::StrContains(weight.name, "_adapter.")) {
      weight.key = absl::StrCat(
          "model.layers.", owner, ".",
          absl::StrReplaceAll(weight.name, {{".q_adapter.", ".linear_q_adapter_list" + number},
                                            {".k_adapter.", ".linear_k_adapter_list" + number},
                                            {".v_adapter.", ".linear_v_adapter_list" + number},
                                            {".gate_up_adapter.", ".gate_up_proj_adapter_list" + number}}));
    } else if (owner != weight.layer) {
      weight.tied_to = weight.name;
      weight.tied_layer = static_cast<int>(owner);
    }
  };
  EIGSVC_RETURN_IF_ERROR(source.Finish(spec));
  return spec;
}

}  // namespace

FamilyEntry Zamba2Family() {
  return {"zamba2",
          {"huggingface"},
          "Zamba2: Mamba-2 with shared attention blocks before some layers",
          "Mamba-2: λ = exp(Δ·A) per head; attention: λ_i = ν_{i-1}/ν_i per query head",
          /*trainable=*/true,
          LoadBySettings<Zamba2Spec>,
          InitializeBySettings<Zamba2Spec>,
          "arXiv 2411.15242"};
}

}  // namespace eigsvc
