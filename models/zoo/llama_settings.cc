#include "models/zoo/llama_settings.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "models/base/status_macros.h"
#include "models/zoo/rotary_settings.h"
#include "models/zoo/settings_reader.h"
#include "models/zoo/weight_loader.h"

namespace eigsvc {
namespace {

// What a checkpoint's shapes say; nothing where there is none.
struct LlamaShapes {
  std::optional<int64_t> vocab_size, width, query_rows, key_rows, mlp_width;
  bool has_head = false;
};

LlamaShapes ShapesOf(const Archive* archive, const std::string& layout) {
  LlamaShapes shapes;
  if (archive == nullptr) return shapes;
  const bool meta = layout == "meta", fla = layout == "fla";
  const std::string embedding = meta ? "tok_embeddings" : fla ? "model.embeddings" : "model.embed_tokens";
  const std::string layer = meta ? "layers.0." : "model.layers.0.";
  const std::string attention = meta ? "attention.w" : fla ? "attn." : "self_attn.";
  const auto rows = [&](const std::string& name) {
    return StoredSize(*archive, absl::StrCat(layer, name, ".weight"), 0);
  };
  shapes.vocab_size = StoredSize(*archive, embedding + ".weight", 0);
  shapes.width = StoredSize(*archive, embedding + ".weight", 1);
  shapes.query_rows = rows(attention + (meta ? "q" : "q_proj"));
  shapes.key_rows = rows(attention + (meta ? "k" : "k_proj"));
  shapes.mlp_width = rows(meta ? "feed_forward.w1" : "mlp.gate_proj");
  shapes.has_head = archive->tensors().contains(meta ? "output.weight" : "lm_head.weight");
  return shapes;
}

class LlamaReader {
 public:
  LlamaReader(const LlamaKin& kin, const Settings& settings, const Settings& typed, const std::string& layout,
              const Archive* archive)
      : kin_(kin),
        settings_(settings),
        typed_(typed),
        layout_(layout),
        meta_(layout == "meta"),
        fla_(layout == "fla"),
        fresh_(archive == nullptr),
        shapes_(ShapesOf(archive, layout)),
        reader_(settings) {}

  absl::StatusOr<LlamaSettings> Read(int64_t layers) {
    LlamaSettings result;
    result.layers = Size(kLayers, fresh_ ? 2 : layers, /*most=*/4096);
    ReadSizes(result);
    if (reader_.status().ok()) ReadAttention(result);
    if (reader_.status().ok()) ReadRotations(result);
    if (reader_.status().ok()) ReadWindows(result);
    if (kin_.experts) ReadExperts(result);
    ReadScales(result);
    result.tied =
        reader_.Bool({"tie_embeddings", "tie_word_embeddings"}, kin_.tied || (!fresh_ && !shapes_.has_head));
    result.draw_deviation = reader_.NonNegative({"initializer_range"}, 0.02);
    const std::string activation = reader_.Text({kin_.activation}, std::string(kin_.default_activation));
    RefuseVariants(result);
    EIGSVC_RETURN_IF_ERROR(reader_.status());
    EIGSVC_ASSIGN_OR_RETURN(result.mlp.activation, ActivationOf(kin_.activation, activation));
    EIGSVC_RETURN_IF_ERROR(reader_.RefuseUnknown(typed_, kin_.family));
    result.resolved = reader_.Resolved(kin_.family, layout_);
    return result;
  }

 private:
  using Name = absl::string_view;

  // Hugging Face's, Meta's and fla's name of a setting, where they differ; that of the layout first.
  struct Names {
    Name hugging_face, meta, fla;
  };
  static constexpr Names kWidth = {"hidden_size", "dim"}, kLayers = {"num_hidden_layers", "n_layers"},
                         kHeads = {"num_attention_heads", "n_heads", "num_heads"};
  std::vector<Name> InOrder(const Names& names) const {
    std::vector<Name> all;
    for (const Name name : {meta_  ? names.meta
                            : fla_ ? names.fla
                                   : names.hugging_face,
                            names.hugging_face, names.meta, names.fla}) {
      if (!name.empty() && std::find(all.begin(), all.end(), name) == all.end()) all.push_back(name);
    }
    return all;
  }
  int64_t Size(const Names& names, std::optional<int64_t> fallback, int64_t most = kLargestSize,
               const std::vector<Name>& bounds = {}) {
    return reader_.IntWithin(InOrder(names), 1, most, fallback, bounds);
  }
  Name Spelt(const Names& names) const { return reader_.Spelt(InOrder(names)); }
  template <typename T>
  void Refuse(absl::StatusCode code, Name setting, const T& value, Name why) {
    reader_.Fail(absl::Status(code, absl::StrCat("setting \"", setting, "\" is ", value, "; ", why)));
  }

