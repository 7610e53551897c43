#include "models/zoo/norm_function.h"

#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace eigsvc {

absl::Status ReadNormFunction(SettingsReader& reader, bool fresh, bool paper, NormalizedAttentionSpec& spec) {
  const auto stated = [&](const char* usual) {
    return fresh ? std::optional<std::string>(usual) : std::nullopt;
  };
  std::vector<std::pair<std::string, NormFunction>> functions = {{"exp", NormFunction::kExp},
                                                                 {"softplus", NormFunction::kSoftplus},
                                                                 {"sigmoid", NormFunction::kSigmoid}};
  if (paper) functions.emplace_back("elu", NormFunction::kElu);
  std::vector<std::string> names;
  for (const auto& [name, value] : functions) names.push_back(name);
  const std::string chosen = reader.Choice({"norm_fn"}, names, stated(paper ? "softplus" : "exp"));
  for (const auto& [name, value] : functions) {
    if (name == chosen) spec.function = value;
  }
  spec.exponential = paper;
  spec.feature_map = false;
  if (!paper) return reader.status();
  spec.feature_map = reader.Choice({"approx_fn"}, {"none", "elu"}, stated("elu")) == "elu";
  spec.scale_keys = reader.Bool({"scale_B"}, fresh ? std::optional<bool>(true) : std::nullopt);
  spec.even_offset = reader.Choice({"offset_init"}, {"exp", "uniform"}, "exp") == "exp";
  reader.Choice({"mode"}, {"attention"}, "attention");
  reader.Ignore({"learn_A"});  // as the reference does
  return reader.status();
}

}  // namespace eigsvc
