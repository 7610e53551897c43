// A block is LayerNorm (before, or behind the sum), the state-space model over [x | B | C | Δ] without gate
// or gated norm, GELU, GLU, sum. Before the blocks an embedding of tokens or a linear layer over real inputs,
// behind them pooling or none and a linear decoder with bias; no positions, no final norm.
#include "models/zoo/mamba2_paper.h"

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "models/base/status_macros.h"
#include "models/mixers/mamba2.h"
#include "models/mixers/residual_blocks.h"
#include "models/zoo/settings_reader.h"
#include "models/zoo/stack.h"
#include "models/zoo/weight_loader.h"

namespace eigsvc {
namespace {

// `archive`: null for a fresh model, as is `stored_layers`.
class PaperMamba2Reader {
 public:
  PaperMamba2Reader(const Settings& settings, const Settings& typed, const Archive* archive)
      : reader_(settings), typed_(typed), archive_(archive) {}

  absl::StatusOr<StackSpec> Spec(std::optional<int64_t> stored_layers) {
    StackSpec spec;
    const int64_t layers = reader_.IntWithin({"num_layers", "n_layer"}, 1, 4096, stored_layers.value_or(2));
    ReadEnds(spec);
    EIGSVC_RETURN_IF_ERROR(reader_.status());
    EIGSVC_ASSIGN_OR_RETURN(const Mamba2Spec mixer, ReadMixer(spec.description.width));
    EIGSVC_ASSIGN_OR_RETURN(const SsmBlockSpec block, ReadBlock(spec.description.width));
    EIGSVC_RETURN_IF_ERROR(ReadPooling(spec));
    EIGSVC_RETURN_IF_ERROR(RefuseOthers());
    for (int64_t layer = 0; layer < layers; ++layer) {
      spec.layers.push_back(std::make_unique<SsmBlock>(block, std::make_unique<Mamba2>("mixer.", mixer)));
    }
    spec.head_bias = true;
    spec.linear.defaults = LinearStyle::Defaults::kTorch;
    spec.outer_keys = {{"embedding", "encoder.word_embeddings"}, {"head", "decoder"}};
    spec.layer_prefix = "blocks.#.";
    spec.layer_keys = {{"mixer", "mamba"}};
    Departures& departures = spec.description.conventions.departures;
    departures.closed_bins = true;
    if (!mixer.time_invariant) {
      departures.layer_output = departures.count_padding = true;
      departures.skip_norm = block.prenorm;
    }
    EIGSVC_RETURN_IF_ERROR(reader_.RefuseUnknown(typed_, "mamba2 (paper)"));
    spec.description.family = "mamba2";
    spec.description.layout = "paper";
    spec.description.settings = reader_.Resolved("mamba2", "paper");
    return spec;
  }

 private:
  bool fresh() const { return archive_ == nullptr; }
  bool HasKey(const std::string& key) const { return !fresh() && archive_->tensors().contains(key); }
  std::optional<int64_t> Stored(const std::string& key, size_t dimension) const {
    return fresh() ? std::nullopt : StoredSize(*archive_, key, dimension);
  }
  std::optional<int64_t> StoredInMixer(const std::string& name, size_t dimension) const {
    return Stored(absl::StrCat("blocks.0.mamba.", name), dimension);
  }

  void ReadEnds(StackSpec& spec) {
    ModelDescription& description = spec.description;
    const std::optional<int64_t> words = Stored("encoder.word_embeddings.weight", 0);
    tokens_ = reader_.Bool({"token_embedding"}, fresh() || words.has_value());
    const std::optional<int64_t> width =
        tokens_ ? Stored("encoder.word_embeddings.weight", 1) : Stored("encoder.weight", 0);
    description.width = reader_.IntWithin({"hidden_dim", "d_model"}, 1, kLargestSize, width.value_or(64));
    if (tokens_) {
      spec.encoder = StackSpec::Encoder::kEmbedding;
      description.vocab_size = reader_.IntWithin({"vocab_size"}, 1, kLargestSize, words.value_or(64));
    } else {
      spec.encoder = StackSpec::Encoder::kLinear;
      description.channels =
          reader_.IntWithin({"input_dim"}, 1, kLargestSize, Stored("encoder.weight", 1).value_or(1));
    }
    description.classes =
        reader_.IntWithin({"output_dim"}, 1, kLargestSize,
                          Stored("decoder.weight", 0).value_or(tokens_ ? description.vocab_size : 10));
  }

