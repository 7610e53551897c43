// Detection is a table: a layout is known by keys that must all be there, in every layer. What resembles a
// known layout but is another family is refused by name: running it as the known one would give numbers that
// are silently wrong.
#include "models/archive/detect.h"

#include <algorithm>
#include <iterator>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "models/archive/file_bytes.h"
#include "models/archive/layouts.h"
#include "models/base/status_macros.h"

namespace eigsvc {
namespace {

// A part of a key, up to a dot or its end, that tells a family this version does not run, and why it does
// not; the first in the table wins. `unless`: a part of a key of families that have such keys as well, and
// are run.
struct Telltale {
  absl::string_view part, what, why, unless = "";
};
constexpr absl::string_view kUnwritten = "its forward pass is not written yet";
constexpr absl::string_view kTwoDecays =
    "its releases compute the decay in two ways, and no checkpoint says in which";
constexpr absl::string_view kKimiLinear = ".self_attn.g_a_proj.weight";
constexpr Telltale kTelltales[] = {
    {".mixer.B_bias", "Mamba-3", kTwoDecays},
    {".mixer.A_b_log", "a bidirectional Mamba", "nothing in it runs forward alone"},
    {".self_attn.output_gate.", "MiniMax' lightning attention", kUnwritten},
    {".retention.out_proj.", "torchscale's RetNet", kUnwritten},
    {"model.layers.0.attn.gk_proj.weight", "fla's simple GLA", kUnwritten},
    {".attn.f_proj.bias", "the forgetting transformer", kUnwritten},
    {".attn.decay", "Comba", kUnwritten},
    {".attention.query_projection.", "idiap's fast-transformers", kUnwritten},
    {".forget_base", "ssm-benchmark's Hawk", kUnwritten},
    {".W_lambda", "ssm-benchmark's SELRU", kUnwritten},
    {".sequence_mixer.Wqk.", "dsf-mqar's attention", kUnwritten},
    {".residues", "StripedHyena or Evo", kUnwritten},
    {".block_sparse_moe.gate.", "a mixture of experts (Mixtral)", kUnwritten, kKimiLinear},
    {".mlp.experts.0.", "a mixture of experts", kUnwritten, ".linear_attn.A_log"},
    {".self_attn.kv_a_proj_with_mqa.weight", "DeepSeek's latent attention", kUnwritten, kKimiLinear},
    {".self_attn.qkv_proj.weight", "Phi-3", kUnwritten},
    {".att.time_mix_g", "RWKV-5", kUnwritten},
    {".implicit_filter.", "Hyena", "no state of finite size carries its long filters exactly"},
    {".weight_hh_l0_reverse", "a bidirectional LSTM, GRU or RNN", "nothing in it runs forward alone"},
    {".weight_hr_l0", "an LSTM with projections", kUnwritten},
};
// model_types of configurations, whose keys may be those of a family that is run, or tell nothing.
struct UnsupportedType {
  absl::string_view model_type, what, why = kUnwritten;
};
constexpr UnsupportedType kUnsupportedTypes[] = {
    {"abc", "fla's ABC"},
    {"bailing_moe_linear", "Bailing's lightning attention"},
    {"comba", "Comba"},
    {"forgetting_transformer", "the forgetting transformer"},
    {"gated_deltaproduct", "Gated DeltaProduct"},
    {"gsa", "gated slot attention (GSA)"},
    {"log_linear_mamba2", "log-linear Mamba-2"},
    {"mamba3", "Mamba-3", kTwoDecays},
    {"mesa_net", "MesaNet"},
    {"minimax", "MiniMax' lightning attention"},
    {"moba", "MoBA"},
    {"nsa", "native sparse attention (NSA)"},
    {"path_attn", "PaTH attention"},
    {"rodimus", "Rodimus"},
    {"samba", "Samba"},
    {"simple_gla", "fla's simple GLA"},
    {"yoco", "YOCO"},
};
constexpr absl::string_view kQuantisedSuffixes[] = {".absmax",           ".qweight",      ".qzeros",
                                                    ".weight_scale_inv", ".weight_scale", ".SCB",
                                                    "_proj_blocks",      "_proj_scales"};

// Of models that read more than text: the configuration has that of the text under text_config.
constexpr absl::string_view kTextAndMore[] = {"qwen3_5", "qwen3_5_moe"};

// Keys under which configurations state the number of layers.
constexpr absl::string_view kLayerCounts[] = {"num_hidden_layers", "n_layer", "n_layers", "num_layers"};

std::string Key(absl::string_view pattern, int64_t layer) {
  return absl::StrReplaceAll(pattern, {{"#", absl::StrCat(layer)}});
}

std::string Named(const Layout& layout) { return absl::StrCat(layout.family, " (layout ", layout.name, ")"); }

// The layer's number in a key that starts as `pattern` does up to its '#'; nothing for other keys.
std::optional<int64_t> LayerOf(absl::string_view key, absl::string_view pattern) {
  if (!absl::ConsumePrefix(&key, pattern.substr(0, pattern.find('#')))) return std::nullopt;
  int64_t number;
  // Six digits: more layers than an archive may have tensors.
  const size_t dot = std::min(key.find('.'), key.size());
  if (dot > 6 || !absl::SimpleAtoi(key.substr(0, dot), &number) || number < 0) return std::nullopt;
  return number;
}

bool InSomeLayer(const Archive& archive, absl::string_view pattern) {
  const std::string prefix(pattern.substr(0, pattern.find('#')));
  for (auto at = archive.tensors().lower_bound(prefix);
       at != archive.tensors().end() && absl::StartsWith(at->first, prefix); ++at) {
    const std::optional<int64_t> layer = LayerOf(at->first, pattern);
    if (layer && at->first == Key(pattern, *layer)) return true;
  }
  return false;
}

bool HasEmbedding(const Archive& archive, const Layout& layout) {
  return std::any_of(layout.embeddings.begin(), layout.embeddings.end(),
                     [&](absl::string_view key) { return archive.tensors().contains(key); });
}

// The keys that the first layer, some layer and the embedding lack, most telling first.
std::vector<std::string> Missing(const Archive& archive, const Layout& layout) {
  std::vector<std::string> missing;
  for (const absl::string_view pattern : layout.layer_keys) {
    if (std::string key = Key(pattern, layout.first_layer); !archive.tensors().contains(key))
      missing.push_back(std::move(key));
  }
  for (const absl::string_view pattern : layout.some_layer_keys) {
    if (!InSomeLayer(archive, pattern)) missing.emplace_back(pattern);
  }
  if (!layout.embeddings.empty() && !HasEmbedding(archive, layout)) {
    missing.push_back(absl::StrJoin(layout.embeddings, " or "));
  }
  return missing;
}

// Keys that a layout asks for, one of the embeddings' included.
size_t AskedCount(const Layout& layout) {
  return layout.layer_keys.size() + layout.some_layer_keys.size() + (layout.embeddings.empty() ? 0 : 1);
}

size_t KeyCount(const Layout& layout) { return layout.layer_keys.size() + layout.some_layer_keys.size(); }

// Whether the first key of layer 0 has the shape that tells the layout from others with its keys; settings
// that name the family tell them apart, too, and the shape is then checked with all others.
bool HasItsGates(const Archive& archive, const Settings& settings, const Layout& layout) {
  if (layout.gates == 0 || settings.Has("family")) return true;
  const std::vector<int64_t>& shape = archive.tensors().at(Key(layout.layer_keys[0], 0)).shape;
  return shape.size() == 2 && shape[0] == layout.gates * shape[1];
}

// Whether the settings show a layout with the keys of another, or name it.
bool HasItsSettings(const Settings& settings, const Layout& layout) {
  return layout.settings.empty() || settings.TextOr("layout", "").value_or("") == layout.name ||
         std::any_of(layout.settings.begin(), layout.settings.end(),
                     [&](absl::string_view key) { return settings.Has(key); });
}

absl::Status Unknown(const Archive& archive) {
  constexpr size_t kShown = 3;
  const std::optional<NearestLayout> nearest = FindNearestLayout(archive);
  std::vector<std::string> found, lacking;
  for (const auto& [key, tensor] : archive.tensors()) {
    if (found.size() == kShown) break;
    found.push_back(Quoted(key));
  }
  if (!nearest) {
    std::vector<std::string> known;
    for (const Layout& layout : Layouts()) {
      if (std::find(known.begin(), known.end(), Named(layout)) == known.end()) known.push_back(Named(layout));
    }
    return absl::FailedPreconditionError(
        absl::StrCat("the keys of ", Quoted(archive.name()), " (", absl::StrJoin(found, ", "),
                     ", ...) tell none of the known families: ", absl::StrJoin(known, ", ")));
  }
  for (const std::string& key : nearest->missing) {
    if (lacking.size() == kShown) break;
    lacking.push_back(absl::StrCat("\"", key, "\""));
  }
  return absl::FailedPreconditionError(
      absl::StrCat("the keys of ", Quoted(archive.name()), " are of no known family; the nearest is ",
                   nearest->family, " (layout ", nearest->layout, "), of which it lacks ",
                   absl::StrJoin(lacking, ", "), "; its first keys are ", absl::StrJoin(found, ", ")));
}

absl::Status RefuseQuantised(const Archive& archive) {
  for (const auto& [key, tensor] : archive.tensors()) {
    for (const absl::string_view suffix : kQuantisedSuffixes) {
      if (absl::EndsWith(key, suffix)) {
        return absl::FailedPreconditionError(
            absl::StrCat(Quoted(archive.name()), " is quantised (key ", Quoted(key),
                         "); use the weights before quantisation, or dequantise them"));
      }
    }
  }
  return absl::OkStatus();
}

bool HasPart(absl::string_view key, absl::string_view part) {
  const auto ends = [&](size_t at) {
    return absl::EndsWith(part, ".") || at + part.size() == key.size() || key[at + part.size()] == '.';
  };
  for (size_t at = key.find(part); at != key.npos; at = key.find(part, at + 1)) {
    if (ends(at)) return true;
  }
  return false;
}

bool SomeKeyHas(const Archive& archive, absl::string_view part) {
  return std::any_of(archive.tensors().begin(), archive.tensors().end(),
                     [&](const auto& tensor) { return HasPart(tensor.first, part); });
}

absl::Status RefuseTelltales(const Archive& archive) {
  for (const Telltale& telltale : kTelltales) {
    if (!telltale.unless.empty() && SomeKeyHas(archive, telltale.unless)) continue;
    for (const auto& [key, tensor] : archive.tensors()) {
      if (!HasPart(key, telltale.part)) continue;
      return absl::FailedPreconditionError(absl::StrCat("key ", Quoted(key), " of ", Quoted(archive.name()),
                                                        " is one of ", telltale.what,
                                                        ", which is not supported: ", telltale.why));
    }
  }
  return absl::OkStatus();
}

absl::Status RefuseUnsupportedTypes(const Settings& settings) {
  EIGSVC_ASSIGN_OR_RETURN(const std::string model_type, settings.TextOr("model_type", ""));
  for (const UnsupportedType& type : kUnsupportedTypes) {
    if (model_type != type.model_type) continue;
    const std::string& origin = settings.OriginOf("model_type");
    return absl::FailedPreconditionError(
        absl::StrCat(origin.empty() ? "the settings" : origin, " has model_type ", Quoted(model_type),
                     ", that of ", type.what, ", which is not supported: ", type.why,
                     "; where the weights are of a family that is, --config takes the model_type they have"));
  }
  return absl::OkStatus();
}

// What is stated of the whole model, as whether its embedding is its head, is not looked for in its text
// part.
absl::StatusOr<Settings> WithTextSettings(Settings settings) {
  EIGSVC_ASSIGN_OR_RETURN(const std::string model_type, settings.TextOr("model_type", ""));
  if (std::find(std::begin(kTextAndMore), std::end(kTextAndMore), model_type) == std::end(kTextAndMore)) {
    return settings;
  }
  EIGSVC_ASSIGN_OR_RETURN(const Settings text, settings.Child("text_config"));
  nlohmann::json whole = settings.object();
  whole.erase("text_config");
  return text.MergedWith(Settings(std::move(whole), settings.origin()));
}

bool IsOneOf(absl::string_view value, const std::vector<absl::string_view>& values) {
  return std::find(values.begin(), values.end(), value) != values.end();
}

absl::Status Contradiction(absl::string_view setting, absl::string_view value, const Settings& settings,
                           const Layout& layout) {
  return absl::FailedPreconditionError(absl::StrCat(
      settings.origin().empty() ? "the settings" : settings.origin(), " has ", setting, " ", Quoted(value),
      ", but the keys are those of ", Named(layout), "; a model of another family is not run as this one"));
}

// Which of the settings that Allowed looks at are not those of `layout`.
absl::Status Contradicted(const Settings& settings, const Layout& layout) {
  const std::pair<absl::string_view, std::vector<absl::string_view>> allowed[] = {
      {"attention_fn", layout.attention_fns},
      {"family", {layout.family}},
      {"layout", {layout.name}},
      {"model_type", layout.model_types}};
  for (const auto& [setting, values] : allowed) {
    if (!settings.Has(setting) || (setting == "attention_fn" && values.empty())) continue;
    EIGSVC_ASSIGN_OR_RETURN(const std::string value, settings.Text(setting));
    if (!IsOneOf(value, values)) return Contradiction(setting, value, settings, layout);
  }
  return absl::OkStatus();
}

// The number of layers, each of which must have all keys that the layout has in every layer.
absl::StatusOr<int64_t> CountLayers(const Archive& archive, const Layout& layout) {
  const absl::string_view first =
      layout.layer_keys.empty() ? layout.some_layer_keys[0] : layout.layer_keys[0];
  const std::string prefix(first.substr(0, first.find('#')));
  int64_t layers = layout.first_layer;
  for (auto at = archive.tensors().lower_bound(prefix);
       at != archive.tensors().end() && absl::StartsWith(at->first, prefix); ++at) {
    if (const std::optional<int64_t> layer = LayerOf(at->first, first)) layers = std::max(layers, *layer + 1);
  }
  for (int64_t layer = layout.first_layer; layer < layers; ++layer) {
    for (const absl::string_view pattern : layout.layer_keys) {
      if (const std::string key = Key(pattern, layer); !archive.tensors().contains(key)) {
        return absl::FailedPreconditionError(absl::StrCat(Quoted(archive.name()), " has the keys of ",
                                                          Named(layout), " and ", layers - layout.first_layer,
                                                          " layers, but lacks \"", key, "\""));
      }
    }
  }
  return layers - layout.first_layer;
}

// The layouts that the settings' family, layout, model_type and attention_fn allow; all of them where they
// say nothing.
absl::StatusOr<std::vector<const Layout*>> Allowed(const Settings& settings) {
  EIGSVC_ASSIGN_OR_RETURN(const std::string family, settings.TextOr("family", ""));
  EIGSVC_ASSIGN_OR_RETURN(const std::string name, settings.TextOr("layout", ""));
  EIGSVC_ASSIGN_OR_RETURN(const std::string model_type, settings.TextOr("model_type", ""));
  EIGSVC_ASSIGN_OR_RETURN(const std::string attention, settings.TextOr("attention_fn", ""));
  std::vector<const Layout*> allowed;
  for (const Layout& layout : Layouts()) {
    const bool typed = IsOneOf(model_type, layout.model_types);
    if (!family.empty() && family != layout.family) continue;
    if (!family.empty() && !name.empty() && name != layout.name) continue;
    if (family.empty() && !model_type.empty() && !typed) continue;
    if (!attention.empty() && !layout.attention_fns.empty() && !IsOneOf(attention, layout.attention_fns))
      continue;
    allowed.push_back(&layout);
  }
  return allowed;
}

// Of those whose keys are all there the one with the most, settings of its own included, and of equals one
// that every layer has the keys of: the first layer of a hybrid may be that of a pure model. Null where there
// is none.
const Layout* BestMatch(const Archive& archive, const Settings& settings,
                        const std::vector<const Layout*>& layouts) {
  const auto told = [&](const Layout& layout) {
    return std::pair(KeyCount(layout) + (layout.settings.empty() ? 0 : 1), CountLayers(archive, layout).ok());
  };
  const Layout* best = nullptr;
  for (const Layout* layout : layouts) {
    if (!HasItsSettings(settings, *layout) || !Missing(archive, *layout).empty() ||
        !HasItsGates(archive, settings, *layout)) {
      continue;
    }
    if (best == nullptr || told(*layout) > told(*best)) best = layout;
  }
  return best;
}

std::string Shape(const ArchiveTensor& tensor) {
  return absl::StrCat("[", absl::StrJoin(tensor.shape, ", "), "]");
}

absl::Status CheckUnwindowed(const Layout& layout, const Settings& settings) {
  EIGSVC_ASSIGN_OR_RETURN(const bool windowed, settings.BoolOr("use_sliding_window", true));
  if (!settings.Has("sliding_window") || !windowed) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      "the settings have a sliding_window, which the ", layout.family,
      " family has not; name the relative that it is with model_type (mistral, qwen2, olmo3, ...)"));
}

