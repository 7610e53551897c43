// SettingsReader: settings under whichever of several names a source uses ("d_model", "hidden_size"); the
// first error sticks, so that a family reads all of its settings and checks once.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "models/base/settings.h"

namespace eigsvc {

class SettingsReader {
 public:
  using Names = absl::Span<const absl::string_view>;

  explicit SettingsReader(const Settings& settings) : settings_(settings) {}

  // The first of `names` that is present, else `fallback`, else FAILED_PRECONDITION under the first name.
  int64_t Int(Names names, std::optional<int64_t> fallback = std::nullopt);
  double Real(Names names, std::optional<double> fallback = std::nullopt);
  bool Bool(Names names, std::optional<bool> fallback = std::nullopt);
  std::string Text(Names names, std::optional<std::string> fallback = std::nullopt);
  std::vector<double> Reals(Names names, std::vector<double> fallback);

  bool Has(Names names) const;

  // INVALID_ARGUMENT naming the setting unless low <= value <= high.
  int64_t IntWithin(Names names, int64_t low, int64_t high, std::optional<int64_t> fallback = std::nullopt);

  void Fail(absl::Status status);
  const absl::Status& status() const { return status_; }

 private:
  // The name to ask for: the first present one, or the first.
  absl::string_view Choose(Names names) const;

  const Settings& settings_;
  absl::Status status_;
};

// INVALID_ARGUMENT naming the first top-level key of `settings` that is not in `known`: for settings that a
// user typed, where a misspelt one must not silently mean the default.
absl::Status CheckKnownSettings(const Settings& settings, absl::string_view family,
                                const std::vector<std::string>& known);

}  // namespace eigsvc
