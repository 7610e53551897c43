// The JSON files of this folder, as they are.
#pragma once

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace eigsvc {

struct RecipeFile {
  absl::string_view name, json;  // "mqar", without .json
};
absl::Span<const RecipeFile> RecipeFiles();

}  // namespace eigsvc
