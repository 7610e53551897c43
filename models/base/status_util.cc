#include "models/base/status_util.h"

#include <algorithm>
#include <numeric>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "models/base/utf8.h"

namespace eigsvc {
namespace {

// Levenshtein distance, for suggestions only.
size_t EditDistance(absl::string_view a, absl::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t substituted = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, substituted});
    }
  }
  return row.back();
}

}  // namespace

absl::Status WithMessage(const absl::Status& status, absl::string_view message) {
  if (status.ok()) return status;
  absl::Status changed(status.code(), message);
  status.ForEachPayload(
      [&](absl::string_view url, const absl::Cord& payload) { changed.SetPayload(url, payload); });
  return changed;
}

absl::Status Annotate(const absl::Status& status, absl::string_view context) {
  return WithMessage(status, absl::StrCat(context, ": ", status.message()));
}

absl::Status UnknownName(absl::string_view kind, absl::string_view name,
                         const std::vector<std::string>& known) {
  std::string message =
      absl::StrCat("unknown ", kind, " \"", ToUtf8(name, 200), "\"; known: ", absl::StrJoin(known, ", "));
  if (name.size() <= 64) {
    size_t best = name.size() / 2 + 1;
    const std::string* closest = nullptr;
    for (const std::string& candidate : known) {
      if (const size_t distance = EditDistance(name, candidate); distance < best) {
        best = distance;
        closest = &candidate;
      }
    }
    if (closest != nullptr) absl::StrAppend(&message, "; did you mean \"", *closest, "\"?");
  }
  return absl::NotFoundError(message);
}

}  // namespace eigsvc