  absl::StatusOr<Mamba2Spec> ReadMixer(int64_t width) {
    Mamba2Spec spec;
    spec.width = width;
    spec.gate = false;
    spec.time_invariant = reader_.Bool({"pseudoLTI"}, HasKey("blocks.0.mamba.A"));
    const std::optional<int64_t> inner = StoredInMixer("out_proj.weight", 1);
    const std::optional<int64_t> heads = StoredInMixer("D", 0);
    const int64_t expansion = reader_.IntWithin({"expansion", "expand"}, 1, 64,
                                                inner ? std::max<int64_t>(*inner / width, 1) : int64_t{1});
    EIGSVC_RETURN_IF_ERROR(reader_.status());
    // The reference's own num_heads counts the heads of width hidden_dim, before expansion.
    const int64_t heads_of_width = reader_.IntWithin(
        {"num_heads"}, 1, width, heads ? std::max<int64_t>(*heads / expansion, 1) : int64_t{1},
        {reader_.Spelt({"hidden_dim", "d_model"})});
    spec.taps = reader_.IntWithin({"conv_dim", "d_conv"}, 0, 64,
                                  fresh() ? int64_t{4} : StoredInMixer("conv1d.weight", 2).value_or(0));
    spec.groups = reader_.IntWithin({"ngroups"}, 1, kLargestSize, 1);
    EIGSVC_RETURN_IF_ERROR(reader_.status());
    spec.head_width = width / heads_of_width;
    spec.heads = expansion * width / spec.head_width;
    if (width % heads_of_width != 0) {
      return reader_.Disagree("the width does not divide into the heads",
                              {"num_heads", reader_.Spelt({"hidden_dim", "d_model"})});
    }
    std::optional<int64_t> order;  // the projection's rows are [x | B | C | Δ]
    if (const auto rows = StoredInMixer("in_proj.weight", 0)) {
      const int64_t both = *rows - spec.inner() - spec.step_rows();
      order = std::max<int64_t>(both / 2 / spec.groups, 1);
    }
    spec.order = reader_.IntWithin({"state_dim", "d_state"}, 1, kLargestSize, order.value_or(32));
    spec.learned_start = reader_.Bool({"learnable_init_states"}, HasKey("blocks.0.mamba.init_states"));
    spec.input_bias = spec.output_bias = reader_.Bool({"bias"}, HasKey("blocks.0.mamba.in_proj.bias"));
    EIGSVC_RETURN_IF_ERROR(reader_.status());
    EIGSVC_RETURN_IF_ERROR(reader_.Naming(
        spec.Check(),
        {"num_heads", reader_.Spelt({"expansion", "expand"}), reader_.Spelt({"hidden_dim", "d_model"}),
         "ngroups", reader_.Spelt({"state_dim", "d_state"}), "pseudoLTI"}));
    return spec;
  }

  absl::StatusOr<SsmBlockSpec> ReadBlock(int64_t width) {
    SsmBlockSpec block;
    block.width = width;
    block.norm = {NormSpec::Kind::kLayer, 1e-5};
    // Nothing in the weights tells whether the norm comes first: the authors used both.
    block.prenorm = reader_.Bool({"prenorm"}, fresh() ? std::optional<bool>(true) : std::nullopt);
    const bool glu = reader_.Bool({"glu"}, fresh() || HasKey("blocks.0.glu.linear.weight"));
    block.output = glu ? SsmBlockSpec::Output::kGlu : SsmBlockSpec::Output::kNone;
    block.dropout = reader_.Real({"dropout"}, 0);
    EIGSVC_RETURN_IF_ERROR(reader_.status());
    if (block.dropout < 0 || block.dropout >= 1) {
      return absl::InvalidArgumentError(
          absl::StrCat("setting \"dropout\" is ", block.dropout, "; it must be at least 0 and below 1"));
    }
    return block;
  }

  absl::Status ReadPooling(StackSpec& spec) {
    // Of a checkpoint's weights, only a decoder onto the vocabulary tells that there is none.
    const bool decodes = tokens_ && spec.description.classes == spec.description.vocab_size;
    const std::string pooling =
        reader_.Text({"pooling"}, fresh() || decodes ? std::optional<std::string>("none") : std::nullopt);
    EIGSVC_RETURN_IF_ERROR(reader_.status());
    EIGSVC_ASSIGN_OR_RETURN(
        spec.pooling, PoolingOf(pooling, {Pooling::kNone, Pooling::kMean, Pooling::kMax, Pooling::kLast}));
    return absl::OkStatus();
  }

  absl::Status RefuseOthers() {
    const std::string version = reader_.Text({"version"}, "mamba2"), norm = reader_.Text({"norm"}, "layer");
    const bool dual = reader_.Bool({"dual"}, false);
    reader_.Text({"layer"}, "mamba");
    // Of other models of the same code.
    reader_.Ignore({"input_dim", "vocab_size", "embedding", "mixer", "mixer_dim", "classifier", "att_dropout",
                    "max_pos_embed"});
    EIGSVC_RETURN_IF_ERROR(reader_.status());
    const auto refuse = [](absl::string_view name, absl::string_view value, absl::string_view supported) {
      return absl::FailedPreconditionError(absl::StrCat("setting \"", name, "\" is ", value,
                                                        "; the paper's Mamba-2 is read with ", supported));
    };
    if (version != "mamba2") return refuse("version", version, "\"mamba2\"");
    if (norm != "layer") return refuse("norm", norm, "\"layer\"");
    if (dual) return refuse("dual", "true (two documents are matched)", "false");
    return absl::OkStatus();
  }

  SettingsReader reader_;
  const Settings& typed_;
  const Archive* archive_;
  bool tokens_ = true;  // or real inputs
};

}  // namespace

absl::StatusOr<std::shared_ptr<const SequenceModel>> LoadPaperMamba2(const Archive& archive,
                                                                     const Detection& detection,
                                                                     const LoadOptions& options) {
  PaperMamba2Reader reader(detection.settings, detection.typed, &archive);
  EIGSVC_ASSIGN_OR_RETURN(StackSpec spec, reader.Spec(detection.layers));
  return LoadStack(std::move(spec), archive, options);
}

absl::StatusOr<std::shared_ptr<const SequenceModel>> InitializePaperMamba2(const Settings& settings,
                                                                           uint64_t seed,
                                                                           const LoadOptions& options) {
  PaperMamba2Reader reader(settings, settings, nullptr);
  EIGSVC_ASSIGN_OR_RETURN(StackSpec spec, reader.Spec(std::nullopt));
  return InitializeStack(std::move(spec), seed, options);
}

}  // namespace eigsvc
