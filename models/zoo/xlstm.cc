// xLSTM (arXiv 2405.04517): xLSTM-7B and its kin (arXiv 2503.13427) as Hugging Face stores them, of mLSTM
// layers alone, and the models of the xLSTM library, of mLSTM and sLSTM blocks.
#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "models/base/status_macros.h"
#include "models/mixers/feed_forward.h"
#include "models/mixers/mlstm.h"
#include "models/mixers/slstm.h"
#include "models/zoo/decoder.h"
#include "models/zoo/families.h"
#include "models/zoo/load_by_settings.h"
#include "models/zoo/settings_reader.h"
#include "models/zoo/weight_loader.h"

namespace eigsvc {
namespace {

// Both initialise alike.
void SetDraws(int64_t layers, DecoderSpec& spec) {
  const auto width = static_cast<double>(spec.description.width);
  spec.draw_deviation = std::sqrt(2 / (5 * width));
  spec.residual_draw_deviation = 2 / static_cast<double>(layers) / std::sqrt(width);
}

int64_t RoundedUp(int64_t size, int64_t multiple) { return (size + multiple - 1) / multiple * multiple; }

// The number of blocks; that of a checkpoint is known.
int64_t ReadDepth(SettingsReader& reader, SettingsReader::Names names, const Archive* archive,
                  int64_t found) {
  const int64_t depth = reader.IntWithin(names, 1, 4096, archive ? found : 2);
  if (archive != nullptr && depth != found) {
    reader.Fail(reader.Naming(absl::FailedPreconditionError(
                                  absl::StrCat("the checkpoint has ", found, " blocks, the settings others")),
                              {reader.Spelt(names)}));
  }
  return depth;
}

void Add(std::unique_ptr<const Module> module, const std::string& norm, std::vector<Sublayer>& sublayers) {
  Branch branch{std::move(module), norm};
  sublayers.emplace_back().branches.push_back(std::move(branch));
}

absl::StatusOr<DecoderSpec> HuggingFaceSpec(const Settings& settings, const Settings& typed,
                                            const Archive* archive, int64_t layers) {
  SettingsReader reader(settings);
  const auto stored = [&](const std::string& key, size_t dimension, std::optional<int64_t> fresh) {
    return archive ? StoredSize(*archive, key, dimension) : fresh;
  };
  DecoderSpec spec;
  layers = ReadDepth(reader, {"num_hidden_layers", "num_blocks"}, archive, layers);
  MlstmLayerSpec mixer;
  mixer.width = reader.IntWithin({"hidden_size", "embedding_dim"}, 1, kLargestSize,
                                 stored("backbone.embeddings.weight", 1, 32));
  const std::string mode = reader.Choice({"weight_mode"}, {"single", "fused"}, "single");
  mixer.fused = mode == "fused";
  std::optional<int64_t> heads =
      stored(absl::StrCat("backbone.blocks.0.mlstm_layer.", mixer.fused ? "if" : "i", "gate_preact.bias"), 0,
             mixer.fused ? 4 : 2);
  if (heads && mixer.fused) *heads /= 2;
  mixer.cell.heads = reader.IntWithin({"num_heads"}, 1, 65536, heads);
  const auto width = static_cast<double>(mixer.width);
  const int64_t keys = WholePart(width * reader.Real({"qk_dim_factor"}, 0.5)),
                values = WholePart(width * reader.Real({"v_dim_factor"}, 1));
  if (reader.status().ok() && (keys < 1 || values < 1 || keys > kLargestSize || values > kLargestSize ||
                               keys % mixer.cell.heads != 0 || values % mixer.cell.heads != 0)) {
    reader.Fail(reader.Disagree(
        absl::StrCat(keys, " keys and ", values, " values do not divide into the heads"),
        {"num_heads", reader.Spelt({"hidden_size", "embedding_dim"}), "qk_dim_factor", "v_dim_factor"}));
  }
  mixer.cell.eps = reader.Positive({"eps"}, 1e-6);
  mixer.norm_eps = reader.NonNegative({"norm_eps"}, 1e-6);
  mixer.gate_cap = reader.Positive({"gate_soft_cap"}, 15);
  spec.logits_cap = reader.Positive({"output_logit_soft_cap"}, 30);
  FeedForwardSpec network;
  network.width = mixer.width;
  network.fused_gate = mixer.fused;
  const int64_t multiple = reader.IntWithin({"ffn_round_up_to_multiple_of"}, 1, kLargestSize, 64);
  // Rounded up without its fraction.
  network.hidden = RoundedUp(WholePart(width * reader.Real({"ffn_proj_factor"}, 2.667)), multiple);
  if (reader.status().ok() && (network.hidden < 1 || network.hidden > kLargestSize)) {
    reader.Fail(reader.Disagree(
        absl::StrCat("a network cannot be ", network.hidden, " wide"),
        {"ffn_proj_factor", "ffn_round_up_to_multiple_of", reader.Spelt({"hidden_size", "embedding_dim"})}));
  }
  for (const auto& [name, supported] : {std::pair("use_bias", false), std::pair("add_out_norm", true),
                                        std::pair("tie_word_embeddings", false)}) {
    if (reader.Bool({name}, supported) != supported) {
      reader.Fail(absl::FailedPreconditionError(absl::StrCat("setting \"", name, "\" is ",
                                                             supported ? "false" : "true", "; only ",
                                                             supported ? "true" : "false", " is supported")));
    }
  }
  spec.description.vocab_size =
      reader.IntWithin({"vocab_size"}, 1, kLargestSize, stored("backbone.embeddings.weight", 0, 64));
  EIGSVC_RETURN_IF_ERROR(reader.status());
  mixer.cell.key_size = keys / mixer.cell.heads;
  mixer.cell.value_size = values / mixer.cell.heads;
  spec.description.width = mixer.width;
  spec.norm = {NormSpec::Kind::kRms, mixer.norm_eps};
  spec.embedding_key = "backbone.embeddings";
  spec.norm_key = "backbone.out_norm";
  spec.layer_prefix = "backbone.blocks.#.";
  spec.layer_keys = {{"ffn.gate_proj", mixer.fused ? "ffn.proj_up_gate_z" : "ffn.proj_up_gate"},
                     {"ffn.up_proj", "ffn.proj_up"},
                     {"ffn.down_proj", "ffn.proj_down"}};
  SetDraws(layers, spec);
  for (int64_t layer = 0; layer < layers; ++layer) {
    std::vector<Sublayer>& sublayers = spec.layers.emplace_back();
    Add(std::make_unique<MlstmLayer>("mlstm_layer.", mixer), "norm_mlstm", sublayers);
    Add(std::make_unique<GatedFeedForward>("ffn.", network), "norm_ffn", sublayers);
  }
  // How it is computed there.
  reader.Ignore({"norm_reduction_force_float32", "chunkwise_kernel", "sequence_kernel", "step_kernel", "mode",
                 "chunk_size", "return_last_states", "autocast_kernel_dtype", "inference_state_dtype",
                 "max_inference_chunksize"});
  EIGSVC_RETURN_IF_ERROR(reader.RefuseUnknown(typed, "xlstm"));
  spec.description.settings = reader.Resolved("xlstm", "huggingface");
  return spec;
}

// The library's settings, which its checkpoints come without: their shapes decide what nothing states.
class LibraryReader {
 public:
  LibraryReader(SettingsReader& reader, const Archive* archive) : reader_(reader), archive_(archive) {}

