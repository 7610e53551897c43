#include "models/zoo/settings_reader.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <nlohmann/json.hpp>
#include <type_traits>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
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

// What published configurations say beside the architecture: how a model was trained, is served, or is named.
constexpr absl::string_view kWithoutEffect[] = {"architectures",
                                                "auto_map",
                                                "dtype",
                                                "family",
                                                "finetuning_task",
                                                "gradient_checkpointing",
                                                "id2label",
                                                "initializer_range",
                                                "is_decoder",
                                                "is_encoder_decoder",
                                                "keys_to_ignore_at_inference",
                                                "label2id",
                                                "layout",
                                                "max_batch_size",
                                                "model_type",
                                                "output_attentions",
                                                "output_hidden_states",
                                                "pretraining_tp",
                                                "problem_type",
                                                "return_dict",
                                                "task",
                                                "task_specific_params",
                                                "tokenizer_class",
                                                "torch_dtype",
                                                "torchscript",
                                                "training",
                                                "transformers_version",
                                                "use_bfloat16",
                                                "use_cache"};

bool IsWithoutEffect(absl::string_view key) {
  return std::find(std::begin(kWithoutEffect), std::end(kWithoutEffect), key) != std::end(kWithoutEffect) ||
         absl::StartsWith(key, "_") || absl::StartsWith(key, "summary_") ||
         absl::EndsWith(key, "_token_id") || absl::StrContains(key, "dropout") ||
         absl::EndsWith(key, "_pdrop");
}

// JSON has no infinities: Settings reads them from text.
nlohmann::json Written(double value) {
  if (std::isinf(value)) return value > 0 ? "Infinity" : "-Infinity";
  return value;
}

// For messages; empty where there is none.
std::string ValueOf(const nlohmann::json& object, absl::string_view name) {
  const nlohmann::json::json_pointer place("/" + absl::StrReplaceAll(name, {{".", "/"}}));
  if (!object.contains(place)) return "";
  const std::string text = object[place].dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
  return text.size() > 60 ? text.substr(0, 57) + "..." : text;
}

}  // namespace

int64_t WholePart(double size) {
  return size >= 0 ? static_cast<int64_t>(std::min(size, 2.0 * kLargestSize)) : 0;
}

SettingsReader::SettingsReader(const Settings& settings)
    : settings_(settings), resolved_(std::make_shared<nlohmann::json>(nlohmann::json::object())) {}

absl::string_view SettingsReader::Spelt(Names names) const {
  for (const absl::string_view name : names) {
    if (settings_.Has(name)) return name;
  }
  return names.front();
}

bool SettingsReader::IsNull(Names names) const {
  const nlohmann::json& object = settings_.object();
  return !Has(names) && std::any_of(names.begin(), names.end(), [&](absl::string_view name) {
    return object.contains(std::string(name));
  });
}

bool SettingsReader::Has(Names names) const { return settings_.Has(Spelt(names)); }

void SettingsReader::Ignore(Names names) {
  for (const absl::string_view name : names) asked_.emplace(name.substr(0, name.find('.')));
}

// Remembers what `names` came to.
template <typename T>
T SettingsReader::Keep(Names names, T value) {
  for (const absl::string_view name : names) asked_.emplace(name.substr(0, name.find('.')));
  nlohmann::json* place = resolved_.get();
  for (const absl::string_view part : absl::StrSplit(names.front(), '.')) {
    if (!place->is_object()) *place = nlohmann::json::object();
    place = &(*place)[std::string(part)];
  }
  if constexpr (std::is_same_v<T, double>) {
    *place = Written(value);
  } else if constexpr (std::is_same_v<T, std::vector<double>>) {
    *place = nlohmann::json::array();
    for (const double element : value) place->push_back(Written(element));
  } else {
    *place = value;
  }
  return value;
}