absl::Status CheckGpt2(const Archive& archive, const Layout& layout) {
  const std::string key = Key(layout.layer_keys[0], 0);
  const ArchiveTensor& weight = archive.tensors().at(key);
  if (weight.shape.size() == 2 && weight.shape[1] == 3 * weight.shape[0]) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("\"", key, "\" has shape ", Shape(weight),
                   "; that of GPT-2 is [width, 3 width] (a file of "
                   "nanoGPT holds its transpose: transpose the c_attn, c_proj and c_fc weights)"));
}

absl::Status CheckAttentionFunction(const Layout& layout, const Settings& settings) {
  if (settings.Has("attention_fn")) {
    EIGSVC_ASSIGN_OR_RETURN(const std::string function, settings.Text("attention_fn"));
    if (IsOneOf(function, layout.attention_fns)) return absl::OkStatus();
    return Contradiction("attention_fn", function, settings, layout);
  }
  if (settings.Has("family") || layout.family == "norm-attention") return absl::OkStatus();
  return absl::FailedPreconditionError(
      "softmax and linear attention of the paper's models have the same keys, and no setting attention_fn "
      "tells which this is: pass the model's own configuration, or --config "
      "'{\"attention_fn\": \"sm-attention\"}' or '{\"attention_fn\": \"lin-attention\"}'");
}

