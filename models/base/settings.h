// Settings: a read-mostly JSON object with typed look-ups whose errors name the key and where it was sought.
// Used for config.json, safetensors metadata, pickled configs, --config overrides and task parameters.
// Value type; copies are cheap (shared, copy on write). Thread rule: like std::string.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace eigsvc {

class Settings {
 public:
  Settings();  // {}
  // `origin` is named in every later error ("config.json", "metadata of model.safetensors", "--config").
  // Infinity, -Infinity and NaN, which Python's json module writes, are taken as Real() reads them.
  // INVALID_ARGUMENT: not JSON, not an object, nested deeper than 32, or larger than 16 MiB.
  static absl::StatusOr<Settings> Parse(absl::string_view json, absl::string_view origin);
  Settings(nlohmann::json object, absl::string_view origin);

  bool empty() const;
  const std::string& origin() const;
  // Where the value of `key` comes from, of what this was merged from.
  const std::string& OriginOf(absl::string_view key) const;

  // `key` may be dotted for nested objects: "rope_scaling.factor". A JSON null counts as absent.
  bool Has(absl::string_view key) const;
  std::vector<std::string> Keys() const;  // top level, sorted

  // FAILED_PRECONDITION if absent (the message names key, origin and --config), INVALID_ARGUMENT if of
  // another type. Integers are accepted where a real is asked; integral reals and decimal strings where an
  // integer is asked; "true"/"false" strings where a bool is asked (safetensors metadata holds strings only);
  // "Infinity" and transformers' {"__float__": "Infinity"} where a real is asked.
  absl::StatusOr<int64_t> Int(absl::string_view key) const;
  absl::StatusOr<double> Real(absl::string_view key) const;
  absl::StatusOr<bool> Bool(absl::string_view key) const;
  absl::StatusOr<std::string> Text(absl::string_view key) const;
  absl::StatusOr<std::vector<int64_t>> Ints(absl::string_view key) const;
  absl::StatusOr<std::vector<double>> Reals(absl::string_view key) const;
  absl::StatusOr<std::vector<std::string>> Texts(absl::string_view key) const;
  // The nested object, or an empty one when absent.
  absl::StatusOr<Settings> Child(absl::string_view key) const;

  // The default when absent; still INVALID_ARGUMENT for another type.
  absl::StatusOr<int64_t> IntOr(absl::string_view key, int64_t fallback) const;
  absl::StatusOr<double> RealOr(absl::string_view key, double fallback) const;
  absl::StatusOr<bool> BoolOr(absl::string_view key, bool fallback) const;
  absl::StatusOr<std::string> TextOr(absl::string_view key, absl::string_view fallback) const;

  void Set(absl::string_view key, int64_t value);  // top-level keys only (no dots interpreted)
  void Set(absl::string_view key, double value);
  void Set(absl::string_view key, bool value);
  void Set(absl::string_view key, absl::string_view value);
  void Set(absl::string_view key, const char* value) { Set(key, absl::string_view(value)); }
  void Set(absl::string_view key, const Settings& child);

  // Keys of `over` win, nulls included; nested objects are merged key by key.
  Settings MergedWith(const Settings& over) const;

  const nlohmann::json& object() const;
  std::string ToJson() const;  // canonical: sorted keys, no spaces

 private:
  struct Layer {
    std::shared_ptr<const nlohmann::json> object;
    std::string origin;
  };
  std::vector<Layer> Layers() const;

  std::shared_ptr<const nlohmann::json> object_;
  std::string origin_;
  std::shared_ptr<const std::vector<Layer>> merged_from_;  // lowest first; null: itself alone
};

}  // namespace eigsvc