  // Of a block's tensor after "xlstm."; `fresh` where there is no checkpoint.
  std::optional<int64_t> Stored(int64_t block, absl::string_view rest, size_t dimension,
                                std::optional<int64_t> fresh) const {
    return archive_ ? StoredSize(*archive_, Key(block, rest), dimension) : fresh;
  }
  bool Contains(int64_t block, absl::string_view rest) const {
    return archive_ != nullptr && archive_->tensors().contains(Key(block, rest));
  }

  MlstmBlockSpec ReadMlstm(int64_t block, int64_t width, int64_t depth) const {
    MlstmBlockSpec spec;
    spec.width = width;
    spec.depth = depth;
    const double factor = reader_.Real({"mlstm_block.mlstm.proj_factor"}, 2);
    spec.inner =
        reader_.IntWithin({"mlstm_block.mlstm._inner_embedding_dim"}, 1, kLargestSize,
                          Stored(block, "xlstm.proj_down.weight", 1,
                                 RoundedUp(WholePart(std::ceil(static_cast<double>(width) * factor)), 64)),
                          {"mlstm_block.mlstm.proj_factor", "embedding_dim"});
    spec.cell.heads = reader_.IntWithin({"mlstm_block.mlstm.num_heads"}, 1, 65536,
                                        Stored(block, "xlstm.mlstm_cell.igate.bias", 0, 2));
    spec.taps = reader_.IntWithin({"mlstm_block.mlstm.conv1d_kernel_size"}, 1, 1024,
                                  Stored(block, "xlstm.conv1d.conv.weight", 2, 4));
    const int64_t size = reader_.IntWithin({"mlstm_block.mlstm.qkv_proj_blocksize"}, 1, kLargestSize,
                                           Stored(block, "xlstm.q_proj.weight", 1, 4));
    spec.bias = reader_.Bool({"bias"}, Contains(block, "xlstm.proj_up.bias"));
    // Its parallel form takes the largest of the inputs so far for its unit.
    spec.cell.first_unit = -std::numeric_limits<double>::infinity();
    spec.blocks = std::max<int64_t>(spec.inner / size, 1);
    if (!reader_.status().ok()) return spec;
    if (spec.inner % spec.cell.heads != 0 || spec.inner % spec.blocks != 0 || size > spec.inner) {
      reader_.Fail(reader_.Disagree(
          absl::StrCat("the inner width, ", spec.inner, ", does not divide into heads and blocks"),
          {"mlstm_block.mlstm.num_heads", "mlstm_block.mlstm.qkv_proj_blocksize",
           "mlstm_block.mlstm._inner_embedding_dim", "mlstm_block.mlstm.proj_factor", "embedding_dim"}));
      return spec;
    }
    spec.cell.key_size = spec.cell.value_size = spec.inner / spec.cell.heads;
    return spec;
  }

