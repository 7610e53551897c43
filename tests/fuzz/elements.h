// What every target does with tensors that were found: touches their elements, so that a sanitizer sees one
// that lies outside.
#pragma once

#include <algorithm>
#include <cstdint>

#include "models/archive/contents.h"

namespace eigsvc {

// The first 256 elements of each, and the last.
inline void ReadElements(const FileContents& contents, absl::Span<const std::byte> file) {
  for (const auto& [name, tensor] : TensorsIn(contents, {file, nullptr, ""})) {
    const int64_t count = tensor.ElementCount();
    for (int64_t i = 0; i < std::min<int64_t>(count, 256); ++i) ElementAsDouble(tensor, i);
    if (count > 0) ElementAsDouble(tensor, count - 1);
  }
}

}  // namespace eigsvc
