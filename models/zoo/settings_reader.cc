#include "models/zoo/settings_reader.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <type_traits>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "models/base/status_util.h"

namespace eigsvc {
namespace {

template <typename T>
T Take(SettingsReader& reader, absl::StatusOr<T> value) {
  if (value.ok()) return *std::move(value);
  reader.Fail(value.status());
  return T();
}

}  // namespace

SettingsReader::SettingsReader(const Settings& settings)
    : settings_(settings), resolved_(std::make_shared<nlohmann::json>(nlohmann::json::object())) {}

absl::string_view SettingsReader::Choose(Names names) const {
  for (const absl::string_view name : names) {
    if (settings_.Has(name)) return name;
  }
  return names.front();
}

bool SettingsReader::Has(Names names) const { return settings_.Has(Choose(names)); }

// Remembers what `names` came to. JSON has no infinities: Settings reads them from text.
template <typename T>
T SettingsReader::Keep(Names names, T value) {
  for (const absl::string_view name : names) asked_.emplace(name.substr(0, name.find('.')));
  nlohmann::json* place = resolved_.get();
  for (const absl::string_view part : absl::StrSplit(names.front(), '.')) {
    if (!place->is_object()) *place = nlohmann::json::object();
    place = &(*place)[std::string(part)];
  }
  *place = value;
  if constexpr (std::is_same_v<T, double>) {
    if (std::isinf(value)) *place = value > 0 ? "Infinity" : "-Infinity";
  }
  return value;
}

int64_t SettingsReader::Int(Names names, std::optional<int64_t> fallback) {
  const absl::string_view name = Choose(names);
  return Keep(names, Take(*this, fallback ? settings_.IntOr(name, *fallback) : settings_.Int(name)));
}

double SettingsReader::Real(Names names, std::optional<double> fallback) {
  const absl::string_view name = Choose(names);
  return Keep(names, Take(*this, fallback ? settings_.RealOr(name, *fallback) : settings_.Real(name)));
}

bool SettingsReader::Bool(Names names, std::optional<bool> fallback) {
  const absl::string_view name = Choose(names);
  return Keep(names, Take(*this, fallback ? settings_.BoolOr(name, *fallback) : settings_.Bool(name)));
}

std::string SettingsReader::Text(Names names, std::optional<std::string> fallback) {
  const absl::string_view name = Choose(names);
  return Keep(names, Take(*this, fallback ? settings_.TextOr(name, *fallback) : settings_.Text(name)));
}

std::vector<double> SettingsReader::Reals(Names names, std::vector<double> fallback) {
  const absl::string_view name = Choose(names);
  return Keep(names, settings_.Has(name) ? Take(*this, settings_.Reals(name)) : std::move(fallback));
}

std::vector<int64_t> SettingsReader::Ints(Names names, std::vector<int64_t> fallback) {
  const absl::string_view name = Choose(names);
  return Keep(names, settings_.Has(name) ? Take(*this, settings_.Ints(name)) : std::move(fallback));
}

std::vector<std::string> SettingsReader::Texts(Names names, std::vector<std::string> fallback) {
  const absl::string_view name = Choose(names);
  return Keep(names, settings_.Has(name) ? Take(*this, settings_.Texts(name)) : std::move(fallback));
}

Settings SettingsReader::Resolved(absl::string_view family, absl::string_view layout) const {
  nlohmann::json object = *resolved_;
  object["family"] = std::string(family);
  object["layout"] = std::string(layout);
  return Settings(std::move(object), "the model's settings");
}

absl::Status SettingsReader::RefuseUnknown(const Settings& typed, absl::string_view family) const {
  std::vector<std::string> known(asked_.begin(), asked_.end());
  for (const char* always : {"family", "layout", "model_type", "architectures"}) known.emplace_back(always);
  return CheckKnownSettings(typed, family, known);
}

int64_t SettingsReader::IntWithin(Names names, int64_t low, int64_t high, std::optional<int64_t> fallback) {
  const int64_t value = Int(names, fallback);
  if (status_.ok() && (value < low || value > high)) {
    Fail(absl::InvalidArgumentError(absl::StrCat("setting \"", Choose(names), "\" is ", value,
                                                 "; it must be between ", low, " and ", high)));
  }
  return value;
}

void SettingsReader::Fail(absl::Status status) { status_.Update(std::move(status)); }

absl::Status CheckKnownSettings(const Settings& settings, absl::string_view family,
                                const std::vector<std::string>& known) {
  for (const std::string& key : settings.Keys()) {
    if (std::find(known.begin(), known.end(), key) != known.end()) continue;
    const absl::Status unknown = UnknownName(absl::StrCat(family, " setting"), key, known);
    return absl::InvalidArgumentError(unknown.message());
  }
  return absl::OkStatus();
}

}  // namespace eigsvc
