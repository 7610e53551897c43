// Download: checkpoints and kept eigenvalues of the server as local files.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "client/cli/connection.h"
#include "client/cli/progress.h"

namespace eigsvc::cli {

// Whether a download could be written to `path`: its directory exists and can be written. Asked before a long
// job.
absl::Status CheckWritable(const std::string& path);

// Both write beside `path` and rename at the end: `path` is the old file or the whole new one. A stream that
// breaks with UNAVAILABLE is resumed where it broke, a few times.
absl::Status DownloadCheckpoint(Connection& connection, const std::string& sha256, const std::string& path,
                                Progress& progress);
absl::Status DownloadEigenvalues(Connection& connection, const std::string& analysis_id,
                                 const std::string& path, Progress& progress);

}  // namespace eigsvc::cli
