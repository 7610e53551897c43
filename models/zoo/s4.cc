// S4 and S4D as the state-spaces/s4 repository stores them (versions 2 to 4): in its training framework's
// backbone ("model.layers.N."), or in example.py's ("s4_layers.N."), where the minimal S4D lives. S4 of
// arXiv 2510.09379 is in paper_ssm.cc.
#include "models/mixers/s4.h"

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "models/base/status_macros.h"
#include "models/mixers/residual_blocks.h"
#include "models/mixers/s4d.h"
#include "models/tensor/from_archive.h"
#include "models/tensor/torch_call.h"
#include "models/zoo/families.h"
#include "models/zoo/paper_ssm.h"
#include "models/zoo/s4_names.h"
#include "models/zoo/settings_reader.h"
#include "models/zoo/stack.h"
#include "models/zoo/weight_loader.h"

namespace eigsvc {
namespace {

class S4Reader {
 public:
  // `archive`: null for a fresh model. `typed`: those of the settings that a user typed.
  S4Reader(std::string family, std::string layout, const Settings& settings, const Settings& typed,
           const Archive* archive)
      : family_(std::move(family)),
        layout_(std::move(layout)),
        minimal_(layout_ == "minimal"),
        diagonal_(family_ == "s4d"),
        typed_(typed),
        archive_(archive),
        reader_(settings) {}

  absl::StatusOr<StackSpec> Spec(std::optional<int64_t> layers) {
    if (archive_ != nullptr) {
      EIGSVC_ASSIGN_OR_RETURN(found_, FindS4Names(*archive_, minimal_));
      if (!minimal_) {
        reader_.Text({"backbone"}, std::string(found_.backbone));
        reader_.Text({"version"}, std::string(found_.version));
      }
    } else {
      EIGSVC_ASSIGN_OR_RETURN(found_, ChooseS4Names(reader_, minimal_, diagonal_));
    }
    example_ = found_.backbone == "example";
    const int64_t count = reader_.IntWithin({"n_layers", "model.n_layers"}, 1, 4096, layers.value_or(2));
    StackSpec spec;
    EIGSVC_RETURN_IF_ERROR(ReadEnds(spec));
    EIGSVC_ASSIGN_OR_RETURN(const SsmBlockSpec block, ReadBlock(spec));
    EIGSVC_ASSIGN_OR_RETURN(const StateSpaceStorage storage, ReadStorage(spec.description.width));
    S4Spec s4{storage, Stored("P", 0).value_or(1)};
    S4dSpec s4d{storage, minimal_};
    if (diagonal_ && !minimal_) {
      s4d.bilinear = reader_.Choice({"disc", "model.layer.disc"}, {"zoh", "bilinear"}, "zoh") == "bilinear";
    } else if (!diagonal_) {
      s4.rank = reader_.IntWithin({"rank", "model.layer.rank"}, 1, 64, s4.rank);
      EIGSVC_ASSIGN_OR_RETURN(s4.length, ReadLength());
      spec.description.max_positions = s4.length;
    }
    EIGSVC_RETURN_IF_ERROR(reader_.status());
    SsmBlockSpec wide = block;
    wide.mixed_width = storage.outputs * storage.width;
    for (int64_t layer = 0; layer < count; ++layer) {
      std::unique_ptr<const Module> mixer;
      if (diagonal_) {
        mixer = std::make_unique<S4d>("mixer.", s4d);
      } else {
        mixer = std::make_unique<S4>("mixer.", s4);
      }
      spec.layers.push_back(std::make_unique<SsmBlock>(wide, std::move(mixer)));
    }
    NameKeys(spec);
    EIGSVC_RETURN_IF_ERROR(reader_.RefuseUnknown(typed_, family_));
    spec.description.family = family_;
    spec.description.layout = layout_;
    spec.description.settings = reader_.Resolved(family_, layout_);
    return spec;
  }

 private:
  bool fresh() const { return archive_ == nullptr; }
  // A dimension of the first layer's kernel parameter.
  std::optional<int64_t> Stored(absl::string_view name, size_t dimension) const {
    return fresh() ? std::nullopt : StoredSize(*archive_, found_.Key(name), dimension);
  }
  std::optional<int64_t> StoredOutside(const std::string& key, size_t dimension) const {
    return fresh() ? std::nullopt : StoredSize(*archive_, key, dimension);
  }
  std::string encoder() const { return example_ ? "encoder" : "encoder.0"; }
  std::string decoder() const { return example_ ? "decoder" : "decoder.0.output_transform"; }

