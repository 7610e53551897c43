// Training runs as jobs (job_run.h), and how their results are written.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "client/cli/listing.h"
#include "client/cli/session.h"
#include "eigsvc/v1/training_service.pb.h"

namespace eigsvc::cli {

struct TrainingKind {
  using Spec = v1::TrainingSpec;
  using Job = v1::Training;
  using Event = v1::TrainingEvent;
  using RunRequest = v1::TrainRequest;
  using RunResponse = v1::TrainResponse;
  using WatchRequest = v1::WatchTrainingRequest;
  using WatchResponse = v1::WatchTrainingResponse;
  using GetRequest = v1::GetTrainingRequest;
  using GetResponse = v1::GetTrainingResponse;
  using ListRequest = v1::ListTrainingsRequest;
  using ListResponse = v1::ListTrainingsResponse;
  using CancelRequest = v1::CancelTrainingRequest;
  using CancelResponse = v1::CancelTrainingResponse;
  static constexpr absl::string_view kName = "training";
  static Job& Of(GetResponse& response) { return *response.mutable_training(); }
  static auto& Of(ListResponse& response) { return *response.mutable_trainings(); }

  Style style;  // of the progress display
  Progress::State ToState(const v1::TrainingProgress& progress) const;
  Json ToJson(const v1::TrainingProgress& progress) const;
  void Mark(const std::string& id, Json* event) const;
};

// Steps, for a job's progress.
int64_t Done(const v1::Training& training);
int64_t Total(const v1::Training& training);

// The result in the session's format, to stdout. The paths are of the downloaded checkpoints; empty: not
// downloaded.
absl::Status WriteTraining(const Session& session, const v1::Training& training, const std::string& best_path,
                           const std::string& last_path);

}  // namespace eigsvc::cli