  void ReadSizes(LlamaSettings& result) {
    const int64_t width = Size(kWidth, shapes_.width.value_or(64));
    result.attention.width = result.mlp.width = width;
    // Files of Meta's say -1 where the tokenizer is to tell.
    const bool unstated = meta_ && settings_.IntOr("vocab_size", 0).value_or(0) == -1;
    result.vocab_size = unstated
                            ? reader_.Decided({"vocab_size"}, shapes_.vocab_size.value_or(64))
                            : reader_.StoredSize({"vocab_size"}, shapes_.vocab_size, 1, kLargestSize, 64);
    int64_t hidden = (8 * width + 2) / 3;
    if (fla_) hidden = (width * Size({"hidden_ratio"}, 4, 64) * 2 / 3 + 255) / 256 * 256;
    // Meta's files derive it from other settings where they do not state it; shapes know.
    for (const Name derives : {"multiple_of", "ffn_dim_multiplier"}) {
      if (meta_ && reader_.Has({derives})) reader_.Real({derives});
    }
    result.mlp.hidden = reader_.StoredSize(InOrder({"intermediate_size", "hidden_dim"}), shapes_.mlp_width, 1,
                                           kLargestSize, hidden);
    result.mlp.bias = kin_.mlp_bias && reader_.Bool({"mlp_bias"}, false);
    result.norm = {kin_.norm, reader_.NonNegative(InOrder({"rms_norm_eps", "norm_eps", "norm_eps"}),
                                                  meta_ ? 1e-5 : kin_.norm_eps)};
  }

  void ReadAttention(LlamaSettings& result) {
    AttentionSpec& attention = result.attention;
    attention.heads = Size(kHeads, fresh_ ? std::optional<int64_t>(4) : std::nullopt, /*most=*/65536);
    const int64_t rows = shapes_.query_rows.value_or(attention.width);
    attention.key_size = attention.value_size =
        Size({"head_dim"}, rows / attention.heads, kLargestSize, {Spelt(kWidth), Spelt(kHeads)});
    const Names groups = {"num_key_value_heads", "n_kv_heads", "num_kv_heads"};
    attention.groups =
        Size(groups, shapes_.key_rows ? *shapes_.key_rows / attention.key_size : attention.heads,
             attention.heads, {Spelt(kHeads), "head_dim"});
    if (reader_.status().ok() && attention.heads % attention.groups != 0) {
      reader_.Fail(reader_.Disagree("the query heads do not divide into those of keys and values",
                                    {Spelt(kHeads), Spelt(groups)}));
    }
    const bool biased = kin_.attention_bias && reader_.Bool({"attention_bias"}, kin_.sinks);
    attention.qkv_bias = biased || kin_.qkv_bias;
    attention.output_bias = biased;
    attention.qk_norm = kin_.qk_norm;
    attention.norm = result.norm;
    if (fla_) {
      attention.qkv_bias = reader_.Bool({"qkv_bias"}, false);
      if (reader_.Bool({"qk_norm"}, false)) attention.qk_norm = AttentionSpec::QkNorm::kPerHead;
      attention.norm.eps = 1e-5;  // whatever norm_eps says
    }
    attention.sinks = kin_.sinks;
  }

  void ReadRotations(LlamaSettings& result) {
    RotaryDefaults defaults{
        result.attention.key_size, {Spelt(kWidth), Spelt(kHeads), "head_dim"}, kin_.rotary_base};
    defaults.trained_positions = static_cast<double>(
        reader_.Int({"max_position_embeddings", "max_seq_len", "seq_len"}, kin_.trained_positions));
    if (kin_.nested_rotary) defaults.layer_type = "full_attention";
    result.rotary = ReadRotary(reader_, defaults);
    if (kin_.nested_rotary) defaults.layer_type = "sliding_attention";
    result.window_rotary = kin_.nested_rotary ? ReadRotary(reader_, defaults) : result.rotary;
    if (meta_) result.rotary.pairs = result.window_rotary.pairs = RotaryPairs::kInterleaved;
  }

