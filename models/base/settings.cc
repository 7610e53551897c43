#include "models/base/settings.h"

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "models/base/status_macros.h"

namespace eigsvc {
namespace {

using nlohmann::json;

constexpr size_t kMaxBytes = size_t{16} << 20;
constexpr int kMaxDepth = 32;

const json* Find(const json& object, absl::string_view key) {
  const json* node = &object;
  for (absl::string_view part : absl::StrSplit(key, '.')) {
    if (!node->is_object()) return nullptr;
    const auto it = node->find(std::string(part));
    if (it == node->end() || it->is_null()) return nullptr;
    node = &*it;
  }
  return node;
}

// Unlike a merge patch, a null stays: a family may tell it from an absent key.
void Merge(const json& over, json& into) {
  for (const auto& [key, value] : over.items()) {
    json& place = into[key];
    if (value.is_object() && place.is_object()) {
      Merge(value, place);
    } else {
      place = value;
    }
  }
}

absl::Status Missing(absl::string_view key, absl::string_view origin) {
  return absl::FailedPreconditionError(absl::StrCat("setting \"", key, "\" is missing from ",
                                                    origin.empty() ? "the settings" : origin,
                                                    "; add it there, or pass it in --config"));
}

absl::Status WrongType(absl::string_view key, absl::string_view origin, absl::string_view wanted,
                       const json& found) {
  std::string text = found.dump(-1, ' ', true, json::error_handler_t::replace);
  if (text.size() > 60) text = text.substr(0, 57) + "...";
  return absl::InvalidArgumentError(absl::StrCat("setting \"", key, "\" of ",
                                                 origin.empty() ? absl::string_view("the settings") : origin,
                                                 " must be ", wanted, ", not ", text));
}

std::optional<int64_t> ToInt(const json& node) {
  if (node.is_number_unsigned()) {
    const uint64_t value = node.get<uint64_t>();
    if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) return std::nullopt;
    return static_cast<int64_t>(value);
  }
  if (node.is_number_integer()) return node.get<int64_t>();
  if (node.is_number_float()) {
    const double value = node.get<double>();
    if (std::floor(value) == value && std::abs(value) < 9.0e15) return static_cast<int64_t>(value);
  }
  if (node.is_string()) {
    int64_t value;
    if (absl::SimpleAtoi(node.get_ref<const std::string&>(), &value)) return value;
  }
  return std::nullopt;
}

std::optional<double> ToReal(const json& node) {
  if (node.is_number()) return node.get<double>();
  if (node.is_string()) {
    double value;
    if (absl::SimpleAtod(node.get_ref<const std::string&>(), &value)) return value;
  }
  if (node.is_object() && node.size() == 1 && node.contains("__float__") && node["__float__"].is_string()) {
    return ToReal(node["__float__"]);
  }
  return std::nullopt;
}

std::optional<bool> ToBool(const json& node) {
  if (node.is_boolean()) return node.get<bool>();
  if (node.is_string()) {
    bool value;
    if (absl::SimpleAtob(node.get_ref<const std::string&>(), &value)) return value;
  }
  return std::nullopt;
}

// Puts quotes around the bare Infinity, -Infinity and NaN of Python's json module; anything else stays as it
// is.
std::string QuoteNonFinite(absl::string_view text) {
  std::string result;
  result.reserve(text.size() + 16);
  bool in_string = false;
  for (size_t i = 0; i < text.size();) {
    if (!in_string) {
      bool quoted = false;
      for (const absl::string_view word : {"-Infinity", "Infinity", "NaN"}) {
        if (text.substr(i, word.size()) == word) {
          absl::StrAppend(&result, "\"", word, "\"");
          i += word.size();
          quoted = true;
          break;
        }
      }
      if (quoted) continue;
    } else if (text[i] == '\\' && i + 1 < text.size()) {
      result += text[i++];
      result += text[i++];
      continue;
    }
    if (text[i] == '"') in_string = !in_string;
    result += text[i++];
  }
  return result;
}

template <typename T>
absl::StatusOr<T> Or(absl::StatusOr<T> value, bool present, T fallback) {
  if (present) return value;
  return fallback;
}

}  // namespace

