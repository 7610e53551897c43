// One training run from request to result; as analysis_run.h.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "client/cli/session.h"
#include "eigsvc/v1/training.pb.h"

namespace eigsvc::cli {

absl::StatusOr<v1::Training> RunTraining(Session& session, const v1::TrainingSpec& spec, Progress& progress);
absl::StatusOr<std::string> DetachTraining(Session& session, const v1::TrainingSpec& spec);
absl::StatusOr<v1::Training> WatchTraining(Session& session, const std::string& training_id,
                                           Progress& progress);

absl::StatusOr<v1::Training> GetTraining(Session& session, const std::string& training_id);
absl::Status CancelTraining(Session& session, const std::string& training_id);

// The result in the session's format, to stdout. The paths are of the downloaded checkpoints; empty: not
// downloaded.
absl::Status WriteTraining(const Session& session, const v1::Training& training, const std::string& best_path,
                           const std::string& last_path);

}  // namespace eigsvc::cli
