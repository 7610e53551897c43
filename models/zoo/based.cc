// Based (arXiv 2402.18668) as its repository stores it: layers of a gated short convolution, of linear
// attention by the Taylor series of exp, and of softmax attention within a window, as three settings say, and
// one gated MLP after each. Names and defaults are those of GPT-2's configuration, which it extends.
#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "models/base/status_macros.h"
#include "models/mixers/attention.h"
#include "models/mixers/feed_forward.h"
#include "models/mixers/gated_convolution.h"
#include "models/mixers/kernel_attention.h"
#include "models/zoo/decoder.h"
#include "models/zoo/families.h"
#include "models/zoo/hybrid_settings.h"
#include "models/zoo/load_by_settings.h"
#include "models/zoo/settings_reader.h"
#include "models/zoo/weight_loader.h"

namespace eigsvc {
namespace {

// Makes a layer's mixer, whose canonical name starts with "mixer.".
using BasedMixer = std::function<std::unique_ptr<const Module>(int64_t layer)>;

class BasedReader {
 public:
  BasedReader(const Settings& settings, const Settings& typed, const Archive* archive, at::ScalarType dtype)
      : reader_(settings), typed_(typed), archive_(archive), dtype_(dtype) {
    // As files of the hub and of the repository's own trainer have it.
    prefix_ = archive != nullptr && archive->tensors().contains("model." + Words()) ? "model." : "";
  }

  absl::StatusOr<DecoderSpec> Read(int64_t found_layers) {
    DecoderSpec spec;
    layers_ = reader_.IntWithin({"n_layer", "num_hidden_layers"}, 1, 4096, archive_ ? found_layers : 3);
    width_ = reader_.StoredSize({"n_embd", "hidden_size"}, Stored(Words(), 1), 1, kLargestSize, 32);
    ReadShell(spec);
    RefuseVariants();
    EIGSVC_RETURN_IF_ERROR(reader_.status());
    EIGSVC_ASSIGN_OR_RETURN(const FeedForwardSpec network, ReadNetwork());
    spec.layer_keys.emplace_back("mlp.up_proj", gated_ ? "mlp.fc3" : "mlp.fc1");
    const std::vector<std::string> tags = ReadTags();
    std::map<std::string, BasedMixer> mixers;
    for (const std::string& tag : tags) {
      if (!mixers.contains(tag)) mixers[tag] = ReadMixer(tag);
    }
    EIGSVC_RETURN_IF_ERROR(reader_.status());
    for (int64_t layer = 0; layer < layers_; ++layer) {
      Branch mixer{mixers[tags[layer]](layer), "norm1"}, position_wise{nullptr, "norm2"};
      if (gated_) {
        position_wise.module = std::make_unique<GatedFeedForward>("mlp.", network);
      } else {
        position_wise.module = std::make_unique<FeedForward>("mlp.", network);
      }
      spec.layers.push_back(MixerAndNetwork(std::move(mixer), std::move(position_wise)));
    }
    // How it is trained, drawn and computed there. `kernel_sizes` is what published configurations say of the
    // convolution; its code reads `kernel_size` alone.
    reader_.Ignore({"mixer", "alt_mixer", "alt_mixer_2", "n_positions", "n_ctx", "fused_mlp", "fused_bias_fc",
                    "use_flash_attn", "fused_dropout_add_ln", "special_initializer", "use_weight_init",
                    "reorder_and_upcast_attn", "mlp_checkpoint_lvl", "fused_dense_sqrelu_dense",
                    "sequence_parallel", "ff_mult", "decay_const", "decay_denom"});
    EIGSVC_RETURN_IF_ERROR(reader_.RefuseUnknown(typed_, "based"));
    spec.description.settings = reader_.Resolved("based", "hazyresearch");
    return spec;
  }

 private:
  static std::string Words() { return "transformer.embeddings.word_embeddings.weight"; }
  std::optional<int64_t> Stored(const std::string& key, size_t dimension) const {
    return archive_ == nullptr ? std::nullopt : StoredSize(*archive_, prefix_ + key, dimension);
  }
  // Whether some layer has the key `rest`.
  bool InALayer(absl::string_view rest) const {
    for (int64_t layer = 0; archive_ != nullptr && layer < layers_; ++layer) {
      if (archive_->tensors().contains(absl::StrCat(prefix_, "transformer.layers.", layer, ".", rest)))
        return true;
    }
    return false;
  }
  void Refuse(absl::string_view setting, absl::string_view why) {
    reader_.Fail(absl::FailedPreconditionError(absl::StrCat("setting \"", setting, "\" ", why)));
  }

