// Language models of torch.nn's LSTM, GRU and RNN: an embedding, the layers and a linear head, as PyTorch's
// word_language_model example and its many relatives store them. What the three parts are called differs;
// they are found by their usual names.
#include "models/mixers/rnn.h"

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "models/base/status_macros.h"
#include "models/zoo/decoder.h"
#include "models/zoo/families.h"
#include "models/zoo/settings_reader.h"
#include "models/zoo/weight_loader.h"

namespace eigsvc {
namespace {

constexpr absl::string_view kLstm = "lstm", kGru = "gru", kRnn = "rnn";
constexpr absl::string_view kTorchLayout = "torch";
constexpr const char* kRecurrences[] = {"rnn", "lstm", "gru"};
constexpr const char* kEmbeddings[] = {"encoder",    "embedding",       "embed",       "emb",
                                       "embeddings", "word_embeddings", "embed_tokens"};
constexpr const char* kHeads[] = {"decoder", "fc",  "linear", "head",      "lm_head",
                                  "output",  "out", "proj",   "classifier"};

// The name among `names` whose tensor is there; the first for a fresh model.
template <size_t kCount>
std::string FindName(const Archive* archive, const char* const (&names)[kCount], const std::string& tensor) {
  for (const char* name : names) {
    if (archive == nullptr || archive->tensors().contains(name + tensor)) return name;
  }
  return names[0];
}

absl::StatusOr<RnnKind> ReadKind(absl::string_view family, SettingsReader& reader, bool fresh) {
  if (family == kLstm) return RnnKind::kLstm;
  if (family == kGru) return RnnKind::kGru;
  // Nothing in the weights tells.
  const std::string name =
      reader.Text({"nonlinearity"}, fresh ? std::optional<std::string>("tanh") : std::nullopt);
  EIGSVC_RETURN_IF_ERROR(reader.status());
  if (name == "tanh") return RnnKind::kTanh;
  if (name == "relu") return RnnKind::kRelu;
  return absl::FailedPreconditionError(
      absl::StrCat("setting \"nonlinearity\" is \"", name, "\"; torch.nn.RNN knows tanh and relu"));
}

absl::StatusOr<DecoderSpec> RnnDecoder(absl::string_view family, const Settings& settings,
                                       const Settings& typed, const Archive* archive,
                                       int64_t checkpoint_layers) {
  const bool fresh = archive == nullptr;
  SettingsReader reader(settings);
  const auto size = [&](const std::string& key, size_t dimension) -> std::optional<int64_t> {
    return fresh ? std::nullopt : StoredSize(*archive, key, dimension);
  };
  EIGSVC_ASSIGN_OR_RETURN(const RnnKind kind, ReadKind(family, reader, fresh));
  DecoderSpec spec;
  spec.embedding_key = reader.Text({"embedding_key"}, FindName(archive, kEmbeddings, ".weight"));
  spec.head_key = reader.Text({"head_key"}, FindName(archive, kHeads, ".weight"));
  spec.norm_key = "";
  const std::string recurrence =
      reader.Text({"rnn_key"}, FindName(archive, kRecurrences, ".weight_hh_l0")) + ".";
  const int64_t layers = reader.IntWithin({"num_layers", "nlayers"}, 1, 4096, fresh ? 2 : checkpoint_layers);
  const int64_t tokens = reader.IntWithin({"vocab_size", "ntoken"}, 1, kLargestSize,
                                          size(spec.embedding_key + ".weight", 0).value_or(64));
  const std::vector<absl::string_view> widths = {"embedding_size", "ninp", "emsize"},
                                       sizes = {"hidden_size", "nhid"}, ties = {"tie_weights", "tied"};
  const int64_t width =
      reader.IntWithin(widths, 1, kLargestSize, size(spec.embedding_key + ".weight", 1).value_or(32));
  const int64_t hidden =
      reader.IntWithin(sizes, 1, kLargestSize, size(recurrence + "weight_hh_l0", 1).value_or(32));
  const bool bias = reader.Bool({"bias"}, fresh || size(recurrence + "bias_hh_l0", 0).has_value());
  spec.head_bias = reader.Bool({"head_bias"}, fresh || size(spec.head_key + ".bias", 0).has_value());
  spec.tied = reader.Bool(ties, !fresh && !size(spec.head_key + ".weight", 0).has_value());
  EIGSVC_RETURN_IF_ERROR(reader.status());
  if (spec.tied && width != hidden) {
    return reader.Disagree("a tied head needs an embedding as wide as the state",
                           {reader.Spelt(ties), reader.Spelt(widths), reader.Spelt(sizes)});
  }
  spec.description.family = std::string(family);
  spec.description.layout = std::string(kTorchLayout);
  spec.description.width = width;
  spec.description.vocab_size = tokens;
  spec.head_width = hidden;
  spec.draw_deviation = 0.1;
  spec.layer_prefix = recurrence;
  spec.adjust = [](WeightSpec& weight) {
    if (weight.layer != WeightSpec::kOuter) weight.key += absl::StrCat("_l", weight.layer);
  };
  for (int64_t layer = 0; layer < layers; ++layer) {
    Sublayer& sublayer = spec.layers.emplace_back().emplace_back();
    sublayer.residual = false;
    Branch branch{std::make_unique<Rnn>("", RnnSpec{kind, layer == 0 ? width : hidden, hidden, bias})};
    sublayer.branches.push_back(std::move(branch));
  }
  EIGSVC_RETURN_IF_ERROR(reader.RefuseUnknown(typed, family));
  spec.description.settings = reader.Resolved(family, kTorchLayout);
  return spec;
}

absl::StatusOr<std::shared_ptr<const SequenceModel>> LoadRnn(const Archive& archive,
                                                             const Detection& detection,
                                                             const LoadOptions& options) {
  EIGSVC_ASSIGN_OR_RETURN(DecoderSpec spec, RnnDecoder(detection.family, detection.settings, detection.typed,
                                                       &archive, detection.layers));
  return LoadDecoder(std::move(spec), archive, options);
}

template <const absl::string_view& kFamily>
absl::StatusOr<std::shared_ptr<const SequenceModel>> InitializeRnn(const Settings& settings, uint64_t seed,
                                                                   const LoadOptions& options) {
  EIGSVC_ASSIGN_OR_RETURN(DecoderSpec spec, RnnDecoder(kFamily, settings, settings, nullptr, 0));
  return InitializeDecoder(std::move(spec), seed, options);
}

template <const absl::string_view& kFamily>
FamilyEntry Entry(absl::string_view summary, absl::string_view transition, absl::string_view reference) {
  return {kFamily, {std::string(kTorchLayout)}, summary,  transition, /*trainable=*/true,
          LoadRnn, InitializeRnn<kFamily>,      reference};
}

}  // namespace

FamilyEntry LstmFamily() {
  return Entry<kLstm>("LSTM language models of torch.nn",
                      "eigenvalues of the Jacobian ∂(h,c)_i/∂(h,c)_{i-1}, 2·hidden a step, complex",
                      "doi 10.1162/neco.1997.9.8.1735");
}

FamilyEntry GruFamily() {
  return Entry<kGru>("GRU language models of torch.nn",
                     "eigenvalues of the Jacobian ∂h_i/∂h_{i-1}, hidden a step, complex", "arXiv 1406.1078");
}

FamilyEntry RnnFamily() {
  return Entry<kRnn>("RNN language models of torch.nn, of tanh or ReLU",
                     "eigenvalues of the Jacobian ∂h_i/∂h_{i-1}, hidden a step, complex",
                     "doi 10.1207/s15516709cog1402_1");
}

}  // namespace eigsvc
