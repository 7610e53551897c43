#include "client/cli/analysis_run.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/cli/analysis_json.h"
#include "client/cli/exit_code.h"
#include "client/cli/number_text.h"
#include "models/base/status_macros.h"

namespace eigsvc::cli {
namespace {

Progress::State ToState(const v1::AnalysisProgress& progress) {
  Progress::State state;
  state.phase = progress.phase().empty() ? "run" : progress.phase();
  state.done = progress.examples_done();
  state.total = progress.examples_total();
  state.unit = "examples";
  state.numbers = {{"eigenvalues", static_cast<double>(progress.eigenvalues())}};
  if (progress.has_score()) {
    state.detail = absl::StrCat(progress.score().metric(), " ", ScoreText(progress.score().value()), "  ");
    state.numbers.emplace_back("score", progress.score().value());
  }
  absl::StrAppend(&state.detail, ShortCountText(static_cast<double>(progress.eigenvalues())), " eigenvalues");
  return state;
}

// The event as an ndjson object, but for the result, which WriteReport writes.
Json EventObject(const v1::AnalysisEvent& event, absl::string_view run) {
  Json object = {{"event", ""}, {"run", std::string(run)}, {"analysis_id", event.analysis_id()}};
  if (event.has_accepted()) {
    object["event"] = "accepted";
    object["queue_position"] = event.accepted().queue_position();
  } else if (event.has_model()) {
    object["event"] = "model";
    object["model"] = ModelObject(event.model());
  } else if (event.has_progress()) {
    const v1::AnalysisProgress& progress = event.progress();
    object["event"] = "progress";
    object["phase"] = progress.phase();
    object["examples_done"] = progress.examples_done();
    object["examples_total"] = progress.examples_total();
    object["eigenvalues"] = progress.eigenvalues();
    object["score"] = progress.has_score() ? ScoreObject(progress.score()) : Json();
    object["sites"] = SiteArray(progress.sites());
  }
  return object;
}

// What the events of a stream add up to.
class Follower {
 public:
  Follower(const Session& session, absl::string_view run, Progress& progress)
      : session_(session), run_(run), progress_(progress) {}

  absl::Status Take(const v1::AnalysisEvent& event) {
    analysis_.set_analysis_id(event.analysis_id());
    if (event.has_accepted()) {
      progress_.Update({.phase = "queue",
                        .detail = event.accepted().queue_position() > 0
                                      ? absl::StrCat(event.accepted().queue_position(), " jobs before it")
                                      : ""});
    } else if (event.has_model()) {
      *analysis_.mutable_model() = event.model();
    } else if (event.has_progress()) {
      progress_.Update(ToState(event.progress()));
    } else if (event.has_result()) {
      *analysis_.mutable_result() = event.result();
      analysis_.set_state(v1::JOB_STATE_SUCCEEDED);
      return absl::OkStatus();
    }
    if (session_.format() != Format::kNdjson) return absl::OkStatus();
    return session_.Write(absl::StrCat(Line(EventObject(event, run_)), "\n"));
  }

  absl::StatusOr<v1::Analysis> Finish(const v1::AnalysisSpec& spec) {
    if (!analysis_.has_result()) {
      return absl::InternalError(
          "the server ended the stream without a result; ask for it with `eigsvc jobs get ID`");
    }
    *analysis_.mutable_spec() = spec;
    return std::move(analysis_);
  }

  const std::string& analysis_id() const { return analysis_.analysis_id(); }

