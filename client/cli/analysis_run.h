// Analyses as jobs (job_run.h), and how their results are written.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "client/cli/listing.h"
#include "client/cli/report.h"
#include "client/cli/session.h"
#include "eigsvc/v1/analysis_service.pb.h"

namespace eigsvc::cli {

struct AnalysisKind {
  using Spec = v1::AnalysisSpec;
  using Job = v1::Analysis;
  using Event = v1::AnalysisEvent;
  using RunRequest = v1::AnalyzeRequest;
  using RunResponse = v1::AnalyzeResponse;
  using WatchRequest = v1::WatchAnalysisRequest;
  using WatchResponse = v1::WatchAnalysisResponse;
  using GetRequest = v1::GetAnalysisRequest;
  using GetResponse = v1::GetAnalysisResponse;
  using ListRequest = v1::ListAnalysesRequest;
  using ListResponse = v1::ListAnalysesResponse;
  using CancelRequest = v1::CancelAnalysisRequest;
  using CancelResponse = v1::CancelAnalysisResponse;
  static constexpr absl::string_view kName = "analysis";
  static Job& Of(GetResponse& response) { return *response.mutable_analysis(); }
  static auto& Of(ListResponse& response) { return *response.mutable_analyses(); }

  std::string run = "checkpoint";  // or "twin": marks the ndjson lines
  Progress::State ToState(const v1::AnalysisProgress& progress) const;
  Json ToJson(const v1::AnalysisProgress& progress) const;
  void Mark(const std::string& id, Json* event) const;
};

// Examples, for a job's progress.
int64_t Done(const v1::Analysis& analysis);
int64_t Total(const v1::Analysis& analysis);

// The report in the session's format, to stdout. ndjson: one "result" event.
absl::Status WriteReport(const Session& session, const Report& report);

}  // namespace eigsvc::cli
