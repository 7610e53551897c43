// SettingsReader: settings under whichever of several names a source uses ("d_model", "hidden_size"); the
// first error sticks, so that a family reads all of its settings and checks once. What was asked for, and
// what it came to, is remembered: that is a family's canonical settings, and its list of the names it knows.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "models/base/settings.h"

namespace eigsvc {

inline constexpr int64_t kLargestSize = int64_t{1} << 24;  // of any width or count in a model's settings

class SettingsReader {
 public:
  using Names = absl::Span<const absl::string_view>;

  explicit SettingsReader(const Settings& settings);

  // The first of `names` that is present, else `fallback`, else FAILED_PRECONDITION under the first name.
  // Integers that are present under several names must agree: FAILED_PRECONDITION naming both.
  int64_t Int(Names names, std::optional<int64_t> fallback = std::nullopt);
  double Real(Names names, std::optional<double> fallback = std::nullopt);
  bool Bool(Names names, std::optional<bool> fallback = std::nullopt);
  std::string Text(Names names, std::optional<std::string> fallback = std::nullopt);
  std::vector<double> Reals(Names names, std::vector<double> fallback);
  std::vector<int64_t> Ints(Names names, std::vector<int64_t> fallback);
  std::vector<std::string> Texts(Names names, std::vector<std::string> fallback);

  // The same of settings that may be null, which is nothing, unlike an absent one.
  std::optional<int64_t> OptionalInt(Names names, std::optional<int64_t> fallback);
  std::optional<double> OptionalReal(Names names, std::optional<double> fallback);

  bool Has(Names names) const;
  // Settings that change nothing here, or are read elsewhere: known, but no part of what is resolved.
  void Ignore(Names names);

  // Remembers what was decided without the settings: by shapes that know better.
  int64_t Decided(Names names, int64_t value);

  // INVALID_ARGUMENT naming the setting unless low <= value <= high.
  int64_t IntWithin(Names names, int64_t low, int64_t high, std::optional<int64_t> fallback = std::nullopt);

  // Everything asked for so far, under the first of its names, as it was read or fell back: enough to build
  // the same architecture again. Shapes decided some of it, so it may say more than the source did.
  Settings Resolved(absl::string_view family, absl::string_view layout) const;
  // INVALID_ARGUMENT naming the first top-level key of `typed` that was never asked for: for settings that a
  // user typed (of a checkpoint: Detection::typed), where a misspelt one must not silently mean the default.
  absl::Status RefuseUnknown(const Settings& typed, absl::string_view family) const;

  // A size that the tensors of a checkpoint tell, where there is one: FAILED_PRECONDITION naming both where a
  // setting states another. Otherwise as IntWithin.
  int64_t StoredSize(Names names, std::optional<int64_t> stored, int64_t low, int64_t high, int64_t fallback);
  // The same for a setting that may say "auto": it, and an absent one, stand for `automatic`.
  int64_t IntOrAuto(Names names, int64_t low, int64_t high, int64_t automatic);

  void Fail(absl::Status status);
  const absl::Status& status() const { return status_; }

 private:
  // The name to ask for: the first present one, or the first.
  absl::string_view Choose(Names names) const;

  // One of `names`, not nested, is there and null.
  bool IsNull(Names names) const;

  template <typename T>
  T Keep(Names names, T value);

  const Settings& settings_;
  std::set<std::string> asked_;  // top-level names
  std::shared_ptr<nlohmann::json> resolved_;
  absl::Status status_;
};

// INVALID_ARGUMENT naming the first top-level key of `settings` that is not in `known`: for settings that a
// user typed, where a misspelt one must not silently mean the default. What a published configuration says of
// training, serving and names is always known.
absl::Status CheckKnownSettings(const Settings& settings, absl::string_view family,
                                const std::vector<std::string>& known);

}  // namespace eigsvc
