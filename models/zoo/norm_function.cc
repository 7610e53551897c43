#include "models/zoo/norm_function.h"

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace eigsvc {
namespace {

absl::Status Unsupported(absl::string_view setting, absl::string_view value,
                         const std::vector<std::string>& supported) {
  return absl::FailedPreconditionError(absl::StrCat("setting \"", setting, "\" is \"", value,
                                                    "\"; supported: ", absl::StrJoin(supported, ", ")));
}

}  // namespace

absl::Status ReadNormFunction(SettingsReader& reader, bool fresh, bool paper, NormalizedAttentionSpec& spec) {
  const auto text = [&](absl::string_view name, const char* fallback) {
    return reader.Text({name}, fresh ? std::optional<std::string>(fallback) : std::nullopt);
  };
  std::vector<std::pair<std::string, NormFunction>> functions = {{"exp", NormFunction::kExp},
                                                                 {"softplus", NormFunction::kSoftplus},
                                                                 {"sigmoid", NormFunction::kSigmoid}};
  if (paper) functions.emplace_back("elu", NormFunction::kElu);
  const std::string function = text("norm_fn", paper ? "softplus" : "exp");
  spec.exponential = paper;
  spec.feature_map = false;
  std::string map = "none", start = "exp", mode = "attention";
  if (paper) {
    map = text("approx_fn", "elu");
    spec.scale_keys = reader.Bool({"scale_B"}, fresh ? std::optional<bool>(true) : std::nullopt);
    start = reader.Text({"offset_init"}, "exp");
    mode = reader.Text({"mode"}, "attention");
    reader.Ignore({"learn_A"});  // as the reference does
  }
  if (!reader.status().ok()) return reader.status();
  std::vector<std::string> names;
  bool known = false;
  for (const auto& [name, value] : functions) {
    names.push_back(name);
    if (name != function) continue;
    spec.function = value;
    known = true;
  }
  if (!known) return Unsupported("norm_fn", function, names);
  if (map != "none" && map != "elu") return Unsupported("approx_fn", map, {"none", "elu"});
  if (start != "exp" && start != "uniform") return Unsupported("offset_init", start, {"exp", "uniform"});
  if (mode != "attention") return Unsupported("mode", mode, {"attention"});
  spec.feature_map = map == "elu";
  spec.even_offset = start == "exp";
  return absl::OkStatus();
}

}  // namespace eigsvc
