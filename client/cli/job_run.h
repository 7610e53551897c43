// A job of the server from request to result: its events to the progress display, to -o ndjson, and into the
// finished record. Either kind: Kind is AnalysisKind (analysis_run.h) or TrainingKind (training_run.h), which
// name the messages and say how an event is shown.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/cli/progress.h"
#include "client/cli/session.h"
#include "eigsvc/v1/analysis.pb.h"

namespace eigsvc::cli {

// The identifier of a record or an event of either kind.
template <typename Message>
const std::string& JobId(const Message& message) {
  if constexpr (requires { message.analysis_id(); }) {
    return message.analysis_id();
  } else {
    return message.training_id();
  }
}

// "queued", ...
std::string StateName(v1::JobState state);
bool Ended(v1::JobState state);

// Runs `spec` and waits for its result. Ctrl-C cancels the job at the server. `job` gets the whole record; on
// an error it holds at least the id once the server has accepted the job.
template <typename Kind>
absl::Status RunJob(Session& session, const Kind& kind, const typename Kind::Spec& spec, Progress& progress,
                    typename Kind::Job* job);

// Starts `spec` and leaves it to the server. Writes its id to stdout and says how to follow it.
template <typename Kind>
absl::Status DetachJob(Session& session, const typename Kind::Spec& spec);

// Follows a job that runs already; Ctrl-C leaves it alone.
template <typename Kind>
absl::StatusOr<typename Kind::Job> WatchJob(Session& session, const Kind& kind, const std::string& id,
                                            Progress& progress);

template <typename Kind>
absl::StatusOr<typename Kind::Job> GetJob(Session& session, const std::string& id);
// The record of a job that is ending, once it has ended or the patience is over.
template <typename Kind>
absl::StatusOr<typename Kind::Job> AwaitEnd(Session& session, const std::string& id, absl::Duration patience);

// All that the server remembers, newest first.
template <typename Kind>
absl::StatusOr<std::vector<typename Kind::Job>> ListJobs(Session& session);

template <typename Kind>
absl::Status CancelJob(Session& session, const std::string& id);

}  // namespace eigsvc::cli
