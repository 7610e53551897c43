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
// A product of a size and a setting without its fraction; what cannot be a size is 0 or above the largest.
int64_t WholePart(double size);

class SettingsReader {
 public:
  using Names = absl::Span<const absl::string_view>;

  explicit SettingsReader(const Settings& settings);

  // The first of `names` that is present, else `fallback`, else FAILED_PRECONDITION under the first name.
  // Integers that are present under several names must agree: FAILED_PRECONDITION naming both. Reals must be
  // finite, but for those in a list, which may be infinite.
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

  // INVALID_ARGUMENT naming the setting unless low <= value <= high. What is refused comes back as the
  // nearest that is not, so that arithmetic on sizes is safe before the status is looked at. `bounds`:
  // settings that `high` comes from.
  int64_t IntWithin(Names names, int64_t low, int64_t high, std::optional<int64_t> fallback = std::nullopt,
                    const std::vector<absl::string_view>& bounds = {});
  // The same of an eps or the like, at least 0; of a base or the like, above 0; and of the share of what is
  // dropped, at least 0 and below 1, where a silent configuration drops nothing.
  double NonNegative(Names names, double fallback);
  double Positive(Names names, double fallback);
  double Dropout(Names names);
  // FAILED_PRECONDITION naming the setting and what is supported for any other text.
  std::string Choice(Names names, const std::vector<std::string>& supported,
                     std::optional<std::string> fallback);

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

  // The name under which the source states a setting; the first of `names` where it does not.
  absl::string_view Spelt(Names names) const;
  // `status` with each of the settings that decided it and what it came to; OK stays OK.
  absl::Status Naming(absl::Status status, const std::vector<absl::string_view>& spelt) const;
  // INVALID_ARGUMENT for settings that do not go together: what is wrong, and they with their values.
  absl::Status Disagree(absl::string_view what, const std::vector<absl::string_view>& spelt) const;

  void Fail(absl::Status status);
  // Has the error there is, if any, name further settings that led to it.
  void Blame(const std::vector<absl::string_view>& spelt) { status_ = Naming(status_, spelt); }
  const absl::Status& status() const { return status_; }

 private:
  void RefuseReal(absl::string_view name, double value, absl::string_view wanted);

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