Settings::Settings() : object_(std::make_shared<const json>(json::object())) {}
Settings::Settings(json object, absl::string_view origin)
    : object_(std::make_shared<const json>(object.is_object() ? std::move(object) : json::object())),
      origin_(origin) {}

absl::StatusOr<Settings> Settings::Parse(absl::string_view text, absl::string_view origin) {
  if (text.size() > kMaxBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(origin, " has ", text.size(), " bytes; settings are at most 16 MiB"));
  }
  bool too_deep = false;
  auto limit = [&](int depth, json::parse_event_t, json&) {
    too_deep = too_deep || depth > kMaxDepth;
    return !too_deep;
  };
  json object = json::parse(text.begin(), text.end(), limit, /*allow_exceptions=*/false);
  if (object.is_discarded() && !too_deep) {
    object = json::parse(QuoteNonFinite(text), limit, /*allow_exceptions=*/false);
  }
  if (too_deep)
    return absl::InvalidArgumentError(absl::StrCat(origin, " nests deeper than ", kMaxDepth, " levels"));
  if (object.is_discarded()) return absl::InvalidArgumentError(absl::StrCat(origin, " is not valid JSON"));
  if (!object.is_object())
    return absl::InvalidArgumentError(absl::StrCat(origin, " must hold a JSON object"));
  return Settings(std::move(object), origin);
}

bool Settings::empty() const { return object_->empty(); }
const std::string& Settings::origin() const { return origin_; }
bool Settings::Has(absl::string_view key) const { return Find(*object_, key) != nullptr; }

std::vector<std::string> Settings::Keys() const {
  std::vector<std::string> keys;
  for (const auto& item : object_->items()) keys.push_back(item.key());
  return keys;
}

absl::StatusOr<int64_t> Settings::Int(absl::string_view key) const {
  const json* node = Find(*object_, key);
  if (node == nullptr) return Missing(key, origin_);
  if (const auto value = ToInt(*node)) return *value;
  return WrongType(key, OriginOf(key), "an integer", *node);
}

absl::StatusOr<double> Settings::Real(absl::string_view key) const {
  const json* node = Find(*object_, key);
  if (node == nullptr) return Missing(key, origin_);
  if (const auto value = ToReal(*node)) return *value;
  return WrongType(key, OriginOf(key), "a number", *node);
}

absl::StatusOr<bool> Settings::Bool(absl::string_view key) const {
  const json* node = Find(*object_, key);
  if (node == nullptr) return Missing(key, origin_);
  if (const auto value = ToBool(*node)) return *value;
  return WrongType(key, OriginOf(key), "true or false", *node);
}

absl::StatusOr<std::string> Settings::Text(absl::string_view key) const {
  const json* node = Find(*object_, key);
  if (node == nullptr) return Missing(key, origin_);
  if (node->is_string()) return node->get<std::string>();
  return WrongType(key, OriginOf(key), "a string", *node);
}

absl::StatusOr<std::vector<int64_t>> Settings::Ints(absl::string_view key) const {
  const json* node = Find(*object_, key);
  if (node == nullptr) return Missing(key, origin_);
  if (!node->is_array()) return WrongType(key, OriginOf(key), "a list of integers", *node);
  std::vector<int64_t> values;
  for (const json& item : *node) {
    const auto value = ToInt(item);
    if (!value) return WrongType(key, OriginOf(key), "a list of integers", *node);
    values.push_back(*value);
  }
  return values;
}