  absl::Status ReadEnds(StackSpec& spec) {
    ModelDescription& description = spec.description;
    const std::string weight = encoder() + ".weight";
    // A linear layer has a bias, an embedding has none.
    const bool stored_tokens = StoredOutside(weight, 0) && !StoredOutside(encoder() + ".bias", 0);
    const bool tokens = !example_ && reader_.Bool({"token_embedding"}, fresh() || stored_tokens);
    description.width = reader_.IntWithin({"d_model", "model.d_model"}, 1, kLargestSize,
                                          StoredOutside(weight, tokens ? 1 : 0).value_or(64));
    if (tokens) {
      spec.encoder = StackSpec::Encoder::kEmbedding;
      description.vocab_size =
          reader_.IntWithin({"vocab_size"}, 1, kLargestSize, StoredOutside(weight, 0).value_or(64));
    } else {
      // Tokens may come as one-hot vectors.
      spec.encoder = StackSpec::Encoder::kOneHot;
      description.channels = reader_.IntWithin({"d_input", "vocab_size"}, 1, kLargestSize,
                                               StoredOutside(weight, 1).value_or(64));
      description.vocab_size = description.channels > 1 ? description.channels : 0;
    }
    description.classes =
        reader_.IntWithin({"d_output"}, 1, kLargestSize,
                          StoredOutside(decoder() + ".weight", 0)
                              .value_or(tokens ? description.vocab_size : description.channels));
    spec.head_bias = true;
    // example.py always takes the mean; elsewhere no weight tells, nor does the configuration: decoder.mode
    // is "last" whether the data set asks once a sequence or at each step, which its class alone says
    // (l_output).
    const std::optional<std::string> pooled = example_  ? std::optional<std::string>("mean")
                                              : fresh() ? std::optional<std::string>("none")
                                                        : std::nullopt;
    const std::string pooling = reader_.Text({"pooling"}, pooled);
    EIGSVC_RETURN_IF_ERROR(reader_.status());
    EIGSVC_ASSIGN_OR_RETURN(spec.pooling, PoolingOf(pooling, {Pooling::kNone, Pooling::kMean, Pooling::kSum,
                                                              Pooling::kFirst, Pooling::kLast}));
    return absl::OkStatus();
  }

  absl::StatusOr<SsmBlockSpec> ReadBlock(StackSpec& spec) {
    SsmBlockSpec block;
    block.width = spec.description.width;
    block.output = SsmBlockSpec::Output::kGlu;
    block.output_is_conv = minimal_;
    block.prenorm =
        reader_.Bool({"prenorm", "model.prenorm"}, fresh() ? std::optional<bool>(true) : std::nullopt);
    block.dropout = reader_.Dropout({"dropout", "model.dropout"});
    block.mixer_dropout = minimal_ ? 0 : block.dropout;
    block.tied_dropout = minimal_ || reader_.Bool({"tie_dropout", "model.tie_dropout"}, false);
    // These change the numbers and show in no weight.
    reader_.Choice({"activation", "model.layer.activation"}, {"gelu"}, "gelu");
    reader_.Choice({"mult_act", "model.layer.mult_act"}, {"id"}, "id");
    reader_.Choice({"residual", "model.residual"}, {"R", "residual"}, "R");
    std::string norm = "layer";
    if (!example_) {
      const bool batch = StoredOutside("model.layers.0.norm.norm.running_mean", 0).has_value();
      if (StoredOutside("model.layers.0.norm.norm.m", 0)) {
        return absl::FailedPreconditionError(
            "this model's norms have scalar gains (model.layers.0.norm.norm.m, transposed: true); norms with "
            "a "
            "gain a channel are supported");
      }
      norm = reader_.Choice({"norm", "model.norm"}, {"layer", "batch"}, batch ? "batch" : "layer");
    }
    EIGSVC_RETURN_IF_ERROR(reader_.status());
    block.norm = {norm == "batch" ? NormSpec::Kind::kBatch : NormSpec::Kind::kLayer, 1e-5};
    if (!example_ && block.prenorm) spec.norm = block.norm;
    return block;
  }

