// AnalysisJob: one analysis from request to result, the same for the daemon's worker and for headless runs.
#pragma once

#include <functional>

#include "absl/status/status.h"
#include "eigsvc/v1/analysis.pb.h"
#include "eigsvc/worker/v1/worker_service.pb.h"
#include "models/base/stop_token.h"
#include "server/worker/model_pool.h"

namespace eigsvc {

// Loads (or finds in `pool`), runs and reports: progress "load", model, progress "run" (repeatedly), result.
// `on_event` is called on this thread. Never throws: what LibTorch or the allocator throws comes back as a
// status (see CallTorch). Errors as AnalysisService.Analyze lists them.
absl::Status RunAnalysisJob(const worker::v1::RunAnalysisRequest& request, ModelPool& pool,
                            const std::function<void(v1::AnalysisEvent)>& on_event, const StopToken& stop);

}  // namespace eigsvc
