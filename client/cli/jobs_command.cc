// `eigsvc jobs`: analyses and training runs of a server: list, watch, get, cancel.
#include <CLI/App.hpp>
#include <algorithm>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "client/cli/analysis_run.h"
#include "client/cli/commands.h"
#include "client/cli/exit_code.h"
#include "client/cli/listing.h"
#include "client/cli/number_text.h"
#include "client/cli/training_run.h"
#include "models/base/status_macros.h"

namespace eigsvc::cli {
namespace {

constexpr absl::string_view kNeedsServer = "jobs are kept by a server";
constexpr int kPageSize = 200;

std::string StateName(v1::JobState state) {
  switch (state) {
    case v1::JOB_STATE_QUEUED:
      return "queued";
    case v1::JOB_STATE_RUNNING:
      return "running";
    case v1::JOB_STATE_SUCCEEDED:
      return "succeeded";
    case v1::JOB_STATE_FAILED:
      return "failed";
    case v1::JOB_STATE_CANCELLED:
      return "cancelled";
    default:
      return "unknown";
  }
}

bool Ended(v1::JobState state) {
  return state == v1::JOB_STATE_SUCCEEDED || state == v1::JOB_STATE_FAILED ||
         state == v1::JOB_STATE_CANCELLED;
}

Json TimeOrNull(bool set, const google::protobuf::Timestamp& time) {
  if (!set) return Json();
  return absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", absl::FromUnixSeconds(time.seconds()), absl::UTCTimeZone());
}

// The members that both kinds of job have. Job is v1::Analysis or v1::Training.
template <typename Job>
Json JobObject(const std::string& id, absl::string_view kind, const Job& job, int64_t done, int64_t total) {
  return {{"id", id},
          {"kind", std::string(kind)},
          {"state", StateName(job.state())},
          {"task", job.spec().task().name()},
          {"model", job.has_model() ? Json(job.model().family()) : Json()},
          {"done", done},
          {"total", total},
          {"create_time", TimeOrNull(job.has_create_time(), job.create_time())},
          {"start_time", TimeOrNull(job.has_start_time(), job.start_time())},
          {"end_time", TimeOrNull(job.has_end_time(), job.end_time())},
          {"attempts", job.attempts()},
          {"error", job.has_error() ? Json(job.error().message()) : Json()}};
}

Json AnalysisObject(const v1::Analysis& job) {
  return JobObject(job.analysis_id(), "analysis", job,
                   job.has_result() ? job.result().examples() : job.progress().examples_done(),
                   job.has_result() ? job.result().examples() : job.progress().examples_total());
}

Json TrainingObject(const v1::Training& job) {
  return JobObject(job.training_id(), "training", job,
                   job.has_result() ? job.result().steps() : job.progress().step(),
                   job.has_result() ? job.result().steps() : job.progress().steps());
}

// Every page of one kind. `fetch`: (page token) -> response; `add`: takes its entries.
template <typename Fetch, typename Add>
absl::Status EachPage(Fetch fetch, Add add) {
  std::string token;
  do {
    const auto response = fetch(token);
    if (!response.ok()) return response.status();
    add(*response);
    token = response->next_page_token();
  } while (!token.empty());
  return absl::OkStatus();
}

absl::StatusOr<std::vector<Json>> FetchJobs(Connection& connection) {
  std::vector<Json> jobs;
  EIGSVC_RETURN_IF_ERROR(EachPage(
      [&](const std::string& token) {
        v1::ListAnalysesRequest request;
        request.set_page_size(kPageSize);
        request.set_page_token(token);
        return CallUnary<v1::ListAnalysesResponse>(
            connection.call_options(), [&](auto* context, auto* queue) {
              return connection.analyses().PrepareAsyncListAnalyses(context, request, queue);
            });
      },
      [&](const v1::ListAnalysesResponse& response) {
        for (const v1::Analysis& job : response.analyses()) jobs.push_back(AnalysisObject(job));
      }));
  EIGSVC_RETURN_IF_ERROR(EachPage(
      [&](const std::string& token) {
        v1::ListTrainingsRequest request;
        request.set_page_size(kPageSize);
        request.set_page_token(token);
        return CallUnary<v1::ListTrainingsResponse>(
            connection.call_options(), [&](auto* context, auto* queue) {
              return connection.trainings().PrepareAsyncListTrainings(context, request, queue);
            });
      },
      [&](const v1::ListTrainingsResponse& response) {
        for (const v1::Training& job : response.trainings()) jobs.push_back(TrainingObject(job));
      }));
  // Newest first across both kinds; RFC 3339 in UTC sorts as text.
  std::stable_sort(jobs.begin(), jobs.end(), [](const Json& a, const Json& b) {
    return CellText(a["create_time"]) > CellText(b["create_time"]);
  });
  return jobs;
}

absl::Status ListJobs(Session& session) {
  EIGSVC_RETURN_IF_ERROR(session.RequireNamedServer(kNeedsServer));
  EIGSVC_ASSIGN_OR_RETURN(Connection * connection, session.Connect());
  absl::StatusOr<std::vector<Json>> jobs = FetchJobs(*connection);
  if (!jobs.ok()) return connection->Explain(jobs.status());
  const auto right = Table::Align::kRight;
  const auto count = [](const Json& v) { return CountText(v.get<int64_t>()); };
  Listing listing("jobs", {{"id", "id"},
                           {"kind", "kind"},
                           {"state", "state"},
                           {"model", "model"},
                           {"task", "task"},
                           {"done", "done", right, count},
                           {"total", "of", right, count},
                           {"create_time", "accepted"},
                           {"error", "error"}});
  for (Json& job : *jobs) listing.Add(std::move(job));
  return session.Write(listing.Render(session.format(), session.style(), "this server knows no jobs"));
}

// Ids do not tell the kind: whichever service knows the id answers.
template <typename OnAnalysis, typename OnTraining>
absl::Status Dispatch(Session& session, const std::string& id, OnAnalysis on_analysis,
                      OnTraining on_training) {
  EIGSVC_RETURN_IF_ERROR(session.RequireNamedServer(kNeedsServer));
  const absl::StatusOr<v1::Analysis> analysis = GetAnalysis(session, id);
  if (analysis.ok()) return on_analysis(*analysis);
  if (!absl::IsNotFound(analysis.status())) return analysis.status();
  const absl::StatusOr<v1::Training> training = GetTraining(session, id);
  if (training.ok()) return on_training(*training);
  if (!absl::IsNotFound(training.status())) return training.status();
  return absl::NotFoundError(absl::StrCat("no job \"", id, "\" at ", session.globals().server,
                                          ", or it was forgotten; `eigsvc jobs list` shows the known ones"));
}

absl::Status WatchJob(Session& session, const std::string& id) {
  Progress progress = session.NewProgress();
  const absl::Status status = Dispatch(
      session, id,
      [&](const v1::Analysis&) -> absl::Status {
        Report report;
        EIGSVC_ASSIGN_OR_RETURN(report.analysis, WatchAnalysis(session, id, progress));
        progress.Finish();
        return WriteReport(session, report);
      },
      [&](const v1::Training&) -> absl::Status {
        EIGSVC_ASSIGN_OR_RETURN(const v1::Training training, WatchTraining(session, id, progress));
        progress.Finish();
        return WriteTraining(session, training, "", "");
      });
  if (!Interrupt::Check().ok()) {
    progress.Finish();
    session.Say(absl::StrCat("eigsvc: ", id, " goes on; `eigsvc jobs cancel ", id, "` ends it"));
  }
  return status;
}

// One job that has no result to show, in the columns of a list.
absl::Status WriteJob(const Session& session, Json job) {
  Listing listing("jobs",
                  {{"id", "id"}, {"kind", "kind"}, {"state", "state"}, {"task", "task"}, {"error", "error"}});
  listing.Add(std::move(job));
  return session.Write(listing.Render(session.format(), session.style(), ""));
}

absl::Status GetJob(Session& session, const std::string& id) {
  return Dispatch(
      session, id,
      [&](const v1::Analysis& analysis) {
        if (!analysis.has_result()) return WriteJob(session, AnalysisObject(analysis));
        Report report;
        report.analysis = analysis;
        return WriteReport(session, report);
      },
      [&](const v1::Training& training) {
        if (!training.has_result()) return WriteJob(session, TrainingObject(training));
        return WriteTraining(session, training, "", "");
      });
}

absl::Status CancelJob(Session& session, const std::string& id) {
  const auto say = [&](v1::JobState before) {
    session.Say(Ended(before) ? absl::StrCat("eigsvc: ", id, " had ended: ", StateName(before))
                              : absl::StrCat("eigsvc: cancelled ", id));
    return absl::OkStatus();
  };
  return Dispatch(
      session, id,
      [&](const v1::Analysis& analysis) -> absl::Status {
        EIGSVC_RETURN_IF_ERROR(CancelAnalysis(session, id));
        return say(analysis.state());
      },
      [&](const v1::Training& training) -> absl::Status {
        EIGSVC_RETURN_IF_ERROR(CancelTraining(session, id));
        return say(training.state());
      });
}

}  // namespace

void AddJobsCommand(CLI::App& app, Command& chosen) {
  CLI::App* command =
      app.add_subcommand("jobs", "Analyses and training runs of a server: list, watch, get, cancel");
  command->require_subcommand(0, 1);
  auto id = std::make_shared<std::string>();
  command->add_subcommand("list", "All it remembers, newest first")->callback([&chosen] {
    chosen = ListJobs;
  });
  const auto add = [&](const char* name, const char* summary,
                       absl::Status (*run)(Session&, const std::string&)) {
    CLI::App* sub = command->add_subcommand(name, summary);
    sub->add_option("id", *id, "As `jobs list` shows it")->required();
    sub->callback([&chosen, id, run] { chosen = [id, run](Session& session) { return run(session, *id); }; });
  };
  add("watch", "Follow one to its result; Ctrl-C leaves it alone", WatchJob);
  add("get", "Its result, or its state while it has none", GetJob);
  add("cancel", "End it", CancelJob);
}

}  // namespace eigsvc::cli