  void ReadShell(DecoderSpec& spec) {
    spec.description.family = "based";
    spec.description.layout = "hazyresearch";
    spec.description.conventions.gauges = {Gauge::kDsf, Gauge::kRaw};
    spec.description.width = width_;
    // Rows are padded to a multiple, which a configuration may or may not have counted.
    const std::optional<int64_t> rows = Stored(Words(), 0);
    const int64_t multiple = reader_.IntWithin({"pad_vocab_size_multiple"}, 1, kLargestSize, 1);
    const int64_t vocabulary = reader_.IntWithin({"vocab_size"}, 1, kLargestSize, rows.value_or(64));
    const int64_t padded = (vocabulary + multiple - 1) / multiple * multiple;
    if (padded != rows.value_or(padded)) {
      reader_.Fail(
          reader_.Naming(absl::FailedPreconditionError(absl::StrCat("the vocabulary comes to ", padded,
                                                                    " tokens, but the weights have ", *rows)),
                         {"vocab_size", "pad_vocab_size_multiple"}));
    }
    spec.description.vocab_size = padded;
    const std::string positions = "transformer.embeddings.position_embeddings";
    spec.description.max_positions = reader_.StoredSize(
        {"max_position_embeddings"},
        archive_ ? std::optional(Stored(positions + ".weight", 0).value_or(0)) : std::nullopt, 0,
        kLargestSize, 0);
    if (spec.description.max_positions > 0) spec.positions_key = prefix_ + positions;
    const bool rms = reader_.Bool({"rms_norm"}, false);
    spec.norm = {rms ? NormSpec::Kind::kRms : NormSpec::Kind::kLayer,
                 reader_.NonNegative({"layer_norm_epsilon"}, 1e-5)};
    spec.residual_in_float32 = reader_.Bool({"residual_in_fp32"}, false);
    spec.tied = reader_.Bool({"tie_word_embeddings"}, true);
    spec.head_bias = reader_.Bool({"lm_head_bias"}, false);
    spec.draw_deviation = reader_.NonNegative({"initializer_range"}, 0.02);
    spec.residual_draw_deviation = spec.draw_deviation / std::sqrt(2.0 * static_cast<double>(layers_));
    spec.embedding_key = prefix_ + "transformer.embeddings.word_embeddings";
    spec.norm_key = prefix_ + "transformer.ln_f";
    spec.head_key = prefix_ + "lm_head";
    spec.layer_prefix = prefix_ + "transformer.layers.#.";
    // Linear attention's projections are proj_q and so on, attention's are one; all end in an out_proj.
    spec.layer_keys = {{"mixer.q_proj", "mixer.proj_q"}, {"mixer.k_proj", "mixer.proj_k"},
                       {"mixer.v_proj", "mixer.proj_v"}, {"mixer.o_proj", "mixer.out_proj"},
                       {"mixer.qkv_proj", "mixer.Wqkv"}, {"mixer.conv", "mixer.conv.conv"},
                       {"mlp.gate_proj", "mlp.fc1"},     {"mlp.down_proj", "mlp.fc2"}};
    spec.ignored_keys = {"*metrics*", "*.rotary_emb.inv_freq"};
  }

  // What would change the forward pass and is not implemented.
  void RefuseVariants() {
    if (!reader_.Bool({"prenorm"}, true))
      Refuse("prenorm", "is false; norms after the sublayers are not supported");
    if (reader_.Bool({"parallel_block"}, false))
      Refuse("parallel_block", "is true; blocks side by side are not supported");
    if (reader_.Bool({"fixed_decay"}, false)) Refuse("fixed_decay", "is true; decays are not supported");
    if (reader_.Bool({"attn_dwconv"}, false))
      Refuse("attn_dwconv", "is true; attention behind a convolution is not supported");
    for (const char* const setting : {"word_embed_proj_dim", "rotary_emb_scale_base"}) {
      if (reader_.Has({setting})) Refuse(setting, "is set; it is not supported");
    }
    reader_.Ignore({"word_embed_proj_dim", "rotary_emb_scale_base"});
  }