absl::StatusOr<std::vector<double>> Settings::Reals(absl::string_view key) const {
  const json* node = Find(*object_, key);
  if (node == nullptr) return Missing(key, origin_);
  if (!node->is_array()) return WrongType(key, OriginOf(key), "a list of numbers", *node);
  std::vector<double> values;
  for (const json& item : *node) {
    const auto value = ToReal(item);
    if (!value) return WrongType(key, OriginOf(key), "a list of numbers", *node);
    values.push_back(*value);
  }
  return values;
}

absl::StatusOr<std::vector<std::string>> Settings::Texts(absl::string_view key) const {
  const json* node = Find(*object_, key);
  if (node == nullptr) return Missing(key, origin_);
  if (!node->is_array()) return WrongType(key, OriginOf(key), "a list of strings", *node);
  std::vector<std::string> values;
  for (const json& item : *node) {
    if (!item.is_string()) return WrongType(key, OriginOf(key), "a list of strings", *node);
    values.push_back(item.get<std::string>());
  }
  return values;
}

absl::StatusOr<Settings> Settings::Child(absl::string_view key) const {
  const json* node = Find(*object_, key);
  if (node == nullptr) return Settings(json::object(), absl::StrCat(origin_, " (", key, ")"));
  if (!node->is_object()) return WrongType(key, OriginOf(key), "an object", *node);
  return Settings(*node, absl::StrCat(origin_, " (", key, ")"));
}

absl::StatusOr<int64_t> Settings::IntOr(absl::string_view key, int64_t fallback) const {
  return Or(Int(key), Has(key), fallback);
}
absl::StatusOr<double> Settings::RealOr(absl::string_view key, double fallback) const {
  return Or(Real(key), Has(key), fallback);
}
absl::StatusOr<bool> Settings::BoolOr(absl::string_view key, bool fallback) const {
  return Or(Bool(key), Has(key), fallback);
}
absl::StatusOr<std::string> Settings::TextOr(absl::string_view key, absl::string_view fallback) const {
  return Or(Text(key), Has(key), std::string(fallback));
}

namespace {
std::shared_ptr<const json> With(const json& object, absl::string_view key, json value) {
  json copy = object;
  copy[std::string(key)] = std::move(value);
  return std::make_shared<const json>(std::move(copy));
}
}  // namespace

void Settings::Set(absl::string_view key, int64_t value) { object_ = With(*object_, key, value); }
void Settings::Set(absl::string_view key, double value) { object_ = With(*object_, key, value); }
void Settings::Set(absl::string_view key, bool value) { object_ = With(*object_, key, value); }
void Settings::Set(absl::string_view key, absl::string_view value) {
  object_ = With(*object_, key, std::string(value));
}
void Settings::Set(absl::string_view key, const Settings& child) {
  object_ = With(*object_, key, *child.object_);
}

Settings Settings::MergedWith(const Settings& over) const {
  json merged = *object_;
  Merge(*over.object_, merged);
  std::string origin = origin_;
  if (!over.origin_.empty() && over.origin_ != origin_) {
    origin = origin_.empty() ? over.origin_ : absl::StrCat(origin_, " with ", over.origin_);
  }
  Settings result(std::move(merged), origin);
  std::vector<Layer> layers = Layers();
  for (Layer& layer : over.Layers()) layers.push_back(std::move(layer));
  result.merged_from_ = std::make_shared<const std::vector<Layer>>(std::move(layers));
  return result;
}

std::vector<Settings::Layer> Settings::Layers() const {
  return merged_from_ != nullptr ? *merged_from_ : std::vector<Layer>{{object_, origin_}};
}

const std::string& Settings::OriginOf(absl::string_view key) const {
  if (merged_from_ == nullptr) return origin_;
  for (auto layer = merged_from_->rbegin(); layer != merged_from_->rend(); ++layer) {
    if (Find(*layer->object, key) != nullptr && !layer->origin.empty()) return layer->origin;
  }
  return origin_;
}

const json& Settings::object() const { return *object_; }
std::string Settings::ToJson() const {
  return object_->dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace eigsvc