  SlstmSpec ReadSlstm(int64_t block, int64_t width) const {
    const std::string kernel = "xlstm.slstm_cell._recurrent_kernel_";
    SlstmSpec spec;
    spec.width = width;
    spec.heads = reader_.IntWithin({"slstm_block.slstm.num_heads"}, 1, 65536, Stored(block, kernel, 0, 4));
    spec.taps = reader_.IntWithin(
        {"slstm_block.slstm.conv1d_kernel_size"}, 0, 1024,
        archive_ ? Stored(block, "xlstm.conv1d.conv.weight", 2, 0).value_or(0) : int64_t{4});
    spec.norm_weight = reader_.Bool({"slstm_block.slstm.group_norm_weight"},
                                    archive_ == nullptr || Contains(block, "xlstm.group_norm.weight"));
    const bool wide = Stored(block, kernel, 2, 0).value_or(0) > Stored(block, kernel, 1, 0).value_or(0);
    spec.cuda_layout = reader_.Choice({"slstm_block.slstm.backend"}, {"vanilla", "cuda"},
                                      wide ? "cuda" : "vanilla") == "cuda";
    reader_.Choice({"slstm_block.slstm.function"}, {"slstm"}, "slstm");
    if (reader_.status().ok() && width % spec.heads != 0) {
      reader_.Fail(reader_.Disagree("the width does not divide into the heads of sLSTM blocks",
                                    {"slstm_block.slstm.num_heads", "embedding_dim"}));
    }
    return spec;
  }

  FeedForwardSpec ReadNetwork(int64_t block, int64_t width) const {
    FeedForwardSpec spec;
    spec.width = width;
    spec.fused_gate = true;
    const double factor = reader_.Real({"slstm_block.feedforward.proj_factor"}, 1.3);
    spec.hidden =
        reader_.IntWithin({"slstm_block.feedforward._proj_up_dim"}, 1, kLargestSize,
                          Stored(block, "ffn.proj_down.weight", 1,
                                 RoundedUp(WholePart(std::ceil(static_cast<double>(width) * factor)), 64)),
                          {"slstm_block.feedforward.proj_factor", "embedding_dim"});
    spec.bias = reader_.Bool({"slstm_block.feedforward.bias"}, Contains(block, "ffn.proj_up.bias"));
    const std::string name = reader_.Choice({"slstm_block.feedforward.act_fn"},
                                            {"gelu", "relu", "relu^2", "sigmoid", "swish"}, "gelu");
    spec.activation = name == "relu"      ? Activation::kRelu
                      : name == "relu^2"  ? Activation::kReluSquared
                      : name == "sigmoid" ? Activation::kSigmoid
                      : name == "swish"   ? Activation::kSilu
                                          : Activation::kGelu;
    return spec;
  }

 private:
  static std::string Key(int64_t block, absl::string_view rest) {
    return absl::StrCat("xlstm_block_stack.blocks.", block, ".", rest);
  }

