#include "models/zoo/jax_stack.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "models/base/status_macros.h"
#include "models/mixers/residual_blocks.h"
#include "models/zoo/weight_loader.h"

namespace eigsvc {
namespace {

constexpr const char* kJaxLayer = "encoder.layers_0.";

absl::StatusOr<SsmBlockSpec::Output> OutputOf(const std::string& activation) {
  if (activation == "full_glu") return SsmBlockSpec::Output::kTwoLinear;
  if (activation == "half_glu1") return SsmBlockSpec::Output::kGate;
  if (activation == "half_glu2") return SsmBlockSpec::Output::kGateOnly;
  if (activation == "gelu") return SsmBlockSpec::Output::kNone;
  return absl::FailedPreconditionError(absl::StrCat("setting \"activation\" is \"", activation,
                                                    "\"; supported: full_glu, half_glu1, half_glu2, gelu"));
}

}  // namespace

std::optional<int64_t> StoredSsmSize(const JaxFrame& frame, const std::string& name, size_t dimension) {
  if (frame.archive == nullptr) return std::nullopt;
  return StoredSize(*frame.archive, absl::StrCat(kJaxLayer, "seq.", name), dimension);
}

absl::StatusOr<StackSpec> JaxStack(
    SettingsReader& reader, const JaxFrame& frame, std::optional<int64_t> layers,
    const std::function<absl::StatusOr<std::function<std::unique_ptr<const Module>()>>(int64_t)>& mixer) {
  const bool fresh = frame.archive == nullptr;
  const auto stored = [&](const std::string& key, size_t dimension) {
    return fresh ? std::nullopt : StoredSize(*frame.archive, key, dimension);
  };
  const auto has = [&](const std::string& key) { return !fresh && frame.archive->tensors().contains(key); };
  // What neither weights nor a fresh model's user need to say, but a checkpoint's settings must.
  const auto stated = [&](const char* fallback) {
    return fresh ? std::optional<std::string>(fallback) : std::nullopt;
  };
  StackSpec spec;
  ModelDescription& description = spec.description;
  const int64_t count = reader.IntWithin({"num_layers", "n_layers"}, 1, 4096, layers.value_or(2));
  description.width = reader.IntWithin({"hidden_dim", "d_model"}, 1, kLargestSize,
                                       stored("encoder.encoder.kernel", 1).value_or(64));
  description.channels = reader.IntWithin({"input_dim", "vocab_size"}, 1, kLargestSize,
                                          stored("encoder.encoder.kernel", 0).value_or(64));
  description.vocab_size = description.channels > 1 ? description.channels : 0;
  description.classes = reader.IntWithin({"output_dim", "d_output"}, 1, kLargestSize,
                                         stored("decoder.kernel", 1).value_or(description.channels));
  spec.encoder = StackSpec::Encoder::kOneHot;
  SsmBlockSpec block;
  block.width = description.width;
  block.activation = Activation::kGeluTanh;
  block.tied_dropout = true;
  const std::string norm_prefix = absl::StrCat(kJaxLayer, frame.norm_name, ".");
  const std::string norm = reader.Text({"norm"}, fresh || has(norm_prefix + "mean") ? "batch"
                                                 : has(norm_prefix + "scale")       ? "layer"
                                                                                    : "none");
  std::string activation = "full_glu";
  if (frame.chooses_activation) {
    std::optional<std::string> from_keys = stated("full_glu");
    if (has(absl::StrCat(kJaxLayer, "out1.kernel"))) {
      from_keys = "full_glu";
    } else if (!fresh && !has(absl::StrCat(kJaxLayer, "out2.kernel"))) {
      from_keys = "gelu";
    }
    activation = reader.Text({"activation"}, from_keys);
  }
  block.prenorm = reader.Bool({"prenorm"}, fresh ? std::optional<bool>(false) : std::nullopt);
  block.dropout = reader.Dropout({"dropout", "p_dropout"});
  const std::string pooling = reader.Text({"pooling"}, stated("none"));
  const bool dual = reader.Bool({"dual"}, false);
  // How it was trained, and what another kind of the same code reads.
  reader.Ignore({"ssm_lr_vars", "decode", "dt_min", "dt_max", "r_min", "r_max", "seq_len", "discretization"});
  EIGSVC_RETURN_IF_ERROR(reader.status());
  EIGSVC_ASSIGN_OR_RETURN(block.output, OutputOf(activation));
  block.dropout_once = block.output == SsmBlockSpec::Output::kNone;
  EIGSVC_ASSIGN_OR_RETURN(spec.pooling, PoolingOf(pooling, {Pooling::kNone, Pooling::kMean, Pooling::kLast}));
  if (norm == "batch") {
    block.norm = {NormSpec::Kind::kBatch, 1e-5, /*momentum=*/0.01, /*unbiased=*/false};
  } else if (norm == "layer") {
    block.norm = {NormSpec::Kind::kLayer, 1e-6};
  } else {
    return absl::FailedPreconditionError(
        absl::StrCat("setting \"norm\" is \"", norm, "\"; supported: batch, layer"));
  }
  if (dual) {
    return absl::FailedPreconditionError(
        "setting \"dual\" is true (two documents are matched); false is supported");
  }
  EIGSVC_ASSIGN_OR_RETURN(const auto make, mixer(description.width));
  for (int64_t layer = 0; layer < count; ++layer) {
    spec.layers.push_back(std::make_unique<SsmBlock>(block, make()));
  }
  spec.head_bias = true;
  spec.linear.transposed = true;
  spec.linear.defaults = LinearStyle::Defaults::kFlax;
  spec.outer_keys = {{"encoder.weight", "encoder.encoder.kernel"},
                     {"encoder.bias", "encoder.encoder.bias"},
                     {"head.weight", "decoder.kernel"},
                     {"head.bias", "decoder.bias"}};
  spec.layer_prefix = "encoder.layers_#.";
  spec.layer_keys = {{"out1.weight", "out1.kernel"}, {"out2.weight", "out2.kernel"}};
  for (const auto& [canonical, flax] : {std::pair("weight", "scale"), std::pair("bias", "bias"),
                                        std::pair("running_mean", "mean"), std::pair("running_var", "var")}) {
    spec.layer_keys.emplace_back(absl::StrCat("norm.", canonical), absl::StrCat(frame.norm_name, ".", flax));
  }
  return spec;
}

}  // namespace eigsvc