  absl::StatusOr<StateSpaceStorage> ReadStorage(int64_t width) {
    StateSpaceStorage storage;
    storage.width = width;
    const int64_t stored_order = Stored(found_.decay, 1).value_or(8);
    const int64_t states = reader_.IntWithin({"d_state", "model.layer.d_state"}, 2, 8192, 2 * stored_order);
    storage.order = states / 2;
    storage.legs = !diagonal_;
    storage.positive_frequency = found_.version != "4";
    storage.flat_step = found_.version != "4";
    storage.least_step = reader_.Real({"dt_min", "model.layer.dt_min"}, 0.001);
    storage.largest_step = reader_.Real({"dt_max", "model.layer.dt_max"}, 0.1);
    if (states % 2 != 0) {
      return absl::InvalidArgumentError(absl::StrCat("setting \"d_state\" is ", states, "; it must be even"));
    }
    EIGSVC_RETURN_IF_ERROR(reader_.status());
    if (!(storage.least_step > 0 && storage.least_step <= storage.largest_step)) {
      return absl::InvalidArgumentError(absl::StrCat("settings dt_min = ", storage.least_step,
                                                     " and dt_max = ", storage.largest_step,
                                                     " must rise above 0"));
    }
    if (minimal_) return storage;
    const std::vector<absl::string_view> copies = {"n_ssm", "model.layer.n_ssm"};
    const absl::string_view width_name = reader_.Spelt({"d_model", "model.d_model"});
    storage.copies = reader_.IntWithin(copies, 1, width, Stored(found_.decay, 0).value_or(1), {width_name});
    storage.outputs =
        reader_.IntWithin({"channels", "model.layer.channels"}, 1, 64, Stored("C", 0).value_or(1));
    const bool both_ways = reader_.Bool({"bidirectional", "model.layer.bidirectional"}, false);
    EIGSVC_RETURN_IF_ERROR(reader_.status());
    if (both_ways || Stored("C", 0).value_or(0) > StoredOutputs().value_or(storage.outputs)) {
      return absl::FailedPreconditionError(
          "this model is bidirectional (setting \"bidirectional\", or a kernel C of more rows than "
          "\"channels\" "
          "says): its convolution looks ahead, so that no state runs forward alone; causal ones are "
          "supported");
    }
    if (width % storage.copies != 0) {
      return reader_.Disagree("the copies of the state do not divide the width",
                              {reader_.Spelt(copies), width_name});
    }
    if (found_.version == "4") {
      // The code's default is exp, that of its configurations softplus, and no weight tells.
      EIGSVC_ASSIGN_OR_RETURN(storage.step,
                              ReadTransform(reader_, {"dt_transform", "model.layer.dt_transform"},
                                            fresh() ? std::optional<std::string>("exp") : std::nullopt));
      EIGSVC_ASSIGN_OR_RETURN(
          storage.frequency,
          ReadTransform(reader_, {"imag_transform", "model.layer.imag_transform"}, "none"));
    }
    EIGSVC_ASSIGN_OR_RETURN(
        storage.decay,
        ReadTransform(reader_, {"real_transform", "model.layer.real_transform", "model.layer.real_type"},
                      "exp"));
    return storage;
  }

  // The number of outputs a channel by D, whose rows are not doubled by a bidirectional kernel.
  std::optional<int64_t> StoredOutputs() const {
    return fresh() ? std::nullopt : StoredSize(*archive_, found_.Key("D", /*in_kernel=*/false), 0);
  }

  // The length of the kernel that C belongs to: a buffer of the file, or a setting.
  absl::StatusOr<int64_t> ReadLength() {
    std::optional<int64_t> stored;
    for (const char* name : {"l_kernel", "L"}) {
      if (fresh()) break;
      const auto found = archive_->tensors().find(found_.Key(name));
      if (found == archive_->tensors().end()) continue;
      EIGSVC_ASSIGN_OR_RETURN(const at::Tensor length, TensorFromArchive(found->second));
      EIGSVC_ASSIGN_OR_RETURN(stored, CallTorch(name, [&] { return length.item<int64_t>(); }));
    }
    if (stored == 0) {
      return absl::FailedPreconditionError(absl::StrCat(
          found_.Key("l_kernel"),
          " is 0: the model was saved before it ran, so that its C is still that of no length; run "
          "it once and save it again"));
    }
    // The buffer knows better than what the data set's length was said to be.
    if (stored) return reader_.IntWithin({"l_kernel"}, 1, kLargestSize, stored);
    return reader_.IntWithin({"l_kernel", "l_max", "model.layer.l_max"}, 1, kLargestSize,
                             fresh() ? std::optional<int64_t>(1024) : std::nullopt);
  }

