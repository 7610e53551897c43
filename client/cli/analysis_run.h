// One analysis from request to result: its events to the progress display, to -o ndjson, and into the
// finished record.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "client/cli/report.h"
#include "client/cli/session.h"
#include "eigsvc/v1/analysis.pb.h"

namespace eigsvc::cli {

// Runs `spec` and waits for its result. Ctrl-C cancels the job at the server. `run` ("checkpoint" or "twin")
// marks its ndjson lines.
absl::StatusOr<v1::Analysis> RunAnalysis(Session& session, const v1::AnalysisSpec& spec,
                                         absl::string_view run, Progress& progress);
// Starts `spec` and leaves it to the server. Returns its id.
absl::StatusOr<std::string> DetachAnalysis(Session& session, const v1::AnalysisSpec& spec);
// Follows an analysis that runs already; Ctrl-C leaves it alone.
absl::StatusOr<v1::Analysis> WatchAnalysis(Session& session, const std::string& analysis_id,
                                           Progress& progress);

absl::StatusOr<v1::Analysis> GetAnalysis(Session& session, const std::string& analysis_id);
absl::Status CancelAnalysis(Session& session, const std::string& analysis_id);

// The report in the session's format, to stdout. ndjson: one "result" event.
absl::Status WriteReport(const Session& session, const Report& report);

}  // namespace eigsvc::cli