absl::Status CheckMamba(const Layout& layout, const Settings& settings) {
  if (!settings.Has("ssm_cfg.layer")) return absl::OkStatus();
  EIGSVC_ASSIGN_OR_RETURN(const std::string layer, settings.Text("ssm_cfg.layer"));
  if (layer == (layout.family == "mamba" ? "Mamba1" : "Mamba2")) return absl::OkStatus();
  return Contradiction("ssm_cfg.layer", layer, settings, layout);
}

absl::Status CheckFamily(const Archive& archive, const Layout& layout, const Settings& settings) {
  if (layout.unwindowed) return CheckUnwindowed(layout, settings);
  if (layout.family == "gpt2") return CheckGpt2(archive, layout);
  if (layout.family == "mamba" || layout.family == "mamba2") return CheckMamba(layout, settings);
  if (!layout.attention_fns.empty()) return CheckAttentionFunction(layout, settings);
  return absl::OkStatus();
}

}  // namespace

std::optional<NearestLayout> FindNearestLayout(const Archive& archive) {
  constexpr size_t kMostOthers = 8;
  const Layout* nearest = nullptr;
  NearestLayout result;
  size_t most = 0;
  // The name of an embedding alone, which many families share, is no likeness.
  const auto shares_embedding = [&](const Layout& layout) {
    return HasEmbedding(archive, layout) &&
           std::any_of(Layouts().begin(), Layouts().end(), [&](const Layout& other) {
             return other.family != layout.family && HasEmbedding(archive, other);
           });
  };
  for (const Layout& layout : Layouts()) {
    std::vector<std::string> missing = Missing(archive, layout);
    const size_t found = AskedCount(layout) - missing.size();
    if (found < std::max<size_t>(most, 1) || (found == most && missing.size() >= result.missing.size()) ||
        (found == 1 && shares_embedding(layout))) {
      continue;
    }
    most = found;
    nearest = &layout;
    result.missing = std::move(missing);
  }
  if (nearest == nullptr) return std::nullopt;
  result.family = std::string(nearest->family);
  result.layout = std::string(nearest->name);
  std::vector<absl::string_view> patterns = nearest->layer_keys;
  for (const auto* more : {&nearest->some_layer_keys, &nearest->embeddings}) {
    patterns.insert(patterns.end(), more->begin(), more->end());
  }
  for (const auto& stored : archive.tensors()) {
    const std::string& key = stored.first;  // clang 14 captures no structured binding
    if (result.others.size() == kMostOthers) break;
    const bool known = std::any_of(patterns.begin(), patterns.end(), [&](absl::string_view pattern) {
      const std::optional<int64_t> layer = LayerOf(key, pattern);
      return key == pattern || (layer && key == Key(pattern, *layer));
    });
    if (!known) result.others.push_back(key);
  }
  return result;
}

