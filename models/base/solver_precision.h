// SolverPrecision: how exactly eigenvalues are solved for where no closed form exists and the stored
// parameters determine them badly (S4). Closed forms do not depend on it.
#pragma once

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace eigsvc {

enum class SolverPrecision {
  kDouble,
  kMulti,  // four bits or more for each dimension of the state
};

inline absl::string_view SolverPrecisionName(SolverPrecision precision) {
  return precision == SolverPrecision::kMulti ? "multi" : "double";
}

// "double" (also when empty) or "multi"; else INVALID_ARGUMENT.
inline absl::StatusOr<SolverPrecision> ParseSolverPrecision(absl::string_view text) {
  if (text.empty() || text == "double") return SolverPrecision::kDouble;
  if (text == "multi") return SolverPrecision::kMulti;
  return absl::InvalidArgumentError(
      absl::StrCat("precision \"", text.substr(0, 100), "\" is neither double (also when empty) nor multi"));
}

}  // namespace eigsvc