  SettingsReader& reader_;
  const Archive* const archive_;
};

absl::StatusOr<DecoderSpec> LibrarySpec(const Settings& settings, const Settings& typed,
                                        const Archive* archive, int64_t layers) {
  SettingsReader reader(settings);
  const LibraryReader library(reader, archive);
  const auto contains = [&](const char* key) {
    return archive != nullptr && archive->tensors().contains(key);
  };
  DecoderSpec spec;
  layers = ReadDepth(reader, {"num_blocks", "num_hidden_layers"}, archive, layers);
  EIGSVC_RETURN_IF_ERROR(reader.status());
  const auto size = [&](size_t dimension, int64_t fresh) {
    return archive ? StoredSize(*archive, "token_embedding.weight", dimension)
                   : std::optional<int64_t>(fresh);
  };
  const int64_t width = reader.IntWithin({"embedding_dim", "hidden_size"}, 1, kLargestSize, size(1, 16));
  std::vector<int64_t> found;
  for (int64_t block = 0; block < layers; ++block) {
    if (archive ? library.Contains(block, "xlstm.slstm_cell._bias_") : block == 1) found.push_back(block);
  }
  const std::vector<int64_t> at = reader.Ints({"slstm_at"}, found);
  const std::set<int64_t> scalar(at.begin(), at.end());
  if (reader.status().ok() && (!scalar.empty() && (*scalar.begin() < 0 || *scalar.rbegin() >= layers))) {
    reader.Fail(reader.Disagree(absl::StrCat("there are ", layers, " blocks"), {"slstm_at", "num_blocks"}));
  }
  if (archive != nullptr && scalar != std::set<int64_t>(found.begin(), found.end())) {
    reader.Fail(reader.Naming(
        absl::FailedPreconditionError("the checkpoint has sLSTM in other blocks than the settings say"),
        {"slstm_at"}));
  }
  EIGSVC_RETURN_IF_ERROR(reader.status());
  MlstmBlockSpec matrix;
  SlstmSpec slstm;
  FeedForwardSpec network;
  for (int64_t block = 0; block < layers && matrix.width == 0; ++block) {
    if (scalar.count(block) == 0) matrix = library.ReadMlstm(block, width, layers);
  }
  if (!scalar.empty()) {
    slstm = library.ReadSlstm(*scalar.begin(), width);
    slstm.layers = layers;
    network = library.ReadNetwork(*scalar.begin(), width);
  }
  spec.description.vocab_size = reader.IntWithin({"vocab_size"}, 1, kLargestSize, size(0, 64));
  spec.tied = reader.Bool({"tie_weights"}, archive != nullptr && !contains("lm_head.weight"));
  const bool norm_last = reader.Bool(
      {"add_post_blocks_norm"}, archive == nullptr || contains("xlstm_block_stack.post_blocks_norm.weight"));
  EIGSVC_RETURN_IF_ERROR(reader.status());
  spec.description.width = width;
  spec.norm = {NormSpec::Kind::kLayerPlusOne, 1e-5};
  spec.embedding_key = "token_embedding";
  spec.norm_key = norm_last ? "xlstm_block_stack.post_blocks_norm" : "";
  spec.layer_prefix = "xlstm_block_stack.blocks.#.";
  spec.layer_keys = {{"ffn.gate_proj", "ffn.proj_up"}, {"ffn.down_proj", "ffn.proj_down"}};
  SetDraws(layers, spec);
  for (int64_t layer = 0; layer < layers; ++layer) {
    std::vector<Sublayer>& sublayers = spec.layers.emplace_back();
    if (scalar.count(layer) == 0) {
      Add(std::make_unique<MlstmBlock>("xlstm.", matrix), "xlstm_norm", sublayers);
      continue;
    }
    slstm.layer = layer;
    Add(std::make_unique<SlstmLayer>("xlstm.", slstm), "xlstm_norm", sublayers);
    Add(std::make_unique<GatedFeedForward>("ffn.", network), "ffn_norm", sublayers);
  }
  // What training does, and what follows from the rest.
  reader.Ignore({"mlstm_block", "slstm_block", "context_length", "dropout", "weight_decay_on_embedding",
                 "add_embedding_dropout", "_block_map", "bias"});
  EIGSVC_RETURN_IF_ERROR(reader.RefuseUnknown(typed, "xlstm"));
  spec.description.settings = reader.Resolved("xlstm", "nx-ai");
  return spec;
}

absl::StatusOr<DecoderSpec> XlstmSpec(const Settings& settings, const Settings& typed,
                                      const std::string& layout, const Archive* archive, int64_t layers) {
  EIGSVC_ASSIGN_OR_RETURN(DecoderSpec spec, layout == "huggingface"
                                                ? HuggingFaceSpec(settings, typed, archive, layers)
                                                : LibrarySpec(settings, typed, archive, layers));
  spec.description.family = "xlstm";
  spec.description.layout = layout;
  spec.description.conventions.gauges = {Gauge::kDsf, Gauge::kRaw};
  return spec;
}

constexpr absl::string_view kNxAi = "nx-ai";

}  // namespace

FamilyEntry XlstmFamily() {
  return {
      "xlstm",
      {std::string(kNxAi), "huggingface"},
      "xLSTM: matrix memories (mLSTM) with exponential gates, and scalar ones (sLSTM) whose gates read the "
      "last output",
      "mLSTM: λ = f_i·η_{i-1}/η_i per head; sLSTM: of the Jacobian ∂(c,n,h)_i/∂(c,n,h)_{i-1} per head, "
      "η_i = max(|n_iᵀq_i|, 1); gauge raw: f_i, in (0,1)",
      /*trainable=*/true,
      LoadLayout<XlstmSpec>,
      InitializeLayout<XlstmSpec, kNxAi>,
      "arXiv 2405.04517"};
}

}  // namespace eigsvc
