#include "client/cli/job_run.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/cli/analysis_json.h"
#include "client/cli/analysis_run.h"
#include "client/cli/call.h"
#include "client/cli/training_run.h"
#include "models/base/status_macros.h"

namespace eigsvc::cli {
namespace {

constexpr absl::Duration kCancelTimeout = absl::Seconds(3);  // a cancel must not wait for long itself
constexpr absl::Duration kEndPoll = absl::Milliseconds(20);
constexpr int kJobsAtOnce = 200;

// Each call's stub and method.
using Context = grpc::ClientContext;
using Queue = grpc::CompletionQueue;
auto Prepare(Connection& to, Context* context, const v1::AnalyzeRequest& request, Queue* queue) {
  return to.analyses().PrepareAsyncAnalyze(context, request, queue);
}
auto Prepare(Connection& to, Context* context, const v1::WatchAnalysisRequest& request, Queue* queue) {
  return to.analyses().PrepareAsyncWatchAnalysis(context, request, queue);
}
auto Prepare(Connection& to, Context* context, const v1::GetAnalysisRequest& request, Queue* queue) {
  return to.analyses().PrepareAsyncGetAnalysis(context, request, queue);
}
auto Prepare(Connection& to, Context* context, const v1::ListAnalysesRequest& request, Queue* queue) {
  return to.analyses().PrepareAsyncListAnalyses(context, request, queue);
}
auto Prepare(Connection& to, Context* context, const v1::CancelAnalysisRequest& request, Queue* queue) {
  return to.analyses().PrepareAsyncCancelAnalysis(context, request, queue);
}
auto Prepare(Connection& to, Context* context, const v1::TrainRequest& request, Queue* queue) {
  return to.trainings().PrepareAsyncTrain(context, request, queue);
}
auto Prepare(Connection& to, Context* context, const v1::WatchTrainingRequest& request, Queue* queue) {
  return to.trainings().PrepareAsyncWatchTraining(context, request, queue);
}
auto Prepare(Connection& to, Context* context, const v1::GetTrainingRequest& request, Queue* queue) {
  return to.trainings().PrepareAsyncGetTraining(context, request, queue);
}
auto Prepare(Connection& to, Context* context, const v1::ListTrainingsRequest& request, Queue* queue) {
  return to.trainings().PrepareAsyncListTrainings(context, request, queue);
}
auto Prepare(Connection& to, Context* context, const v1::CancelTrainingRequest& request, Queue* queue) {
  return to.trainings().PrepareAsyncCancelTraining(context, request, queue);
}

template <typename Message>
void SetId(Message* message, const std::string& id) {
  if constexpr (requires { message->set_analysis_id(id); }) {
    message->set_analysis_id(id);
  } else {
    message->set_training_id(id);
  }
}

template <typename Request>
Request Naming(const std::string& id) {
  Request request;
  SetId(&request, id);
  return request;
}

template <typename Response, typename Request>
absl::StatusOr<Response> Ask(Connection& connection, const Request& request, const CallOptions& options) {
  absl::StatusOr<Response> response = CallUnary<Response>(
      options, [&](Context* context, Queue* queue) { return Prepare(connection, context, request, queue); });
  if (!response.ok()) return connection.Explain(response.status());
  return response;
}

template <typename Response, typename Request>
absl::Status Follow(Connection& connection, const Request& request, const CallOptions& options,
                    const std::function<absl::Status(const Response&)>& on_message) {
  return ReadStream<Response>(
      options, [&](Context* context, Queue* queue) { return Prepare(connection, context, request, queue); },
      on_message);
}

// Takes an event into the record and shows it.
template <typename Kind>
absl::Status Take(const Session& session, const Kind& kind, const typename Kind::Event& event,
                  Progress& progress, typename Kind::Job* job) {
  SetId(job, JobId(event));
  const auto write = [&](absl::string_view name, const Json& members) {
    Json object = {{"event", std::string(name)}};
    kind.Mark(JobId(event), &object);
    object.update(members);
    return session.Write(absl::StrCat(Line(object), "\n"));
  };
  const bool lines = session.format() == Format::kNdjson;
  if (event.has_accepted()) {
    const int32_t before = event.accepted().queue_position();
    progress.Update({.phase = "queue", .detail = before > 0 ? absl::StrCat(before, " jobs before it") : ""});
    if (lines) return write("accepted", {{"queue_position", before}});
  } else if (event.has_model()) {
    *job->mutable_model() = event.model();
    if (lines) return write("model", {{"model", ModelObject(event.model())}});
  } else if (event.has_progress()) {
    progress.Update(kind.ToState(event.progress()));
    if (lines) return write("progress", kind.ToJson(event.progress()));
  } else if (event.has_result()) {  // written at the end, whole
    *job->mutable_result() = event.result();
    job->set_state(v1::JOB_STATE_SUCCEEDED);
  }
  return absl::OkStatus();
}

template <typename Kind>
absl::Status Finish(const typename Kind::Spec& spec, typename Kind::Job* job) {
  if (!job->has_result()) {
    return absl::InternalError(
        "the server ended the stream without a result; ask for it with `eigsvc jobs get ID`");
  }
  *job->mutable_spec() = spec;
  return absl::OkStatus();
}

}  // namespace

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

template <typename Kind>
absl::Status RunJob(Session& session, const Kind& kind, const typename Kind::Spec& spec, Progress& progress,
                    typename Kind::Job* job) {
  EIGSVC_ASSIGN_OR_RETURN(Connection * connection, session.Connect());
  CallOptions options = connection->call_options();
  options.tick = [&] { progress.Tick(); };
  options.on_interrupt = [&] {
    if (JobId(*job).empty()) return false;
    progress.Finish();
    session.Say(absl::StrCat("eigsvc: cancelling ", JobId(*job), "; Ctrl-C again leaves at once"));
    return CancelJob<Kind>(session, JobId(*job)).ok();
  };
  typename Kind::RunRequest request;
  *request.mutable_spec() = spec;
  const absl::Status status = Follow<typename Kind::RunResponse>(
      *connection, request, options, [&](const typename Kind::RunResponse& response) {
        return Take(session, kind, response.event(), progress, job);
      });
  if (!status.ok()) return connection->Explain(status);
  return Finish<Kind>(spec, job);
}

template <typename Kind>
absl::Status DetachJob(Session& session, const typename Kind::Spec& spec) {
  EIGSVC_ASSIGN_OR_RETURN(Connection * connection, session.Connect());
  typename Kind::RunRequest request;
  *request.mutable_spec() = spec;
  request.set_detach(true);
  std::string id;
  const absl::Status status = Follow<typename Kind::RunResponse>(
      *connection, request, connection->call_options(), [&](const typename Kind::RunResponse& response) {
        id = JobId(response.event());
        return absl::CancelledError("detached");  // the first event says that the job was accepted: leave
      });
  if (id.empty()) {
    if (!status.ok()) return connection->Explain(status);
    return absl::InternalError("the server ended the stream without accepting the job");
  }
  session.Say(absl::StrCat("eigsvc: follow it with `eigsvc jobs watch ", id, " --server ",
                           session.globals().server, "`"));
  const bool json = session.format() == Format::kJson || session.format() == Format::kNdjson;
  return session.Write(absl::StrCat(json ? Line({{absl::StrCat(Kind::kName, "_id"), id}}) : id, "\n"));
}

template <typename Kind>
absl::StatusOr<typename Kind::Job> WatchJob(Session& session, const Kind& kind, const std::string& id,
                                            Progress& progress) {
  EIGSVC_ASSIGN_OR_RETURN(Connection * connection, session.Connect());
  EIGSVC_ASSIGN_OR_RETURN(const typename Kind::Job known, GetJob<Kind>(session, id));
  CallOptions options = connection->call_options();
  options.tick = [&] { progress.Tick(); };
  typename Kind::Job job;
  const absl::Status status =
      Follow<typename Kind::WatchResponse>(*connection, Naming<typename Kind::WatchRequest>(id), options,
                                           [&](const typename Kind::WatchResponse& response) {
                                             return Take(session, kind, response.event(), progress, &job);
                                           });
  if (!status.ok()) return connection->Explain(status);
  EIGSVC_RETURN_IF_ERROR(Finish<Kind>(known.spec(), &job));
  return job;
}

template <typename Kind>
absl::StatusOr<typename Kind::Job> GetJob(Session& session, const std::string& id) {
  EIGSVC_ASSIGN_OR_RETURN(Connection * connection, session.Connect());
  EIGSVC_ASSIGN_OR_RETURN(auto response,
                          Ask<typename Kind::GetResponse>(*connection, Naming<typename Kind::GetRequest>(id),
                                                          connection->call_options()));
  return std::move(Kind::Of(response));
}

template <typename Kind>
absl::StatusOr<typename Kind::Job> AwaitEnd(Session& session, const std::string& id,
                                            absl::Duration patience) {
  EIGSVC_ASSIGN_OR_RETURN(Connection * connection, session.Connect());
  CallOptions options;  // the command's own deadline may be over: it may be what ended the job
  options.deadline = absl::Now() + patience;
  while (true) {
    EIGSVC_ASSIGN_OR_RETURN(auto response, Ask<typename Kind::GetResponse>(
                                               *connection, Naming<typename Kind::GetRequest>(id), options));
    typename Kind::Job& job = Kind::Of(response);
    if (Ended(job.state()) || absl::Now() + kEndPoll >= options.deadline) return std::move(job);
    absl::SleepFor(kEndPoll);
  }
}

template <typename Kind>
absl::StatusOr<std::vector<typename Kind::Job>> ListJobs(Session& session) {
  EIGSVC_ASSIGN_OR_RETURN(Connection * connection, session.Connect());
  std::vector<typename Kind::Job> jobs;
  typename Kind::ListRequest request;
  request.set_page_size(kJobsAtOnce);
  do {
    EIGSVC_ASSIGN_OR_RETURN(
        auto response, Ask<typename Kind::ListResponse>(*connection, request, connection->call_options()));
    for (typename Kind::Job& job : Kind::Of(response)) jobs.push_back(std::move(job));
    request.set_page_token(response.next_page_token());
  } while (!request.page_token().empty());
  return jobs;
}

template <typename Kind>
absl::Status CancelJob(Session& session, const std::string& id) {
  EIGSVC_ASSIGN_OR_RETURN(Connection * connection, session.Connect());
  CallOptions options = connection->call_options();
  options.deadline = std::min(options.deadline, absl::Now() + kCancelTimeout);
  return Ask<typename Kind::CancelResponse>(*connection, Naming<typename Kind::CancelRequest>(id), options)
      .status();
}

#define EIGSVC_INSTANTIATE(Kind)                                                                     \
  template absl::Status RunJob(Session&, const Kind&, const Kind::Spec&, Progress&, Kind::Job*);     \
  template absl::Status DetachJob<Kind>(Session&, const Kind::Spec&);                                \
  template absl::StatusOr<Kind::Job> WatchJob(Session&, const Kind&, const std::string&, Progress&); \
  template absl::StatusOr<Kind::Job> GetJob<Kind>(Session&, const std::string&);                     \
  template absl::StatusOr<Kind::Job> AwaitEnd<Kind>(Session&, const std::string&, absl::Duration);   \
  template absl::StatusOr<std::vector<Kind::Job>> ListJobs<Kind>(Session&);                          \
  template absl::Status CancelJob<Kind>(Session&, const std::string&)
EIGSVC_INSTANTIATE(AnalysisKind);
EIGSVC_INSTANTIATE(TrainingKind);
#undef EIGSVC_INSTANTIATE

}  // namespace eigsvc::cli