  void ReadWindows(LlamaSettings& result) {
    using Form = LlamaKin::Windows;
    const int64_t layers = result.layers;
    result.windows.assign(layers, 0);
    if (kin_.windows == Form::kNone) return;
    const std::optional<int64_t> window = ReadWindow();
    if (!reader_.status().ok()) return;
    if (kin_.windows == Form::kEveryLayer) {
      if (reader_.Has({"layer_types"})) {
        reader_.Fail(absl::FailedPreconditionError(
            absl::StrCat("setting \"layer_types\": all layers of ", kin_.family, " are alike")));
      }
      std::fill(result.windows.begin(), result.windows.end(), window.value_or(0));
      return;
    }
    std::vector<std::string> types(layers, "full_attention");
    const int64_t first = kin_.windows == Form::kUpperLayers ? reader_.Int({"max_window_layers"}, 28) : 0;
    for (int64_t layer = std::max<int64_t>(0, first); window && layer < layers; ++layer) {
      const bool full = kin_.full_layer_period > 0 && (layer + 1) % kin_.full_layer_period == 0;
      if (!full) types[layer] = "sliding_attention";
    }
    types = reader_.Texts({"layer_types"}, types);
    if (static_cast<int64_t>(types.size()) != layers) {
      reader_.Fail(reader_.Disagree(absl::StrCat(types.size(), " kinds for ", layers, " layers"),
                                    {"layer_types", Spelt(kLayers)}));
    }
    for (int64_t layer = 0; layer < layers && reader_.status().ok(); ++layer) {
      if (types[layer] == "full_attention") continue;
      if (types[layer] != "sliding_attention") {
        Refuse(absl::StatusCode::kFailedPrecondition, "layer_types", absl::StrCat("\"", types[layer], "\""),
               "supported: full_attention, sliding_attention");
      } else if (!window) {
        std::vector<Name> decided = {"layer_types", "sliding_window"};
        if (kin_.windows == LlamaKin::Windows::kUpperLayers) decided.push_back("use_sliding_window");
        reader_.Fail(reader_.Naming(
            absl::FailedPreconditionError("a layer is of sliding_attention, but there is no sliding_window"),
            decided));
      }
      result.windows[layer] = window.value_or(0);
    }
  }

  // Null is no window; a configuration that does not mention it means the family's.
  std::optional<int64_t> ReadWindow() {
    std::optional<int64_t> fallback = fla_ ? std::nullopt : std::optional<int64_t>(kin_.default_window);
    if (kin_.windows == LlamaKin::Windows::kUpperLayers && !reader_.Bool({"use_sliding_window"}, false)) {
      fallback = std::nullopt;
    }
    const std::vector<Name> names = InOrder({"sliding_window", "", "window_size"});
    const std::optional<int64_t> window = reader_.OptionalInt(names, fallback);
    if (window && (*window < 1 || *window > kLargestSize)) {
      Refuse(absl::StatusCode::kInvalidArgument, reader_.Spelt(names), *window, "it must be at least 1");
    }
    if (kin_.windows == LlamaKin::Windows::kUpperLayers && !reader_.Bool({"use_sliding_window"}, false)) {
      return std::nullopt;
    }
    return window;
  }

  void ReadExperts(LlamaSettings& result) {
    ExpertsSpec& experts = result.experts;
    experts.width = result.mlp.width;
    experts.hidden = result.mlp.hidden;
    experts.experts = Size({"num_local_experts", "num_experts"}, fresh_ ? 4 : 128, /*most=*/65536);
    experts.active = Size({"num_experts_per_tok"}, fresh_ ? 2 : 4, experts.experts,
                          {reader_.Spelt({"num_local_experts", "num_experts"})});
    experts.alpha = reader_.Real({"swiglu_alpha"}, 1.702);
    experts.limit = reader_.NonNegative({"swiglu_limit"}, 7);
  }

  void ReadScales(LlamaSettings& result) {
    if (kin_.query_scalar > 0) {
      const double scalar = reader_.Positive({"query_pre_attn_scalar"}, kin_.query_scalar);
      result.attention.scale = 1 / std::sqrt(scalar);
    }
    if (kin_.score_cap > 0) {
      result.attention.cap = Cap("attn_logit_softcapping", kin_.score_cap);
      result.logits_cap = Cap("final_logit_softcapping", kin_.logits_cap);
    }
    if (kin_.scaled_embedding) result.embedding_scale = std::sqrt(static_cast<double>(result.mlp.width));
    if (kin_.multipliers) {
      result.embedding_scale = reader_.Real({"embedding_multiplier"}, 1.0);
      result.residual_scale = reader_.Real({"residual_multiplier"}, 1.0);
      result.attention.scale = reader_.Real({"attention_multiplier"}, 1.0);
      const double divisor = reader_.Real({"logits_scaling"}, 1.0);
      for (const auto& [name, value] : {std::pair<Name, double>("logits_scaling", divisor),
                                        {"attention_multiplier", result.attention.scale}}) {
        if (value == 0)
          Refuse(absl::StatusCode::kInvalidArgument, name, value, "it must be a number other than 0");
      }
      result.logits_scale = 1 / divisor;
    }
  }