  void NameKeys(StackSpec& spec) const {
    const S4Names& place = found_;
    spec.linear.defaults = LinearStyle::Defaults::kTorch;
    spec.outer_keys = {
        {"embedding", encoder()}, {"encoder", encoder()}, {"head", decoder()}, {"norm", "model.norm.norm"}};
    spec.layer_prefix = "";
    const std::string layer(place.layer), inner = absl::StrCat(place.layer, place.inner);
    const std::string kernel = absl::StrCat(inner, place.kernel);
    // The block's output lies beside the convolution in version 4, and in it before.
    const std::string output = example_ ? layer : layer + "layer.";
    spec.layer_keys = {{"norm", example_ ? "norms.#" : "model.layers.#.norm.norm"},
                       {"mixer.", inner},
                       {"mixer.kernel.", kernel},
                       {"mixer.kernel.A_real", kernel + place.decay},
                       {"mixer.kernel.A_imag", kernel + place.frequency},
                       {"glu.linear", output + "output_linear.0"}};
    if (place.version == "3" || place.version == "2")
      spec.layer_keys.emplace_back("mixer.kernel.inv_dt", kernel + "log_dt");
    spec.ignored_keys = {"*.l_kernel", "*.kernel.L", "*.kernel.omega", "*.kernel.z", "*.num_batches_tracked"};
  }

  const std::string family_, layout_;
  const bool minimal_, diagonal_;
  const Settings& typed_;
  const Archive* const archive_;
  SettingsReader reader_;
  S4Names found_;
  bool example_ = false;
};

absl::StatusOr<std::shared_ptr<const SequenceModel>> LoadS4(const Archive& archive,
                                                            const Detection& detection,
                                                            const LoadOptions& options) {
  if (detection.layout == "paper") return LoadPaperSsm(archive, detection, options);
  EIGSVC_ASSIGN_OR_RETURN(StackSpec spec, S4Reader(detection.family, detection.layout, detection.settings,
                                                   detection.typed, &archive)
                                              .Spec(detection.layers));
  return LoadStack(std::move(spec), archive, options);
}

absl::StatusOr<std::shared_ptr<const SequenceModel>> InitializeS4(const Settings& settings, uint64_t seed,
                                                                  const LoadOptions& options) {
  EIGSVC_ASSIGN_OR_RETURN(const std::string layout, settings.TextOr("layout", "paper"));
  if (layout == "paper") return InitializePaperSsm("s4", layout, settings, seed, options);
  EIGSVC_ASSIGN_OR_RETURN(StackSpec spec,
                          S4Reader("s4", layout, settings, settings, nullptr).Spec(std::nullopt));
  return InitializeStack(std::move(spec), seed, options);
}

absl::StatusOr<std::shared_ptr<const SequenceModel>> InitializeS4d(const Settings& settings, uint64_t seed,
                                                                   const LoadOptions& options) {
  EIGSVC_ASSIGN_OR_RETURN(const std::string layout, settings.TextOr("layout", "state-spaces"));
  EIGSVC_ASSIGN_OR_RETURN(StackSpec spec,
                          S4Reader("s4d", layout, settings, settings, nullptr).Spec(std::nullopt));
  return InitializeStack(std::move(spec), seed, options);
}

}  // namespace

FamilyEntry S4Family() {
  return {
      "s4",
      {"paper", "state-spaces"},
      "S4: a state space a channel, diagonal plus low rank",
      "λ = (1+Δμ/2)/(1-Δμ/2) for μ of diag(Λ) - P Pᴴ, constant, N complex values a channel in the unit disc",
      /*trainable=*/true,
      LoadS4,
      InitializeS4,
      "arXiv 2111.00396"};
}

FamilyEntry S4dFamily() {
  return {"s4d",
          {"state-spaces", "minimal"},
          "S4D: a diagonal state space a channel",
          "λ = exp(Δ·A) or its bilinear map, constant, N/2 complex values a channel, each with its conjugate",
          /*trainable=*/true,
          LoadS4,
          InitializeS4d,
          "arXiv 2206.11893"};
}

}  // namespace eigsvc
