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

}  // namespace

SettingsReader::SettingsReader(const Settings& settings)
    : settings_(settings), resolved_(std::make_shared<nlohmann::json>(nlohmann::json::object())) {}

absl::string_view SettingsReader::Choose(Names names) const {
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

bool SettingsReader::Has(Names names) const { return settings_.Has(Choose(names)); }

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
  const absl::string_view name = Choose(names);
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
  const absl::string_view name = Choose(names);
  return Keep(names, Take(*this, fallback ? settings_.RealOr(name, *fallback) : settings_.Real(name)));
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

int64_t SettingsReader::IntWithin(Names names, int64_t low, int64_t high, std::optional<int64_t> fallback) {
  const int64_t value = Int(names, fallback);
  if (status_.ok() && (value < low || value > high)) {
    Fail(absl::InvalidArgumentError(absl::StrCat("setting \"", Choose(names), "\" is ", value,
                                                 "; it must be between ", low, " and ", high)));
  }
  return value;
}

int64_t SettingsReader::StoredSize(Names names, std::optional<int64_t> stored, int64_t low, int64_t high,
                                   int64_t fallback) {
  const int64_t value = IntWithin(names, low, high, stored.value_or(fallback));
  if (status_.ok() && stored && value != *stored) {
    const std::string& origin = settings_.OriginOf(Choose(names));
    Fail(absl::FailedPreconditionError(
        absl::StrCat("setting \"", Choose(names), "\" of ", origin.empty() ? "the settings" : origin, " is ",
                     value, ", but the weights have ", *stored,
                     "; mend the setting (--config), or give the weights that it belongs to")));
  }
  return value;
}

int64_t SettingsReader::IntOrAuto(Names names, int64_t low, int64_t high, int64_t automatic) {
  const absl::StatusOr<std::string> text = settings_.TextOr(Choose(names), "");
  if (text.ok() && *text == "auto") return Keep(names, automatic);
  return IntWithin(names, low, high, automatic);
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