int64_t SettingsReader::Int(Names names, std::optional<int64_t> fallback) {
  const absl::string_view name = Spelt(names);
  const int64_t value = Take(*this, fallback ? settings_.IntOr(name, *fallback) : settings_.Int(name));
  for (const absl::string_view other : names) {
    if (other == name || !settings_.Has(other) || !status_.ok()) continue;
    if (const int64_t also = Take(*this, settings_.Int(other)); also != value) {
      Fail(absl::FailedPreconditionError(
          absl::StrCat("settings \"", name, "\" (", value, ") and \"", other, "\" (", also,
                       ") are two names of one size and disagree; mend one of them (--config)")));
    }
  }
  return Keep(names, value);
}

double SettingsReader::Real(Names names, std::optional<double> fallback) {
  const absl::string_view name = Spelt(names);
  const double value = Take(*this, fallback ? settings_.RealOr(name, *fallback) : settings_.Real(name));
  if (!std::isfinite(value)) RefuseReal(name, value, "a finite number");
  return Keep(names, value);
}

void SettingsReader::RefuseReal(absl::string_view name, double value, absl::string_view wanted) {
  if (!status_.ok()) return;
  Fail(
      absl::InvalidArgumentError(absl::StrCat("setting \"", name, "\" is ", value, "; it must be ", wanted)));
}

double SettingsReader::NonNegative(Names names, double fallback) {
  const double value = Real(names, fallback);
  if (value < 0) RefuseReal(Spelt(names), value, "at least 0");
  return value;
}

double SettingsReader::Positive(Names names, double fallback) {
  const double value = Real(names, fallback);
  if (value <= 0) RefuseReal(Spelt(names), value, "above 0");
  return value;
}

double SettingsReader::Dropout(Names names) {
  const double value = Real(names, 0);
  if (value < 0 || value >= 1) RefuseReal(Spelt(names), value, "at least 0 and below 1");
  return value;
}

std::optional<int64_t> SettingsReader::OptionalInt(Names names, std::optional<int64_t> fallback) {
  if (!IsNull(names) && (fallback || Has(names))) return Int(names, fallback);
  Keep(names, nullptr);
  return std::nullopt;
}

std::optional<double> SettingsReader::OptionalReal(Names names, std::optional<double> fallback) {
  if (!IsNull(names) && (fallback || Has(names))) return Real(names, fallback);
  Keep(names, nullptr);
  return std::nullopt;
}

bool SettingsReader::Bool(Names names, std::optional<bool> fallback) {
  const absl::string_view name = Spelt(names);
  return Keep(names, Take(*this, fallback ? settings_.BoolOr(name, *fallback) : settings_.Bool(name)));
}

std::string SettingsReader::Text(Names names, std::optional<std::string> fallback) {
  const absl::string_view name = Spelt(names);
  return Keep(names, Take(*this, fallback ? settings_.TextOr(name, *fallback) : settings_.Text(name)));
}

std::string SettingsReader::Choice(Names names, const std::vector<std::string>& supported,
                                   std::optional<std::string> fallback) {
  std::string value = Text(names, std::move(fallback));
  if (status_.ok() && std::find(supported.begin(), supported.end(), value) == supported.end()) {
    Fail(absl::FailedPreconditionError(absl::StrCat("setting \"", Spelt(names), "\" is \"", value,
                                                    "\"; supported: ", absl::StrJoin(supported, ", "))));
  }
  return value;
}

std::vector<double> SettingsReader::Reals(Names names, std::vector<double> fallback) {
  const absl::string_view name = Spelt(names);
  std::vector<double> values = settings_.Has(name) ? Take(*this, settings_.Reals(name)) : std::move(fallback);
  for (const double value : values) {
    if (std::isnan(value)) RefuseReal(name, value, "a list of numbers");
  }
  return Keep(names, std::move(values));
}

std::vector<int64_t> SettingsReader::Ints(Names names, std::vector<int64_t> fallback) {
  const absl::string_view name = Spelt(names);
  return Keep(names, settings_.Has(name) ? Take(*this, settings_.Ints(name)) : std::move(fallback));
}

