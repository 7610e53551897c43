// What a request for a picture asks for. Internal to this room and to its fuzzer.
#pragma once

#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/plane/plane.h"

namespace eigsvc {

struct PlaneTarget {
  std::string id;  // of the analysis, or "latest"; any bytes
  PlaneView view = PlaneView::kPlane;
  std::optional<int> layer;  // from 0; nothing: all
};

// `target`: a path and its query, as plane_request.h has them. NOT_FOUND: another path. INVALID_ARGUMENT:
// another parameter or value.
absl::StatusOr<PlaneTarget> ParsePlaneTarget(absl::string_view target);

}  // namespace eigsvc