  absl::StatusOr<FeedForwardSpec> ReadNetwork() {
    const std::string name = reader_.Text({"activation_function"}, archive_ ? "gelu_new" : "swiglu");
    gated_ = absl::EndsWith(name, "glu");
    const bool plain = reader_.Text({"mlp_type"}, "base") == "base";
    const bool bias = reader_.Bool({"mlp_fc1_bias"}, true);
    if (reader_.Bool({"mlp_fc2_bias"}, true) != bias)
      Refuse("mlp_fc2_bias", "differs from mlp_fc1_bias, which is not supported");
    FeedForwardSpec spec{width_};
    spec.bias = bias;
    spec.fused_gate = spec.gate_last = gated_ && plain;
    const auto width = static_cast<double>(width_);
    const std::optional<int64_t> inner = reader_.OptionalInt({"n_inner"}, std::nullopt);
    int64_t wanted = inner.value_or(gated_ ? WholePart(8 * width / 3) : 4 * width_);
    if (gated_ && !plain) wanted = WholePart(2 * width * reader_.Real({"ff_mult"}, 2) / 3);
    spec.hidden = gated_ ? (std::clamp<int64_t>(wanted, 1, kLargestSize) + 255) / 256 * 256 : wanted;
    EIGSVC_RETURN_IF_ERROR(reader_.status());
    if (wanted < 1 || wanted > kLargestSize) {
      return reader_.Disagree(absl::StrCat("the network would be ", wanted, " wide"), {"n_inner", "n_embd"});
    }
    if (name == "glu" || name == "swiglu" || name == "geglu") {
      spec.activation = name == "glu"      ? Activation::kSigmoid
                        : name == "swiglu" ? Activation::kSilu
                                           : Activation::kGelu;
    } else if (name == "sqrelu") {
      spec.activation = Activation::kReluSquared;
    } else if (name == "gelu_fast" || name == "gelu_approx") {
      spec.activation = Activation::kGeluTanh;
    } else {
      EIGSVC_ASSIGN_OR_RETURN(spec.activation, ActivationOf("activation_function", name));
    }
    return spec;
  }

  // Under which settings each layer's mixer is described.
  std::vector<std::string> ReadTags() {
    std::vector<std::string> tags(layers_, "mixer");
    int64_t fresh = 0;
    for (const char* const tag : {"alt_mixer", "alt_mixer_2"}) {
      const bool small = archive_ == nullptr && ++fresh < layers_;
      for (const int64_t layer : reader_.Ints({absl::StrCat(tag, "_layers")},
                                              small ? std::vector<int64_t>{fresh} : std::vector<int64_t>{})) {
        if (layer >= 0 && layer < layers_) tags[layer] = tag;
      }
    }
    return tags;
  }

  // A configuration that says nothing there means full attention.
  BasedMixer ReadMixer(const std::string& tag) {
    const std::string target = tag + "._target_";
    const std::string fresh = tag == "mixer"       ? "BaseConv"
                              : tag == "alt_mixer" ? "LinearAttention"
                                                   : "SlidingAttention";
    std::string name = reader_.Text({target}, archive_ ? "MHA" : fresh);
    name = name.substr(name.rfind('.') + 1);
    if (name == "BaseConv") return ReadConvolution(tag);
    if (name == "LinearAttention") return ReadLinearAttention(tag);
    if (name == "SlidingAttention") {
      // flash-attention's window is what lies before the step itself.
      return ReadAttention(reader_.IntWithin({tag + ".window_size"}, 1, kLargestSize, 128) / 2 + 1);
    }
    if (name == "MHA") return ReadAttention(0);
    Refuse(target, absl::StrCat("is \"", name, "\"; supported: BaseConv, LinearAttention, SlidingAttention"));
    return nullptr;
  }

  BasedMixer ReadConvolution(const std::string& tag) {
    GatedConvolutionSpec spec;
    spec.width = width_;
    const int64_t expanded = width_ * reader_.IntWithin({tag + ".expand_proj"}, 1, 1024, 2);
    spec.channels = expanded / 2;
    spec.taps = reader_.IntWithin({tag + ".kernel_size"}, 1, 1024, 3);
    spec.bias = reader_.Bool({tag + ".use_bias"}, true);
    // Its kernel on a GPU comes with a bias, wherever it was there.
    const bool kernel = reader_.Bool({tag + ".use_cuda"}, false);
    spec.convolution_bias = archive_ ? InALayer("mixer.conv.conv.bias") : kernel;
    if (expanded % 2 != 0) {
      reader_.Fail(reader_.Disagree(absl::StrCat(expanded, " channels do not divide into halves"),
                                    {tag + ".expand_proj", "n_embd"}));
    }
    return [spec](int64_t) { return std::make_unique<GatedConvolution>("mixer.", spec); };
  }

