// Headless: an analysis without a daemon, for batch systems: `eigsvc-worker analyze --request FILE --output
// FILE`.
#pragma once

#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "eigsvc/v1/analysis.pb.h"
#include "eigsvc/worker/v1/worker_service.pb.h"
#include "models/base/stop_token.h"
#include "server/worker/model_pool.h"

namespace eigsvc {

struct HeadlessOptions {
  std::string request_path;  // proto3 JSON of eigsvc.v1.AnalyzeRequest or eigsvc.worker.v1.RunAnalysisRequest
  std::string output_path;   // gets proto3 JSON of eigsvc.v1.Analysis, also when the analysis failed
  std::string export_path;   // gets every eigenvalue as safetensors; empty: nowhere
};

// Reads a request. An AnalyzeRequest must name its checkpoint and data by local_path, or an initializer:
// there is no store here. INVALID_ARGUMENT naming `origin`, the field and the remedy.
absl::StatusOr<worker::v1::RunAnalysisRequest> ParseHeadlessRequest(absl::string_view json,
                                                                    absl::string_view origin);

// Runs it and writes the output file, whole or not at all. Returns the analysis' status, or what kept the
// files from being read or written (NOT_FOUND, UNAVAILABLE). `on_event` sees every event, on this thread.
absl::Status RunHeadless(const HeadlessOptions& options, ModelPool& pool,
                         const std::function<void(const v1::AnalysisEvent&)>& on_event,
                         const StopToken& stop);

}  // namespace eigsvc
