#include "models/zoo/settings_reader.h"

#include <algorithm>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
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

absl::string_view SettingsReader::Choose(Names names) const {
  for (const absl::string_view name : names) {
    if (settings_.Has(name)) return name;
  }
  return names.front();
}

bool SettingsReader::Has(Names names) const { return settings_.Has(Choose(names)); }

int64_t SettingsReader::Int(Names names, std::optional<int64_t> fallback) {
  const absl::string_view name = Choose(names);
  return Take(*this, fallback ? settings_.IntOr(name, *fallback) : settings_.Int(name));
}

double SettingsReader::Real(Names names, std::optional<double> fallback) {
  const absl::string_view name = Choose(names);
  return Take(*this, fallback ? settings_.RealOr(name, *fallback) : settings_.Real(name));
}

bool SettingsReader::Bool(Names names, std::optional<bool> fallback) {
  const absl::string_view name = Choose(names);
  return Take(*this, fallback ? settings_.BoolOr(name, *fallback) : settings_.Bool(name));
}

std::string SettingsReader::Text(Names names, std::optional<std::string> fallback) {
  const absl::string_view name = Choose(names);
  return Take(*this, fallback ? settings_.TextOr(name, *fallback) : settings_.Text(name));
}

std::vector<double> SettingsReader::Reals(Names names, std::vector<double> fallback) {
  const absl::string_view name = Choose(names);
  if (!settings_.Has(name)) return fallback;
  return Take(*this, settings_.Reals(name));
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
