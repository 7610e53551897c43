#include "models/zoo/hybrid_settings.h"

#include <algorithm>
#include <memory>
#include <optional>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "models/base/status_macros.h"
#include "models/zoo/mamba_settings.h"

namespace eigsvc {
int64_t HybridReader::Size(SettingsReader::Names names, int64_t small) {
  return reader.IntWithin(names, 1, kLargestSize, fresh() ? std::optional<int64_t>(small) : std::nullopt);
}

DecoderSpec HybridReader::ReadShell(absl::string_view family, absl::string_view eps, double usual_eps) {
  DecoderSpec spec;
  spec.description.family = std::string(family);
  spec.description.layout = "huggingface";
  // Of the attention; Mamba has no normaliser.
  spec.description.conventions.gauges = {Gauge::kDsf, Gauge::kRaw};
  spec.description.width = Size({"hidden_size"}, 64);
  spec.description.vocab_size = Size({"vocab_size"}, 64);
  spec.norm.eps = reader.NonNegative({eps}, usual_eps);
  const bool has_head = archive_ != nullptr && archive_->tensors().contains("lm_head.weight");
  spec.tied = reader.Bool({"tie_word_embeddings"}, !fresh() && !has_head);
  spec.norm_key = "model.final_layernorm";
  spec.draw_deviation = reader.NonNegative({"initializer_range"}, 0.02);
  return spec;
}

int64_t HybridReader::ReadLayers(int64_t layers, int64_t small) {
  return reader.IntWithin({"num_hidden_layers"}, 1, 4096, fresh() ? small : layers);
}

std::optional<int64_t> HybridReader::StoredShare(absl::string_view ending, size_t dimension, int64_t parts) {
  if (archive_ == nullptr) return std::nullopt;
  for (const auto& [key, tensor] : archive_->tensors()) {
    if (absl::EndsWith(key, ending) && dimension < tensor.shape.size())
      return tensor.shape[dimension] / parts;
  }
  return std::nullopt;
}

// Configuration classes differ in what silence means; weights do not.
AttentionSpec HybridReader::ReadAttention(int64_t width, absl::string_view output) {
  AttentionSpec spec;
  spec.width = width;
  spec.heads = Size({"num_attention_heads"}, 4);
  if (!reader.status().ok()) return spec;
  spec.key_size = reader.StoredSize({"head_dim"}, StoredShare(output, 1, spec.heads), 1, kLargestSize,
                                    std::max<int64_t>(width / spec.heads, 1));
  spec.value_size = spec.key_size;
  reader.Blame({"num_attention_heads"});
  if (!reader.status().ok()) return spec;
  spec.groups = reader.StoredSize({"num_key_value_heads"}, StoredShare(".k_proj.weight", 0, spec.key_size), 1,
                                  kLargestSize, spec.heads);
  reader.Blame({"num_attention_heads", "head_dim"});
  if (reader.status().ok() && spec.heads % spec.groups != 0) {
    reader.Fail(reader.Disagree("the heads do not divide into those of keys and values",
                                {"num_attention_heads", "num_key_value_heads"}));
  }
  return spec;
}

void HybridReader::ReadRotary(double share, at::ScalarType dtype, AttentionSpec& attention) {
  const double base = reader.Positive({"rope_parameters.rope_theta", "rope_theta"}, 10000);
  reader.Choice({"rope_parameters.rope_type", "rope_scaling.rope_type", "rope_scaling.type"}, {"default"},
                "default");
  const int64_t size = WholePart(share * static_cast<double>(attention.key_size));
  if (reader.status().ok() && (size < 2 || size % 2 != 0 || size > attention.key_size)) {
    reader.Fail(
        reader.Disagree(absl::StrCat("the rotation would turn ", size, " of a head's ", attention.key_size,
                                     " dimensions, and turns an even number of them"),
                        {"hidden_size", "num_attention_heads", "head_dim",
                         reader.Spelt({"rope_parameters.partial_rotary_factor", "partial_rotary_factor"})}));
  }
  if (!reader.status().ok()) return;
  attention.rotary = std::make_shared<const Rotary>(RotarySpec{size, base, {}, RotaryPairs::kHalves}, dtype);
}

absl::StatusOr<Mamba2Spec> HybridReader::ReadMamba2(int64_t width, int64_t depth, double norm_eps) {
  Mamba2Spec spec;
  spec.width = width;
  spec.depth = depth;
  const double expand = reader.Real({"mamba_expand"}, 2);
  const int64_t inner =
      reader.IntWithin({"mamba_d_ssm"}, 1, kLargestSize, WholePart(expand * static_cast<double>(width)),
                       {"mamba_expand", "hidden_size"});
  spec.heads = Size({"mamba_n_heads"}, 8);
  EIGSVC_RETURN_IF_ERROR(reader.status());
  spec.head_width =
      reader.IntOrAuto({"mamba_d_head"}, 1, kLargestSize, std::max<int64_t>(inner / spec.heads, 1));
  spec.groups = Size({"mamba_n_groups"}, 1);
  spec.order = Size({"mamba_d_state"}, 16);
  spec.taps = reader.IntWithin({"mamba_d_conv"}, 1, 64, 4);
  spec.conv_bias = reader.Bool({"mamba_conv_bias"}, true);
  spec.input_bias = spec.output_bias = reader.Bool({"mamba_proj_bias"}, false);
  spec.norm_eps = norm_eps;
  spec.norm_groups = reader.IntWithin({"gated_norm_groups"}, 1, kLargestSize, spec.groups);
  ReadStepLimit(reader, {"time_step_limit"}, spec);
  EIGSVC_RETURN_IF_ERROR(reader.status());
  if (spec.inner() != inner) {
    return reader.Disagree(
        absl::StrCat(spec.heads, " heads of ", spec.head_width, " channels are not ", inner),
        {"mamba_n_heads", "mamba_d_head", "mamba_d_ssm", "mamba_expand", "hidden_size"});
  }
  EIGSVC_RETURN_IF_ERROR(
      reader.Naming(spec.Check(), {"mamba_n_heads", "mamba_n_groups", "mamba_d_head", "mamba_d_ssm",
                                   "mamba_expand", "hidden_size", "gated_norm_groups"}));
  return spec;
}

std::vector<bool> HybridReader::ReadEither(absl::string_view setting, absl::string_view kind,
                                           absl::string_view other, const std::vector<bool>& usual) {
  std::vector<std::string> fallback;
  for (const bool is : usual) fallback.emplace_back(is ? kind : other);
  const std::vector<std::string> kinds = reader.Texts({setting}, fallback);
  std::vector<bool> read;
  for (const std::string& text : kinds) {
    read.push_back(text == kind);
    if (text == kind || text == other) continue;
    reader.Fail(absl::FailedPreconditionError(absl::StrCat("setting \"", setting, "\" has a layer \"", text,
                                                           "\"; supported: ", other, ", ", kind)));
  }
  if (reader.status().ok() && kinds.size() != usual.size()) {
    reader.Fail(reader.Disagree(absl::StrCat(kinds.size(), " kinds for ", usual.size(), " layers"),
                                {setting, "num_hidden_layers"}));
  }
  read.resize(usual.size());
  return read;
}

Activation HybridReader::ReadActivation(absl::string_view name, absl::string_view usual) {
  const absl::StatusOr<Activation> activation = ActivationOf(name, reader.Text({name}, std::string(usual)));
  if (activation.ok()) return *activation;
  reader.Fail(activation.status());
  return Activation::kSilu;
}

void HybridReader::RequireSilu(absl::string_view name) { reader.Choice({name}, {"silu", "swish"}, "silu"); }

absl::Status HybridReader::Finish(DecoderSpec& spec) {
  // How a model is trained, drawn, served or named.
  reader.Ignore({"attention_dropout", "bos_token_id", "dtype", "eos_token_id", "hidden_dropout",
                 "max_position_embeddings", "num_logits_to_keep", "output_router_logits", "pad_token_id",
                 "router_aux_loss_coef", "torch_dtype", "transformers_version", "use_cache",
                 "use_mamba_kernels"});
  EIGSVC_RETURN_IF_ERROR(reader.status());
  EIGSVC_RETURN_IF_ERROR(reader.RefuseUnknown(typed_, spec.description.family));
  spec.description.settings = reader.Resolved(spec.description.family, spec.description.layout);
  return absl::OkStatus();
}

}  // namespace eigsvc
