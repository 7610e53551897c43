#include "client/cli/inspection_view.h"

#include <map>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/cli/flags.h"
#include "client/cli/layer_spectrum.h"
#include "client/cli/number_text.h"

namespace eigsvc::cli {
namespace {

Json TensorObject(const v1::TensorInfo& tensor) {
  return {{"name", tensor.name()},
          {"element_type", tensor.element_type()},
          {"shape", std::vector<int64_t>(tensor.shape().begin(), tensor.shape().end())}};
}

Json ModelOutlineObject(const v1::ModelOutline& model) {
  Json layers = Json::array();
  for (const v1::LayerOutline& layer : model.layers()) {
    Json mixers = Json::array();
    for (const v1::MixerOutline& mixer : layer.mixers()) {
      mixers.push_back({{"mixer", mixer.mixer()},
                        {"unit_kind", UnitName(mixer.unit_kind())},
                        {"units", mixer.units()},
                        {"eigenvalues_per_unit", mixer.eigenvalues_per_unit()},
                        {"multiplicity", mixer.multiplicity() == 0 ? Json() : Json(mixer.multiplicity())},
                        {"constant", mixer.constant()},
                        {"transition", mixer.transition()},
                        {"window", mixer.window() == 0 ? Json() : Json(mixer.window())}});
    }
    layers.push_back({{"mixers", std::move(mixers)}, {"parameters", layer.parameters()}});
  }
  return {{"width", model.width()},
          {"vocab_size", model.vocab_size()},
          {"max_positions", model.max_positions() == 0 ? Json() : Json(model.max_positions())},
          {"gauges", std::vector<std::string>(model.gauges().begin(), model.gauges().end())},
          {"rotations", std::vector<std::string>(model.rotations().begin(), model.rotations().end())},
          {"departures", std::vector<std::string>(model.departures().begin(), model.departures().end())},
          {"parameters", model.parameters()},
          {"eigenvalues_per_token", model.eigenvalues_per_token()},
          {"constant_eigenvalues", model.constant_eigenvalues()},
          {"dtype", model.dtype()},
          {"weight_bytes", model.weight_bytes()},
          {"streamed_weight_bytes", model.streamed_weight_bytes()},
          {"steps", model.steps() == 0 ? Json() : Json(model.steps())},
          {"activation_bytes", model.steps() == 0 ? Json() : Json(model.activation_bytes())},
          {"layers", std::move(layers)},
          {"settings", ParsedOrNull(model.settings_json())}};
}

// "attention: scalar, 8 heads, window 4096, 1 eigenvalue each of infinite multiplicity".
std::string MixerText(const v1::MixerOutline& mixer) {
  return absl::StrCat(mixer.mixer(), ": ", mixer.transition(),
                      mixer.constant() ? ", the same at every step" : "", ", ", mixer.units(), " ",
                      UnitName(mixer.unit_kind()), mixer.units() == 1 ? "" : "s",
                      mixer.window() == 0 ? "" : absl::StrCat(", window ", mixer.window()), ", ",
                      mixer.eigenvalues_per_unit(),
                      mixer.eigenvalues_per_unit() == 1 ? " eigenvalue each" : " eigenvalues each",
                      mixer.multiplicity() == 1   ? ""
                      : mixer.multiplicity() == 0 ? " of infinite multiplicity"
                                                  : absl::StrCat(" of multiplicity ", mixer.multiplicity()));
}

// Layers that are alike together: {"layers 0-2, 4", "attention: ..."}.
std::vector<std::pair<std::string, std::string>> LayerLines(const v1::ModelOutline& model) {
  std::vector<std::pair<std::vector<int>, std::string>> groups;
  for (int layer = 0; layer < model.layers_size(); ++layer) {
    std::vector<std::string> mixers;
    for (const v1::MixerOutline& mixer : model.layers(layer).mixers()) mixers.push_back(MixerText(mixer));
    const std::string text = mixers.empty() ? "nothing over time" : absl::StrJoin(mixers, "; ");
    size_t i = 0;
    while (i < groups.size() && groups[i].second != text) ++i;
    if (i == groups.size()) groups.push_back({{}, text});
    groups[i].first.push_back(layer);
  }
  std::vector<std::pair<std::string, std::string>> lines;
  for (const auto& [layers, text] : groups) {
    std::vector<std::string> runs;
    for (size_t i = 0; i < layers.size();) {
      size_t end = i + 1;
      while (end < layers.size() && layers[end] == layers[end - 1] + 1) ++end;
      runs.push_back(end == i + 1 ? absl::StrCat(layers[i]) : absl::StrCat(layers[i], "-", layers[end - 1]));
      i = end;
    }
    lines.emplace_back(absl::StrCat(layers.size() == 1 ? "layer " : "layers ", absl::StrJoin(runs, ", ")),
                       text);
  }
  return lines;
}

std::string EigenvalueText(const v1::ModelOutline& model) {
  std::vector<std::string> parts;
  if (model.eigenvalues_per_token() > 0) {
    parts.push_back(absl::StrCat(CountText(model.eigenvalues_per_token()), " a token"));
  }
  if (model.constant_eigenvalues() > 0) {
    parts.push_back(absl::StrCat(CountText(model.constant_eigenvalues()), " that no token changes"));
  }
  return absl::StrCat(absl::StrJoin(parts, ", "), " (gauge ", absl::StrJoin(model.gauges(), " or "), ")");
}

// What --definition can be.
std::string DefinitionText(const v1::ModelOutline& model) {
  if (model.departures().empty()) return "exact";
  return absl::StrCat("exact, or paper-compat (", absl::StrJoin(model.departures(), ", "), ")");
}

std::string MemoryText(const v1::ModelOutline& model) {
  std::string text = absl::StrCat(BytesText(model.weight_bytes()), " of weights in ", model.dtype(), ", ",
                                  BytesText(model.streamed_weight_bytes()), " with --residency layer");
  if (model.steps() > 0) {
    absl::StrAppend(&text, "; up to about ", BytesText(model.activation_bytes()), " for a sequence of ",
                    CountText(model.steps()), " steps");
  }
  return text;
}

}  // namespace

Listing TensorListing(const v1::CheckpointInspection& inspection) {
  Listing listing("tensors", {{"name", "tensor"}, {"element_type", "type"}, {"shape", "shape"}});
  for (const v1::TensorInfo& tensor : inspection.tensors()) listing.Add(TensorObject(tensor));
  return listing;
}

Json InspectionObject(const std::string& path, const v1::CheckpointInspection& inspection) {
  Json tensors = Json::array();
  for (const v1::TensorInfo& tensor : inspection.tensors()) tensors.push_back(TensorObject(tensor));
  const bool known = !inspection.family().empty();
  Json nearest;
  if (inspection.has_nearest()) {
    const v1::NearestLayout& layout = inspection.nearest();
    nearest = {
        {"family", layout.family()},
        {"layout", layout.layout()},
        {"missing_keys",
         std::vector<std::string>(layout.missing_keys().begin(), layout.missing_keys().end())},
        {"other_keys", std::vector<std::string>(layout.other_keys().begin(), layout.other_keys().end())}};
  }
  return {{"schema_version", kSchemaVersion},
          {"path", path},
          {"sha256", inspection.sha256()},
          {"size_bytes", inspection.size_bytes()},
          {"format", inspection.format()},
          {"family", known ? Json(inspection.family()) : Json()},
          {"layout", known ? Json(inspection.layout()) : Json()},
          {"layers", known ? Json(inspection.layers()) : Json()},
          {"parameters", inspection.parameters()},
          {"element_types", std::map<std::string, int64_t>(inspection.element_types().begin(),
                                                           inspection.element_types().end())},
          {"settings", ParsedOrNull(inspection.settings_json())},
          {"problem", inspection.problem().empty() ? Json() : Json(inspection.problem())},
          {"nearest", std::move(nearest)},
          {"model", inspection.has_model() ? ModelOutlineObject(inspection.model()) : Json()},
          {"tensors", tensors}};
}

std::string InspectionTable(const std::string& path, const v1::CheckpointInspection& inspection,
                            bool with_tensors, const Style& style) {
  std::string out = absl::StrCat(style.Apply(Paint::kBold, Printable(path)), "\n");
  const auto field = [&](absl::string_view label, absl::string_view text) {
    absl::StrAppend(&out, "  ", style.Apply(Paint::kDim, PadRight(label, 12)), Printable(text), "\n");
  };
  std::string model = "not recognised";
  if (!inspection.family().empty()) {
    model = absl::StrCat(inspection.family(), " (", inspection.layout(), " layout), ", inspection.layers(),
                         inspection.layers() == 1 ? " layer" : " layers");
  }
  if (inspection.has_model()) {
    absl::StrAppend(&model, ", width ", CountText(inspection.model().width()), ", vocabulary ",
                    CountText(inspection.model().vocab_size()));
  }
  field("model", model);
  if (!inspection.problem().empty()) field("problem", inspection.problem());
  if (inspection.has_nearest()) {
    const v1::NearestLayout& nearest = inspection.nearest();
    field("nearest", absl::StrCat(nearest.family(), " (", nearest.layout(), " layout)"));
    for (const std::string& key : nearest.missing_keys()) field("  lacks", key);
    for (const std::string& key : nearest.other_keys()) field("  has", key);
  }
  field("parameters",
        CountText(inspection.has_model() ? inspection.model().parameters() : inspection.parameters()));
  if (inspection.has_model()) {
    for (const auto& [layers, text] : LayerLines(inspection.model())) {
      field("transition", absl::StrCat(layers, ": ", text));
    }
    field("eigenvalues", EigenvalueText(inspection.model()));
    field("definition", DefinitionText(inspection.model()));
    field("memory", MemoryText(inspection.model()));
  }
  field("format", absl::StrCat(inspection.format(), ", ", BytesText(inspection.size_bytes())));
  field("sha256", inspection.sha256());
  std::vector<std::string> types;
  for (const auto& [name, count] :
       std::map<std::string, int64_t>(inspection.element_types().begin(), inspection.element_types().end())) {
    types.push_back(absl::StrCat(count, " ", name));
  }
  field("tensors", absl::StrCat(inspection.tensors_size(), ": ", absl::StrJoin(types, ", "),
                                with_tensors ? "" : "; --tensors lists them"));
  const Json settings = ParsedOrNull(inspection.settings_json());
  std::string label = "settings";
  for (const auto& [key, value] : settings.items()) {
    constexpr size_t kLongest = 60;
    std::string text = Line(value);
    if (text.size() > kLongest) text = absl::StrCat(text.substr(0, kLongest - 3), "...");
    field(label, absl::StrCat(key, " = ", text));
    label.clear();
  }
  if (with_tensors)
    absl::StrAppend(&out, "\n", TensorListing(inspection).Render(Format::kTable, style, "no tensors"));
  return out;
}

}  // namespace eigsvc::cli