 private:
  const Session& session_;
  const std::string run_;
  Progress& progress_;
  v1::Analysis analysis_;
};

}  // namespace

absl::StatusOr<v1::Analysis> RunAnalysis(Session& session, const v1::AnalysisSpec& spec,
                                         absl::string_view run, Progress& progress) {
  EIGSVC_ASSIGN_OR_RETURN(Connection * connection, session.Connect());
  Follower follower(session, run, progress);
  CallOptions options = connection->call_options();
  options.tick = [&] { progress.Tick(); };
  options.on_interrupt = [&] {
    if (follower.analysis_id().empty()) return false;
    progress.Finish();
    session.Say(absl::StrCat("eigsvc: cancelling ", follower.analysis_id(), "; Ctrl-C again leaves at once"));
    return CancelAnalysis(session, follower.analysis_id()).ok();
  };
  v1::AnalyzeRequest request;
  *request.mutable_spec() = spec;
  const absl::Status status = ReadStream<v1::AnalyzeResponse>(
      options,
      [&](auto* context, auto* queue) {
        return connection->analyses().PrepareAsyncAnalyze(context, request, queue);
      },
      [&](const v1::AnalyzeResponse& response) { return follower.Take(response.event()); });
  if (!status.ok()) return connection->Explain(status);
  return follower.Finish(spec);
}

absl::StatusOr<std::string> DetachAnalysis(Session& session, const v1::AnalysisSpec& spec) {
  EIGSVC_ASSIGN_OR_RETURN(Connection * connection, session.Connect());
  v1::AnalyzeRequest request;
  *request.mutable_spec() = spec;
  request.set_detach(true);
  std::string id;
  const absl::Status status = ReadStream<v1::AnalyzeResponse>(
      connection->call_options(),
      [&](auto* context, auto* queue) {
        return connection->analyses().PrepareAsyncAnalyze(context, request, queue);
      },
      [&](const v1::AnalyzeResponse& response) {
        id = response.event().analysis_id();
        return absl::CancelledError("detached");  // the first event says that the job was accepted: leave
      });
  if (!id.empty()) return id;
  if (!status.ok()) return connection->Explain(status);
  return absl::InternalError("the server ended the stream without accepting the job");
}

absl::StatusOr<v1::Analysis> WatchAnalysis(Session& session, const std::string& analysis_id,
                                           Progress& progress) {
  EIGSVC_ASSIGN_OR_RETURN(Connection * connection, session.Connect());
  EIGSVC_ASSIGN_OR_RETURN(const v1::Analysis known, GetAnalysis(session, analysis_id));
  Follower follower(session, "checkpoint", progress);
  CallOptions options = connection->call_options();
  options.tick = [&] { progress.Tick(); };
  v1::WatchAnalysisRequest request;
  request.set_analysis_id(analysis_id);
  const absl::Status status = ReadStream<v1::WatchAnalysisResponse>(
      options,
      [&](auto* context, auto* queue) {
        return connection->analyses().PrepareAsyncWatchAnalysis(context, request, queue);
      },
      [&](const v1::WatchAnalysisResponse& response) { return follower.Take(response.event()); });
  if (!status.ok()) return connection->Explain(status);
  return follower.Finish(known.spec());
}

absl::StatusOr<v1::Analysis> GetAnalysis(Session& session, const std::string& analysis_id) {
  EIGSVC_ASSIGN_OR_RETURN(Connection * connection, session.Connect());
  v1::GetAnalysisRequest request;
  request.set_analysis_id(analysis_id);
  absl::StatusOr<v1::GetAnalysisResponse> response =
      CallUnary<v1::GetAnalysisResponse>(connection->call_options(), [&](auto* context, auto* queue) {
        return connection->analyses().PrepareAsyncGetAnalysis(context, request, queue);
      });
  if (!response.ok()) return connection->Explain(response.status());
  return std::move(*response->mutable_analysis());
}

absl::Status CancelAnalysis(Session& session, const std::string& analysis_id) {
  EIGSVC_ASSIGN_OR_RETURN(Connection * connection, session.Connect());
  v1::CancelAnalysisRequest request;
  request.set_analysis_id(analysis_id);
  CallOptions options = connection->call_options();
  options.deadline = std::min(options.deadline, absl::Now() + absl::Seconds(3));
  return connection->Explain(CallUnary<v1::CancelAnalysisResponse>(options, [&](auto* context, auto* queue) {
                               return connection->analyses().PrepareAsyncCancelAnalysis(context, request,
                                                                                        queue);
                             }).status());
}

absl::Status WriteReport(const Session& session, const Report& report) {
  switch (session.format()) {
    case Format::kTable:
      return session.Write(ReportTable(report, session.style()));
    case Format::kJson:
      return session.Write(ReportJson(report));
    case Format::kCsv:
      return session.Write(ReportCsv(report));
    case Format::kNdjson:
      break;
  }
  return session.Write(absl::StrCat(Line({{"event", "result"}, {"analysis", ReportObject(report)}}), "\n"));
}

}  // namespace eigsvc::cli
