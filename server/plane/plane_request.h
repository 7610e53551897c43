// GET /v1/analyses/{id}/plane.png?view=plane|unrolled&layer=N: from the words of a request to a PNG.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/jobs/jobs.h"

namespace eigsvc {

// `target` is the request's, from its first slash. {id} may be "latest": the newest analysis that succeeded.
// One that runs shows what it has so far. `view` is plane when absent, `layer` all of them. `t` may be
// anything: a page changes it so that browsers do not show an old picture.
//
// NOT_FOUND: no such path or analysis. INVALID_ARGUMENT: another view or parameter, or a layer without
// eigenvalues. FAILED_PRECONDITION: it has no eigenvalues (yet). Decodes spectra: some milliseconds.
absl::StatusOr<std::string> PlanePng(const Jobs& jobs, absl::string_view target);

}  // namespace eigsvc
