#include "models/tasks/parameters.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "models/base/status_util.h"

namespace eigsvc {

template <typename T>
T ParameterReader::Keep(absl::string_view name, absl::StatusOr<T> value, T fallback) {
  if (!value.ok()) {
    if (status_.ok()) status_ = Annotate(value.status(), task_);
    return fallback;
  }
  if constexpr (std::is_same_v<T, std::string>) {
    resolved_.Set(name, absl::string_view(*value));
  } else {
    resolved_.Set(name, *value);
  }
  return *std::move(value);
}

int64_t ParameterReader::Int(absl::string_view name, int64_t fallback, int64_t low, int64_t high) {
  const int64_t value = Keep(name, given_.IntOr(name, fallback), fallback);
  if (value >= low && value <= high) return value;
  Fail(absl::StrCat(name, " is ", value, "; it must lie in [", low, ", ", high, "]"));
  return fallback;
}

double ParameterReader::Real(absl::string_view name, double fallback, double low, double high) {
  const double value = Keep(name, given_.RealOr(name, fallback), fallback);
  if (value >= low && value <= high) return value;
  Fail(absl::StrCat(name, " is ", value, "; it must lie in [", low, ", ", high, "]"));
  return fallback;
}

bool ParameterReader::Bool(absl::string_view name, bool fallback) {
  return Keep(name, given_.BoolOr(name, fallback), fallback);
}

std::string ParameterReader::Text(absl::string_view name, absl::string_view fallback) {
  return Keep(name, given_.TextOr(name, fallback), std::string(fallback));
}

std::string ParameterReader::Choice(absl::string_view name,
                                    std::initializer_list<absl::string_view> choices) {
  const std::string value = Text(name, *choices.begin());
  if (std::find(choices.begin(), choices.end(), value) != choices.end()) return value;
  Fail(absl::StrCat(name, " is \"", value.substr(0, 64), "\"; known: ", absl::StrJoin(choices, ", ")));
  return std::string(*choices.begin());
}

void ParameterReader::Fail(absl::string_view what) {
  if (status_.ok()) status_ = absl::InvalidArgumentError(absl::StrCat(task_, ": ", what));
}

}  // namespace eigsvc
