// One file of CIFAR-10, in either of its published forms.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace eigsvc {

inline constexpr int64_t kCifarPixels = 32 * 32, kCifarImageBytes = 3 * kCifarPixels, kCifarClasses = 10;

struct CifarBatch {
  std::vector<uint8_t> labels;  // in [0, 10)
  std::string pixels;  // kCifarImageBytes an image: all red, then all green, then all blue, row by row
};

// `bytes`: records of a label and its image (cifar-10-batches-bin), or a pickle of a dict with "data" and
// "labels" (cifar-10-batches-py), which is read without Python and runs nothing. `name` stands in the
// messages. INVALID_ARGUMENT: no images, images of another size, a label beyond 9 (names record and byte), a
// pickle that calls anything. DATA_LOSS: a damaged pickle.
absl::StatusOr<CifarBatch> ParseCifarBatch(absl::string_view bytes, absl::string_view name);

}  // namespace eigsvc
