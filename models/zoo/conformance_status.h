// What the conformance run (tests/conformance) found of each family and layout: what `eigsvc models` shows.
#pragma once

#include <cstdint>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace eigsvc {

struct ConformanceStatus {
  absl::string_view family, layout;
  int64_t cases = 0;             // all of them passed
  absl::string_view references;  // the independent implementations, with their versions
  // Largest error of the logits relative to the largest logit; 0 where no case ran in that type.
  double logits_float32 = 0, logits_float64 = 0;
};

// By family and layout. Generated: `make conformance` writes conformance_status.inc.
absl::Span<const ConformanceStatus> ConformanceStatuses();
// Null where no case has passed.
const ConformanceStatus* FindConformanceStatus(absl::string_view family, absl::string_view layout);

}  // namespace eigsvc
