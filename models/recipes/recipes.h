// Recipes: trainings by name, "mqar/mamba2", each at several scales. A recipe comes to a JSON object of the
// flags of `eigsvc train`. README.md here says how the files are put together. Thread-safe: pure functions.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "models/base/settings.h"

namespace eigsvc {

// "paper": the sizes of arXiv 2510.09379, mended where its configuration is known not to do what it says.
// "gpu": the same model on fewer steps. "small": two cores, minutes.
std::vector<std::string> RecipeScales();

struct RecipeInfo {
  std::string name;   // "mqar/mamba2"
  std::string about;  // of its task
  // What the published configuration does otherwise; empty: nothing. Else "differs", or why it cannot be run.
  std::string as_published;
};
std::vector<RecipeInfo> Recipes();  // by name

// The flags. NOT_FOUND listing the known recipes or scales; INVALID_ARGUMENT: as_published at another scale
// than "paper", which nobody published; FAILED_PRECONDITION: as published it does not run, and why.
absl::StatusOr<Settings> ResolveRecipe(absl::string_view name, absl::string_view scale, bool as_published);

}  // namespace eigsvc
