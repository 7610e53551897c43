#include "server/plane/plane_target.h"

#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "models/base/utf8.h"

namespace eigsvc {

absl::StatusOr<PlaneTarget> ParsePlaneTarget(absl::string_view target) {
  PlaneTarget request;
  const std::vector<absl::string_view> parts = absl::StrSplit(target, absl::MaxSplits('?', 1));
  absl::string_view path = parts[0];
  if (!absl::ConsumePrefix(&path, "/v1/analyses/") || !absl::ConsumeSuffix(&path, "/plane.png") ||
      path.empty()) {
    return absl::NotFoundError("not found; there is /v1/analyses/{id}/plane.png?view=plane|unrolled&layer=N");
  }
  request.id = std::string(path);
  if (parts.size() < 2) return request;
  for (const absl::string_view parameter : absl::StrSplit(parts[1], '&', absl::SkipEmpty())) {
    const std::pair<absl::string_view, absl::string_view> words =
        absl::StrSplit(parameter, absl::MaxSplits('=', 1));
    const auto& [name, value] = words;
    int layer = 0;
    if (name == "t") continue;  // a page shows another address when time has passed, so browsers ask again
    if (name == "view" && (value == "plane" || value == "unrolled")) {
      request.view = value == "plane" ? PlaneView::kPlane : PlaneView::kUnrolled;
    } else if (name == "layer" && value.empty()) {
      request.layer.reset();  // a form left empty
    } else if (name == "layer" && absl::SimpleAtoi(value, &layer) && layer >= 0) {
      request.layer = layer;
    } else {
      return absl::InvalidArgumentError(absl::StrCat("\"", ToUtf8(parameter, 64),
                                                     "\" is no parameter of it; there are view=plane, "
                                                     "view=unrolled and layer=N, N from 0"));
    }
  }
  return request;
}

}  // namespace eigsvc