  BasedMixer ReadLinearAttention(const std::string& tag) {
    KernelAttentionSpec spec;
    spec.mixer = "based";
    spec.width = width_;
    spec.heads = spec.groups = reader_.IntWithin({tag + ".num_heads"}, 1, 65536, archive_ ? 16 : 2);
    spec.key_size = reader_.IntWithin({tag + ".feature_dim"}, 1, 4096, archive_ ? 16 : 4);
    spec.value_size =
        reader_.IntWithin({tag + ".head_dim"}, 1, kLargestSize, std::max<int64_t>(width_ / spec.heads, 1));
    const std::string map = reader_.Text({tag + ".feature_map._target_"}, "TaylorExp");
    if (map.substr(map.rfind('.') + 1) != "TaylorExp") {
      Refuse(tag + ".feature_map._target_", absl::StrCat("is \"", map, "\"; supported: TaylorExp"));
    }
    const int64_t divisor =
        reader_.IntWithin({tag + ".feature_map.input_dim"}, 1, kLargestSize, spec.key_size);
    spec.scale = 1 / std::sqrt(static_cast<double>(divisor));
    const std::string how = reader_.Choice({tag + ".parallel_implementation"},
                                           {"quadratic", "linear", "fla_parallel", "fla_chunk"}, "quadratic");
    spec.eps = reader_.NonNegative({tag + ".eps"}, 1e-12);
    if (absl::StartsWith(how, "fla")) {
      // flash-linear-attention's kernels have these of their own.
      spec.eps = 1e-6;
      spec.scale = 1 / std::sqrt(static_cast<double>(spec.key_size));
    }
    return [spec](int64_t) { return std::make_unique<KernelAttention>("mixer.", spec); };
  }

  // GPT-2's settings of attention. `window`: steps that a step sees; 0: all.
  BasedMixer ReadAttention(int64_t window) {
    AttentionSpec spec;
    spec.width = width_;
    spec.window = window;
    spec.heads = reader_.IntWithin({"n_head", "num_attention_heads"}, 1, 65536,
                                   archive_ ? std::nullopt : std::optional<int64_t>(4));
    spec.groups = reader_.IntWithin({"n_head_kv"}, 1, spec.heads, spec.heads, {"n_head"});
    spec.projection = AttentionSpec::Projection::kFused;
    spec.qkv_bias = reader_.Bool({"qkv_proj_bias"}, true);
    spec.output_bias = reader_.Bool({"out_proj_bias"}, true);
    if (!reader_.status().ok()) return nullptr;
    spec.key_size = spec.value_size = std::max<int64_t>(width_ / spec.heads, 1);
    if (width_ % spec.heads != 0 || spec.heads % spec.groups != 0) {
      reader_.Fail(
          reader_.Disagree("the width does not divide into the heads", {"n_embd", "n_head", "n_head_kv"}));
    }
    const double scale =
        reader_.Bool({"scale_attn_weights"}, true) ? 1 / std::sqrt(static_cast<double>(spec.key_size)) : 1;
    const bool by_layer = reader_.Bool({"scale_attn_by_inverse_layer_idx"}, false);
    const int64_t turned = WholePart(reader_.Real({"rotary_emb_fraction"}, archive_ ? 0 : 1) *
                                     static_cast<double>(spec.key_size));
    const double base = reader_.Positive({"rotary_emb_base"}, 10000);
    const bool interleaved = reader_.Bool({"rotary_emb_interleaved"}, false);
    if (turned % 2 != 0 || turned > spec.key_size) {
      reader_.Fail(reader_.Disagree(
          absl::StrCat("of a head's ", spec.key_size, " dimensions ", turned, " would turn, in pairs"),
          {"rotary_emb_fraction", "n_embd", "n_head"}));
    }
    if (!reader_.status().ok()) return nullptr;
    if (turned > 0) {
      spec.rotary = std::make_shared<const Rotary>(
          RotarySpec{turned, base, {}, interleaved ? RotaryPairs::kInterleaved : RotaryPairs::kHalves},
          dtype_);
    }
    return [spec, scale, by_layer](int64_t layer) {
      AttentionSpec own = spec;
      own.scale = by_layer ? scale / static_cast<double>(layer + 1) : scale;
      return std::make_unique<Attention>("mixer.", own);
    };
  }

  SettingsReader reader_;
  const Settings& typed_;
  const Archive* const archive_;
  const at::ScalarType dtype_;
  std::string prefix_;
  int64_t layers_ = 0, width_ = 0;
  bool gated_ = false;
};

absl::StatusOr<DecoderSpec> BasedSpec(const Settings& settings, const Settings& typed, const Archive* archive,
                                      int64_t found_layers, at::ScalarType dtype) {
  return BasedReader(settings, typed, archive, dtype).Read(found_layers);
}

}  // namespace

FamilyEntry BasedFamily() {
  return {
      "based",
      {"hazyresearch"},
      "Based: gated short convolutions, linear attention by a Taylor series, and attention within a window",
      "linear and softmax attention: λ_i = η_{i-1}/η_i per head; convolutions: 0, a shift register",
      /*trainable=*/true,
      LoadBySettings<BasedSpec>,
      InitializeBySettings<BasedSpec>,
      "arXiv 2402.18668; arXiv 2405.15731"};
}

}  // namespace eigsvc
