// TrainingJob: one training from request to result.
#pragma once

#include <functional>

#include "absl/status/status.h"
#include "eigsvc/worker/v1/worker_service.pb.h"
#include "models/base/stop_token.h"
#include "server/worker/model_pool.h"

namespace eigsvc {

// Builds (or finds in `pool`), trains and reports: model, progress (repeatedly), result with the paths
// written. `on_event` is called on this thread. Never throws, as RunAnalysisJob. Errors as
// TrainingService.Train lists them.
absl::Status RunTrainingJob(const worker::v1::RunTrainingRequest& request, ModelPool& pool,
                            const std::function<void(worker::v1::RunTrainingResponse)>& on_event,
                            const StopToken& stop);

}  // namespace eigsvc
