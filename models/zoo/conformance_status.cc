#include "models/zoo/conformance_status.h"

#include <vector>

namespace eigsvc {

absl::Span<const ConformanceStatus> ConformanceStatuses() {
  static const auto* const statuses = new std::vector<ConformanceStatus>{
#include "models/zoo/conformance_status.inc"
  };
  return *statuses;
}

const ConformanceStatus* FindConformanceStatus(absl::string_view family, absl::string_view layout) {
  for (const ConformanceStatus& status : ConformanceStatuses()) {
    if (status.family == family && status.layout == layout) return &status;
  }
  return nullptr;
}

}  // namespace eigsvc