absl::StatusOr<Detection> Detect(const Archive& archive, const Settings& overrides) {
  EIGSVC_RETURN_IF_ERROR(RefuseQuantised(archive));
  EIGSVC_ASSIGN_OR_RETURN(Settings settings, WithTextSettings(archive.settings().MergedWith(overrides)));
  EIGSVC_RETURN_IF_ERROR(RefuseUnsupportedTypes(settings));
  EIGSVC_RETURN_IF_ERROR(RefuseTelltales(archive));
  EIGSVC_ASSIGN_OR_RETURN(const std::vector<const Layout*> allowed, Allowed(settings));
  const Layout* layout = BestMatch(archive, settings, allowed);
  if (layout == nullptr) {
    std::vector<const Layout*> all;
    for (const Layout& other : Layouts()) all.push_back(&other);
    layout = BestMatch(archive, settings, all);
    if (layout == nullptr) return Unknown(archive);
    EIGSVC_RETURN_IF_ERROR(Contradicted(settings, *layout));
  }
  EIGSVC_RETURN_IF_ERROR(CheckFamily(archive, *layout, settings));
  EIGSVC_ASSIGN_OR_RETURN(const int64_t layers, CountLayers(archive, *layout));
  for (const absl::string_view setting : kLayerCounts) {
    if (!settings.Has(setting)) continue;
    EIGSVC_ASSIGN_OR_RETURN(const int64_t stated, settings.Int(setting));
    if (stated != layers) {
      return absl::FailedPreconditionError(absl::StrCat("the settings have ", setting, " ", stated, ", but ",
                                                        Quoted(archive.name()), " has ", layers, " layers"));
    }
  }
  return Detection{std::string(layout->family), std::string(layout->name), layers,
                   std::string(layout->mixer),  std::move(settings),       overrides};
}

}  // namespace eigsvc