  // Null is none.
  double Cap(Name name, double fallback) {
    const std::optional<double> cap = reader_.OptionalReal({name}, fallback);
    if (cap && *cap <= 0) Refuse(absl::StatusCode::kInvalidArgument, name, *cap, "it must be positive");
    return cap.value_or(0);
  }

  // What would change the forward pass and is not implemented.
  void RefuseVariants(const LlamaSettings& result) {
    constexpr auto kUnsupported = absl::StatusCode::kFailedPrecondition;
    if (reader_.Has({"use_bidirectional_attention"}) && reader_.Bool({"use_bidirectional_attention"}))
      Refuse(kUnsupported, "use_bidirectional_attention", "true", "attention without a direction has no Λ");
    if (fla_ && reader_.Has({"attnres_block_size"}))
      Refuse(kUnsupported, "attnres_block_size", reader_.Int({"attnres_block_size"}),
             "residuals over depth are not supported");
    // Meta's files say that they are scaled, but not how.
    if (reader_.Has({"use_scaled_rope"}) && reader_.Bool({"use_scaled_rope"}) &&
        result.rotary.scaling.kind == RotaryScaling::Kind::kNone) {
      reader_.Fail(absl::FailedPreconditionError(
          "setting \"use_scaled_rope\" does not say by how much; pass --config '{\"rope_scaling\": "
          "{\"rope_type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 1, \"high_freq_factor\": 4, "
          "\"original_max_position_embeddings\": 8192}}' (the values of Llama 3.1)"));
    }
  }

  const LlamaKin& kin_;
  const Settings &settings_, &typed_;
  const std::string& layout_;
  const bool meta_, fla_, fresh_;
  const LlamaShapes shapes_;
  SettingsReader reader_;
};

// Whether nothing is said of rotary embeddings but their base; in the old spelling an empty object, too, says
// nothing.
bool IsSilentOnRotary(const Settings& settings) {
  const absl::StatusOr<Settings> old = settings.Child("rope_scaling");
  return !settings.Has("rope_parameters") && old.ok() && old->empty();
}

// Published bases of rotary embeddings differ by a factor of 50 and more, and no tensor tells them. What a
// configuration leaves out is what its class means by default; weights that came without one mean nothing.
absl::Status CheckConfigured(const LlamaKin& kin, const Settings& settings, bool meta) {
  if (settings.Has("model_type") || (meta && (settings.Has("dim") || settings.Has("n_layers"))))
    return absl::OkStatus();
  std::vector<absl::string_view> missing;
  if (!StatesRotaryBase(settings)) missing.push_back("rope_theta");
  if (!settings.Has("rms_norm_eps") && !settings.Has("norm_eps")) {
    missing.push_back(meta ? "norm_eps" : "rms_norm_eps");
  }
  if (missing.empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      "no configuration says the ", absl::StrJoin(missing, " and "),
      " of these weights, which no tensor tells: put the model's ", meta ? "params.json" : "config.json",
      meta ? " beside them as config.json" : " beside them",
      ", or pass --config with them and the number of ", "heads (", kin.family, "'s class has ",
      kin.rotary_base, " and ", kin.norm_eps, " by default, its published models often others)"));
}

}  // namespace

absl::StatusOr<LlamaSettings> ReadLlama(const LlamaKin& kin, const Settings& settings, const Settings& typed,
                                        const std::string& layout, const Archive* archive, int64_t layers) {
  if (archive != nullptr) EIGSVC_RETURN_IF_ERROR(CheckConfigured(kin, settings, layout == "meta"));
  if (kin.silent_rotary.empty() || !IsSilentOnRotary(settings)) {
    return LlamaReader(kin, settings, typed, layout, archive).Read(layers);
  }
  EIGSVC_ASSIGN_OR_RETURN(const Settings rotary,
                          Settings::Parse(kin.silent_rotary, absl::StrCat("the defaults of ", kin.family)));
  const Settings completed = settings.MergedWith(rotary);
  return LlamaReader(kin, completed, typed, layout, archive).Read(layers);
}

}  // namespace eigsvc
