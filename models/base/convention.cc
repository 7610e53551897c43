#include "models/base/convention.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "models/base/status_macros.h"

namespace eigsvc {
namespace {

struct Switch {
  absl::string_view name;
  bool Departures::*member;
};
constexpr Switch kSwitches[] = {
    {"E1", &Departures::layer_output},     {"E2", &Departures::skip_norm},
    {"E3", &Departures::unscaled_scores},  {"E4", &Departures::masked_as_zero},
    {"E5", &Departures::skip_convolution}, {"E6", &Departures::count_padding},
    {"E7", &Departures::clamp_zero},       {"E8", &Departures::one_channel},
    {"E9", &Departures::closed_bins},      {"E10", &Departures::signed_phase},
};

constexpr absl::string_view kAnalysedFamilies =
    "softmax-attention, linear-attention, norm-attention, mamba2, lru, s4 and s5, in layout paper";

constexpr Gauge kGauges[] = {Gauge::kDefault, Gauge::kDsf, Gauge::kRaw};
constexpr Rotation kRotations[] = {Rotation::kDefault, Rotation::kIo, Rotation::kState};

template <typename... Parts>
absl::Status Invalid(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(parts...));
}

// The value of that name; `field` and the other names are put into the error.
template <typename Value, size_t size, typename Name>
absl::StatusOr<Value> Parse(absl::string_view field, absl::string_view text, const Value (&values)[size],
                            Name name_of) {
  std::vector<absl::string_view> known;
  for (const Value value : values) {
    if (name_of(value) == text) return value;
    if (!name_of(value).empty()) known.push_back(name_of(value));
  }
  return Invalid(field, " \"", text.substr(0, 100), "\" is none of ", absl::StrJoin(known, ", "),
                 " (empty: the model's own)");
}

// The model's default, or what was asked where the model supports it.
template <typename Value, typename Name>
absl::StatusOr<Value> Choose(absl::string_view field, Value asked, const std::vector<Value>& supported,
                             Name name_of, absl::string_view family) {
  if (asked == Value::kDefault) return supported.front();
  if (std::count(supported.begin(), supported.end(), asked) > 0) return asked;
  const auto append = [&](std::string* out, Value value) { absl::StrAppend(out, name_of(value)); };
  return Invalid(field, " \"", name_of(asked), "\" means nothing for ", family, "; it has ",
                 absl::StrJoin(supported, ", ", append));
}

}  // namespace

Departures Departures::All() {
  Departures all;
  for (const Switch& each : kSwitches) all.*each.member = true;
  return all;
}

absl::string_view DefinitionName(const Departures& departures) {
  return departures.Any() ? "PAPER_COMPAT" : "EXACT";
}

absl::string_view GaugeName(Gauge gauge) {
  return gauge == Gauge::kDsf ? "dsf" : gauge == Gauge::kRaw ? "raw" : "";
}

absl::string_view RotationName(Rotation rotation) {
  return rotation == Rotation::kIo ? "io" : rotation == Rotation::kState ? "state" : "";
}

std::vector<std::string> DepartureNames(const Departures& departures) {
  std::vector<std::string> names;
  for (const Switch& each : kSwitches) {
    if (departures.*each.member) names.emplace_back(each.name);
  }
  return names;
}

absl::StatusOr<Convention> ParseConvention(absl::string_view definition,
                                           const std::vector<std::string>& departures,
                                           absl::string_view gauge, absl::string_view rotation) {
  Convention convention;
  EIGSVC_ASSIGN_OR_RETURN(convention.gauge, Parse("gauge", gauge, kGauges, GaugeName));
  EIGSVC_ASSIGN_OR_RETURN(convention.rotation, Parse("rotation", rotation, kRotations, RotationName));
  if (definition.empty() || definition == "EXACT") {
    if (departures.empty()) return convention;
    return Invalid("the departures ", absl::StrJoin(departures, ", "), " belong to definition PAPER_COMPAT");
  }
  if (definition != "PAPER_COMPAT") {
    return Invalid("definition \"", definition.substr(0, 100),
                   "\" is neither EXACT (also when empty) nor PAPER_COMPAT");
  }
  if (departures.empty()) convention.departures = Departures::All();
  for (const std::string& name : departures) {
    const auto found = std::find_if(std::begin(kSwitches), std::end(kSwitches),
                                    [&](const Switch& each) { return each.name == name; });
    if (found == std::end(kSwitches)) {
      return Invalid("departure \"", name.substr(0, 100), "\" of PAPER_COMPAT is none of E1 to E10");
    }
    convention.departures.*found->member = true;
  }
  return convention;
}

absl::StatusOr<Convention> ResolveConvention(const Convention& asked, const ConventionSupport& support,
                                             absl::string_view family) {
  Convention resolved = asked;
  EIGSVC_ASSIGN_OR_RETURN(resolved.gauge, Choose("gauge", asked.gauge, support.gauges, GaugeName, family));
  EIGSVC_ASSIGN_OR_RETURN(resolved.rotation,
                          Choose("rotation", asked.rotation, support.rotations, RotationName, family));
  if (!asked.departures.Any()) return resolved;
  if (!support.departures.Any()) {
    return Invalid("definition PAPER_COMPAT is that of the models that arXiv 2510.09379 analyses (",
                   kAnalysedFamilies, "); this ", family, " has EXACT only");
  }
  if (resolved.gauge != support.gauges.front()) {
    return Invalid("gauge \"", GaugeName(resolved.gauge), "\" means nothing for definition PAPER_COMPAT of ",
                   family, "; it has ", GaugeName(support.gauges.front()));
  }
  if (asked.departures == Departures::All()) {
    resolved.departures = support.departures;
    return resolved;
  }
  for (const Switch& each : kSwitches) {
    if (asked.departures.*each.member && !(support.departures.*each.member)) {
      return Invalid("departure ", each.name, " of PAPER_COMPAT means nothing for ", family, "; it has ",
                     absl::StrJoin(DepartureNames(support.departures), ", "));
    }
  }
  return resolved;
}

}  // namespace eigsvc
