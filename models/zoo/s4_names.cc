#include "models/zoo/s4_names.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "models/base/status_macros.h"

namespace eigsvc {
namespace {

const std::vector<S4Names>& KnownNames() {
  static const auto* const known = new std::vector<S4Names>{
      {"model", "4", "model.layers.#.", "layer.layer.", "kernel.", "A_real", "A_imag"},
      {"model", "3", "model.layers.#.", "layer.", "kernel.kernel.", "inv_w_real", "w_imag"},
      {"model", "3", "model.layers.#.", "layer.", "kernel.kernel.", "inv_A_real", "A_imag"},
      {"model", "2", "model.layers.#.", "layer.", "kernel.kernel.", "log_w_real", "w_imag"},
      {"example", "4", "s4_layers.#.", "layer.", "kernel.", "A_real", "A_imag"},
      {"example", "3", "s4_layers.#.", "", "kernel.kernel.", "inv_w_real", "w_imag"},
      {"example", "3", "s4_layers.#.", "", "kernel.kernel.", "inv_A_real", "A_imag"},
      {"example", "2", "s4_layers.#.", "", "kernel.kernel.", "log_w_real", "w_imag"},
      {"example", "minimal", "s4_layers.#.", "", "kernel.", "log_A_real", "A_imag"},
  };
  return *known;
}

}  // namespace

std::string S4Names::Key(absl::string_view name, bool in_kernel) const {
  const std::string key = absl::StrCat(layer, inner, in_kernel ? kernel : "", name);
  return absl::StrReplaceAll(key, {{"#", "0"}});
}

absl::StatusOr<S4Names> FindS4Names(const Archive& archive, bool minimal) {
  for (const S4Names& names : KnownNames()) {
    if ((names.version == "minimal") == minimal && archive.tensors().contains(names.Key(names.decay))) {
      return names;
    }
  }
  return absl::FailedPreconditionError(absl::StrCat(
      archive.name(), " has no kernel of S4 or S4D where versions 2 to 4 of state-spaces/s4 put it"));
}

absl::StatusOr<S4Names> ChooseS4Names(SettingsReader& reader, bool minimal, bool diagonal) {
  const std::string backbone = minimal ? "example" : reader.Text({"backbone"}, "model");
  const std::string version = minimal ? "minimal" : reader.Text({"version"}, "4");
  EIGSVC_RETURN_IF_ERROR(reader.status());
  for (const S4Names& names : KnownNames()) {
    if (names.backbone != backbone || names.version != version) continue;
    // Before version 4 S4 calls Im A w_imag, and S4D A_imag.
    if (version != "3" || (names.frequency == "A_imag") == diagonal) return names;
  }
  return absl::FailedPreconditionError(
      absl::StrCat("settings backbone \"", backbone, "\" and version \"", version,
                   "\"; supported: backbone model or example, version 2, 3 or 4"));
}

absl::StatusOr<PositiveTransform> ReadTransform(SettingsReader& reader, SettingsReader::Names names,
                                                std::optional<std::string> fallback) {
  constexpr std::pair<absl::string_view, PositiveTransform> kTransforms[] = {
      {"none", PositiveTransform::kNone},
      {"exp", PositiveTransform::kExp},
      {"relu", PositiveTransform::kRelu},
      {"sigmoid", PositiveTransform::kSigmoid},
      {"softplus", PositiveTransform::kSoftplus}};
  const std::string value = reader.Text(names, std::move(fallback));
  EIGSVC_RETURN_IF_ERROR(reader.status());
  for (const auto& [name, transform] : kTransforms) {
    if (name == value) return transform;
  }
  return absl::FailedPreconditionError(absl::StrCat("setting \"", reader.Spelt(names), "\" is \"", value,
                                                    "\"; supported: none, exp, relu, sigmoid, softplus"));
}

}  // namespace eigsvc
