// Language models of minGRU and minLSTM (arXiv 2410.01201) as lucidrains/minGRU-pytorch stores them. A state
// dict says everything but how it was made.
#include "models/mixers/min_rnn.h"

#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "models/base/status_macros.h"
#include "models/mixers/feed_forward.h"
#include "models/zoo/decoder.h"
#include "models/zoo/families.h"
#include "models/zoo/settings_reader.h"
#include "models/zoo/weight_loader.h"

namespace eigsvc {
namespace {

constexpr absl::string_view kMinGru = "min-gru", kMinLstm = "min-lstm";
constexpr absl::string_view kMinRnnLayout = "lucidrains";

// `archive`: null for a fresh model.
absl::StatusOr<DecoderSpec> MinRnnDecoder(absl::string_view family, const Settings& settings,
                                          const Settings& typed, const Archive* archive,
                                          int64_t checkpoint_layers, at::ScalarType dtype) {
  SettingsReader reader(settings);
  const auto size = [&](const std::string& key, size_t dimension) -> std::optional<int64_t> {
    return archive == nullptr ? std::nullopt : StoredSize(*archive, key, dimension);
  };
  MinRnnSpec rnn;
  rnn.lstm = family == kMinLstm;
  const int64_t parts = rnn.lstm ? 3 : 2;
  const std::string projection =
      absl::StrCat("layers.0.2.to_hidden_and_", rnn.lstm ? "f_i_gate" : "gate", ".weight");
  const int64_t layers = reader.IntWithin({"depth"}, 1, 4096, archive == nullptr ? 2 : checkpoint_layers);
  const int64_t width = reader.IntWithin({"dim"}, 1, kLargestSize, size("token_emb.weight", 1).value_or(64));
  const int64_t tokens = reader.IntWithin({"vocab_size", "num_tokens"}, 1, kLargestSize,
                                          size("token_emb.weight", 0).value_or(64));
  EIGSVC_RETURN_IF_ERROR(reader.status());
  const int64_t rows = size(projection, 0).value_or(0);
  const double expansion = reader.Real(
      {"expansion"}, rows > 0 ? static_cast<double>(rows / parts) / static_cast<double>(width) : 1.5);
  rnn.width = width;
  rnn.channels = WholePart(expansion * static_cast<double>(width) * (1 + 1e-12));
  // The reference projects wherever the recurrence is of another width.
  rnn.output_projection = reader.Bool(
      {"proj_out"}, archive == nullptr ? expansion != 1 : size("layers.0.2.to_out.weight", 0).has_value());
  FeedForwardSpec network;
  network.width = width;
  network.hidden =
      reader.IntWithin({"ff_hidden"}, 1, kLargestSize, size("layers.0.4.0.weight", 0).value_or(4 * width));
  network.activation = Activation::kGelu;
  network.bias = true;
  const bool has_convolution = reader.Bool({"enable_conv"}, size("layers.0.0.net.0.weight", 0).has_value());
  const int64_t taps =
      reader.IntWithin({"conv_kernel_size"}, 1, 64, size("layers.0.0.net.0.weight", 2).value_or(3));
  EIGSVC_RETURN_IF_ERROR(reader.status());
  if (rnn.channels < 1 || rnn.channels > kLargestSize) {
    return reader.Disagree("the width times its expansion is no size", {"expansion", "dim"});
  }
  if (!rnn.output_projection && rnn.channels != width) {
    return reader.Disagree(absl::StrCat("the recurrence's ", rnn.channels,
                                        " channels must be the width where they are not projected"),
                           {"proj_out", "expansion", "dim"});
  }

  DecoderSpec spec;
  spec.description.family = std::string(family);
  spec.description.layout = std::string(kMinRnnLayout);
  spec.description.width = width;
  spec.description.vocab_size = tokens;
  // torch's RMSNorm without an eps takes the epsilon of what it computes in.
  spec.norm.eps =
      dtype == at::kDouble ? std::numeric_limits<double>::epsilon() : std::numeric_limits<float>::epsilon();
  spec.embedding_key = "token_emb";
  spec.norm_key = "norm";
  spec.head_key = "to_logits";
  spec.layer_prefix = "layers.#.";
  spec.layer_keys = {{"conv.", "0."},  {"norm", "1"},         {"rnn.", "2."},
                     {"ff_norm", "3"}, {"ff.up_proj", "4.0"}, {"ff.down_proj", "4.2"}};
  for (int64_t layer = 0; layer < layers; ++layer) {
    std::vector<Sublayer>& sublayers = spec.layers.emplace_back();
    const auto add = [&](std::unique_ptr<const Module> module, const std::string& norm) {
      sublayers.emplace_back().branches.push_back({std::move(module), norm});
    };
    if (has_convolution) add(std::make_unique<SeparableConvolution>("conv.", width, taps), "");
    add(std::make_unique<MinRnn>("rnn.", rnn), "norm");
    add(std::make_unique<FeedForward>("ff.", network), "ff_norm");
  }
  EIGSVC_RETURN_IF_ERROR(reader.RefuseUnknown(typed, family));
  spec.description.settings = reader.Resolved(family, kMinRnnLayout);
  return spec;
}

absl::StatusOr<std::shared_ptr<const SequenceModel>> LoadMinRnn(const Archive& archive,
                                                                const Detection& detection,
                                                                const LoadOptions& options) {
  EIGSVC_ASSIGN_OR_RETURN(DecoderSpec spec,
                          MinRnnDecoder(detection.family, detection.settings, detection.typed, &archive,
                                        detection.layers, options.dtype));
  return LoadDecoder(std::move(spec), archive, options);
}

template <const absl::string_view& kFamily>
absl::StatusOr<std::shared_ptr<const SequenceModel>> InitializeMinRnn(const Settings& settings, uint64_t seed,
                                                                      const LoadOptions& options) {
  EIGSVC_ASSIGN_OR_RETURN(DecoderSpec spec,
                          MinRnnDecoder(kFamily, settings, settings, nullptr, 0, options.dtype));
  return InitializeDecoder(std::move(spec), seed, options);
}

}  // namespace

FamilyEntry MinGruFamily() {
  return {kMinGru,
          {std::string(kMinRnnLayout)},
          "minGRU: a GRU whose gates see the input alone",
          "λ = 1 - z per channel, real in (0, 1)",
          /*trainable=*/true,
          LoadMinRnn,
          InitializeMinRnn<kMinGru>,
          "arXiv 2410.01201"};
}

FamilyEntry MinLstmFamily() {
  return {kMinLstm,
          {std::string(kMinRnnLayout)},
          "minLSTM: an LSTM whose gates see the input alone and sum to one",
          "λ = f/(f + i) per channel, real in (0, 1)",
          /*trainable=*/true,
          LoadMinRnn,
          InitializeMinRnn<kMinLstm>,
          "arXiv 2410.01201"};
}

}  // namespace eigsvc