std::vector<std::string> SettingsReader::Texts(Names names, std::vector<std::string> fallback) {
  const absl::string_view name = Spelt(names);
  return Keep(names, settings_.Has(name) ? Take(*this, settings_.Texts(name)) : std::move(fallback));
}

int64_t SettingsReader::Decided(Names names, int64_t value) { return Keep(names, value); }

Settings SettingsReader::Resolved(absl::string_view family, absl::string_view layout) const {
  nlohmann::json object = *resolved_;
  object["family"] = std::string(family);
  object["layout"] = std::string(layout);
  return Settings(std::move(object), "the model's settings");
}

absl::Status SettingsReader::RefuseUnknown(const Settings& typed, absl::string_view family) const {
  return CheckKnownSettings(typed, family, {asked_.begin(), asked_.end()});
}

int64_t SettingsReader::IntWithin(Names names, int64_t low, int64_t high, std::optional<int64_t> fallback,
                                  const std::vector<absl::string_view>& bounds) {
  const int64_t value = Int(names, fallback);
  if (status_.ok() && (value < low || value > high)) {
    Fail(Naming(absl::InvalidArgumentError(absl::StrCat("setting \"", Spelt(names), "\" is ", value,
                                                        "; it must be between ", low, " and ", high)),
                bounds));
  }
  return std::clamp(value, low, std::max(low, high));
}

int64_t SettingsReader::StoredSize(Names names, std::optional<int64_t> stored, int64_t low, int64_t high,
                                   int64_t fallback) {
  const int64_t value = IntWithin(names, low, high, stored.value_or(fallback));
  if (status_.ok() && stored && value != *stored) {
    const std::string& origin = settings_.OriginOf(Spelt(names));
    Fail(absl::FailedPreconditionError(
        absl::StrCat("setting \"", Spelt(names), "\" of ", origin.empty() ? "the settings" : origin, " is ",
                     value, ", but the weights have ", *stored,
                     "; mend the setting (--config), or give the weights that it belongs to")));
  }
  return value;
}

int64_t SettingsReader::IntOrAuto(Names names, int64_t low, int64_t high, int64_t automatic) {
  const absl::StatusOr<std::string> text = settings_.TextOr(Spelt(names), "");
  if (text.ok() && *text == "auto") return Keep(names, automatic);
  return IntWithin(names, low, high, automatic);
}

absl::Status SettingsReader::Naming(absl::Status status, const std::vector<absl::string_view>& spelt) const {
  if (status.ok() || spelt.empty()) return status;
  std::vector<std::string> named;
  for (const absl::string_view name : spelt) {
    const std::string value =
        settings_.Has(name) ? ValueOf(settings_.object(), name) : ValueOf(*resolved_, name);
    named.push_back(absl::StrCat("\"", name, "\"", value.empty() ? "" : " = ", value));
  }
  return WithMessage(status, absl::StrCat(status.message(), " (", spelt.size() > 1 ? "settings " : "setting ",
                                          absl::StrJoin(named, ", "), ")"));
}

absl::Status SettingsReader::Disagree(absl::string_view what,
                                      const std::vector<absl::string_view>& spelt) const {
  return Naming(absl::InvalidArgumentError(absl::StrCat("settings disagree: ", what)), spelt);
}

void SettingsReader::Fail(absl::Status status) { status_.Update(std::move(status)); }

absl::Status CheckKnownSettings(const Settings& settings, absl::string_view family,
                                const std::vector<std::string>& known) {
  for (const std::string& key : settings.Keys()) {
    if (IsWithoutEffect(key) || std::find(known.begin(), known.end(), key) != known.end()) continue;
    const absl::Status unknown = UnknownName(absl::StrCat(family, " setting"), key, known);
    return absl::InvalidArgumentError(unknown.message());
  }
  return absl::OkStatus();
}

}  // namespace eigsvc
