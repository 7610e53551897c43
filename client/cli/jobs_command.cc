// `eigsvc jobs`: analyses and training runs of a server: list, watch, get, cancel.
#include <CLI/App.hpp>
#include <algorithm>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "client/cli/analysis_run.h"
#include "client/cli/commands.h"
#include "client/cli/exit_code.h"
#include "client/cli/job_run.h"
#include "client/cli/listing.h"
#include "client/cli/number_text.h"
#include "client/cli/training_run.h"
#include "models/base/status_macros.h"

namespace eigsvc::cli {
namespace {

constexpr absl::string_view kJobsNeedServer = "jobs are kept by a server";

Json TimeOrNull(bool set, const google::protobuf::Timestamp& time) {
  if (!set) return Json();
  return absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", absl::FromUnixSeconds(time.seconds()), absl::UTCTimeZone());
}

template <typename Job>
Json JobObject(absl::string_view kind, const Job& job) {
  Json object = {{"id", JobId(job)},
                 {"kind", std::string(kind)},
                 {"state", StateName(job.state())},
                 {"task", job.spec().task().name()},
                 {"model", job.has_model() ? Json(job.model().family()) : Json()},
                 {"done", Done(job)},
                 {"total", Total(job)},
                 {"create_time", TimeOrNull(job.has_create_time(), job.create_time())},
                 {"start_time", TimeOrNull(job.has_start_time(), job.start_time())},
                 {"end_time", TimeOrNull(job.has_end_time(), job.end_time())},
                 {"attempts", job.attempts()},
                 {"error", job.has_error() ? Json(job.error().message()) : Json()}};
  if constexpr (std::is_same_v<Job, v1::Training>) {  // what one leaves that was cancelled or failed
    object["best_sha256"] = job.best_sha256().empty() ? Json() : Json(job.best_sha256());
    object["last_sha256"] = job.last_sha256().empty() ? Json() : Json(job.last_sha256());
  }
  return object;
}

template <typename Kind>
absl::Status AddJobs(Session& session, std::vector<Json>* objects) {
  EIGSVC_ASSIGN_OR_RETURN(const std::vector<typename Kind::Job> jobs, ListJobs<Kind>(session));
  for (const typename Kind::Job& job : jobs) objects->push_back(JobObject(Kind::kName, job));
  return absl::OkStatus();
}

// ask() at each server behind the name, until one returns other than NOT_FOUND. A server that is gone does
// not hide what another knows: its UNAVAILABLE is the outcome only where no other had one.
template <typename Ask>
absl::Status AskEach(Session& session, Ask ask) {
  EIGSVC_RETURN_IF_ERROR(session.RequireNamedServer(kJobsNeedServer));
  const std::vector<std::string> servers = session.Servers();
  absl::Status outcome = absl::NotFoundError("");
  for (const std::string& server : servers) {
    if (servers.size() > 1) session.Use(server);
    const absl::Status status = ask();
    if (absl::IsUnavailable(status)) outcome = status;
    if (!absl::IsUnavailable(status) && !absl::IsNotFound(status)) return status;
  }
  return outcome;
}

absl::Status ListAll(Session& session) {
  std::vector<Json> jobs;
  bool answered = false;
  const absl::Status status = AskEach(session, [&]() -> absl::Status {
    EIGSVC_RETURN_IF_ERROR(AddJobs<AnalysisKind>(session, &jobs));
    EIGSVC_RETURN_IF_ERROR(AddJobs<TrainingKind>(session, &jobs));
    answered = true;
    return absl::NotFoundError("");  // the next one's, too
  });
  if (answered && absl::IsUnavailable(status)) {
    session.Say(absl::StrCat("eigsvc: a server's jobs are missing: ", std::string(status.message())));
  } else if (!absl::IsNotFound(status)) {
    return status;
  }
  // Newest first across both kinds; RFC 3339 in UTC sorts as text.
  std::stable_sort(jobs.begin(), jobs.end(), [](const Json& a, const Json& b) {
    return CellText(a["create_time"]) > CellText(b["create_time"]);
  });
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
  for (Json& job : jobs) listing.Add(std::move(job));
  return session.Write(listing.Render(session.format(), session.style(), "this server knows no jobs"));
}

// Ids do not tell the kind: whichever service knows the id answers. `visit`: (kind, job) -> Status.
template <typename Visit>
absl::Status Dispatch(Session& session, const std::string& id, Visit visit) {
  const absl::Status status = AskEach(session, [&]() -> absl::Status {
    const absl::StatusOr<v1::Analysis> analysis = GetJob<AnalysisKind>(session, id);
    if (analysis.ok()) return visit(AnalysisKind{}, *analysis);
    if (!absl::IsNotFound(analysis.status())) return analysis.status();
    const absl::StatusOr<v1::Training> training = GetJob<TrainingKind>(session, id);
    return training.ok() ? visit(TrainingKind{session.style()}, *training) : training.status();
  });
  if (!absl::IsNotFound(status)) return status;
  return absl::NotFoundError(absl::StrCat("no job \"", id, "\" at ", session.globals().server,
                                          ", or it was forgotten; `eigsvc jobs list` shows the known ones"));
}

absl::Status WriteResult(const Session& session, const v1::Analysis& analysis) {
  Report report;
  report.analysis = analysis;
  return WriteReport(session, report);
}
absl::Status WriteResult(const Session& session, const v1::Training& training) {
  return WriteTraining(session, training, "", "");
}

absl::Status Watch(Session& session, const std::string& id) {
  Progress progress = session.NewProgress();
  const absl::Status status = Dispatch(session, id, [&](const auto& kind, const auto&) -> absl::Status {
    EIGSVC_ASSIGN_OR_RETURN(const auto job, WatchJob(session, kind, id, progress));
    progress.Finish();
    return WriteResult(session, job);
  });
  if (!Interrupt::Check().ok()) {
    progress.Finish();
    session.Say(absl::StrCat("eigsvc: ", id, " goes on; `eigsvc jobs cancel ", id, "` ends it"));
  }
  return status;
}

// One without a result is shown in the columns of a list.
absl::Status Get(Session& session, const std::string& id) {
  return Dispatch(session, id, [&](const auto& kind, const auto& job) {
    if (job.has_result()) return WriteResult(session, job);
    std::vector<Listing::Column> columns = {
        {"id", "id"}, {"kind", "kind"}, {"state", "state"}, {"task", "task"}, {"error", "error"}};
    Json object = JobObject(kind.kName, job);
    if (object.contains("last_sha256") && !object["last_sha256"].is_null()) {
      columns.push_back({"last_sha256", "last checkpoint"});
    }
    Listing listing("jobs", std::move(columns));
    listing.Add(std::move(object));
    return session.Write(listing.Render(session.format(), session.style(), ""));
  });
}

absl::Status Cancel(Session& session, const std::string& id) {
  return Dispatch(session, id, [&](const auto& kind, const auto& job) -> absl::Status {
    EIGSVC_RETURN_IF_ERROR(CancelJob<std::decay_t<decltype(kind)>>(session, id));
    session.Say(Ended(job.state()) ? absl::StrCat("eigsvc: ", id, " had ended: ", StateName(job.state()))
                                   : absl::StrCat("eigsvc: cancelled ", id));
    return absl::OkStatus();
  });
}

}  // namespace

void AddJobsCommand(CLI::App& app, Command& chosen) {
  CLI::App* command =
      app.add_subcommand("jobs", "Analyses and training runs of a server: list, watch, get, cancel");
  command->require_subcommand(0, 1);
  auto id = std::make_shared<std::string>();
  command->add_subcommand("list", "All it remembers, newest first")->callback([&chosen] {
    chosen = ListAll;
  });
  const auto add = [&](const char* name, const char* summary,
                       absl::Status (*run)(Session&, const std::string&)) {
    CLI::App* sub = command->add_subcommand(name, summary);
    sub->add_option("id", *id, "As `jobs list` shows it")->required();
    sub->callback([&chosen, id, run] { chosen = [id, run](Session& session) { return run(session, *id); }; });
  };
  add("watch", "Follow one to its result; Ctrl-C leaves it alone", Watch);
  add("get", "Its result, or its state while it has none", Get);
  add("cancel", "End it", Cancel);
}

}  // namespace eigsvc::cli
