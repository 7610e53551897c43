#include "client/cli/training_run.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "client/cli/analysis_json.h"
#include "client/cli/csv.h"
#include "client/cli/exit_code.h"
#include "client/cli/layer_spectrum.h"
#include "client/cli/number_text.h"
#include "client/cli/plot.h"
#include "models/base/status_macros.h"

namespace eigsvc::cli {
namespace {

// "median |λ| 0.93 0.991": a number a layer, the spectrum as it moves.
std::string MediansText(const google::protobuf::RepeatedPtrField<v1::SiteSpectrum>& sites,
                        const Style& style) {
  constexpr size_t kMostLayers = 4;
  const std::vector<LayerSpectrum> layers = MergeLayers(sites);
  if (layers.empty()) return "";
  std::string text = absl::StrCat("  median ", style.Pick("|λ|", "|lambda|"));
  for (size_t l = 0; l < std::min(layers.size(), kMostLayers); ++l) {
    absl::StrAppend(&text, " ", MagnitudeText(layers[l].spectrum.Quantile(0.5), style));
  }
  if (layers.size() > kMostLayers) absl::StrAppend(&text, " ", style.Pick("…", "..."));
  return text;
}

Progress::State ToState(const v1::TrainingProgress& progress, const Style& style) {
  Progress::State state;
  state.phase = "train";
  state.done = progress.step();
  state.total = progress.steps();
  state.unit = "steps";
  state.numbers = {{"loss", progress.loss()},
                   {"learning_rate", progress.learning_rate()},
                   {"gradient_norm", progress.gradient_norm()},
                   {"tokens_per_second", progress.tokens_per_second()}};
  state.detail = absl::StrCat("loss ", ScoreText(progress.loss()));
  if (progress.has_score()) {
    absl::StrAppend(&state.detail, "  ", progress.score().metric(), " ", ScoreText(progress.score().value()),
                    " (best ", ScoreText(progress.best_score()), ")", MediansText(progress.sites(), style));
    state.numbers.emplace_back("score", progress.score().value());
    state.numbers.emplace_back("best_score", progress.best_score());
  }
  return state;
}

Json EventObject(const v1::TrainingEvent& event) {
  Json object = {{"event", ""}, {"training_id", event.training_id()}};
  if (event.has_accepted()) {
    object["event"] = "accepted";
    object["queue_position"] = event.accepted().queue_position();
  } else if (event.has_model()) {
    object["event"] = "model";
    object["model"] = ModelObject(event.model());
  } else if (event.has_progress()) {
    const v1::TrainingProgress& progress = event.progress();
    object["event"] = "progress";
    object["step"] = progress.step();
    object["steps"] = progress.steps();
    object["loss"] = progress.loss();
    object["learning_rate"] = progress.learning_rate();
    object["gradient_norm"] = progress.gradient_norm();
    object["tokens_per_second"] = progress.tokens_per_second();
    object["score"] = progress.has_score() ? ScoreObject(progress.score()) : Json();
    object["score_step"] = progress.score_step();
    object["best_score"] = progress.best_score();
    object["sites"] = SiteArray(progress.sites());
  }
  return object;
}

class Follower {
 public:
  Follower(const Session& session, Progress& progress) : session_(session), progress_(progress) {}

  absl::Status Take(const v1::TrainingEvent& event) {
    training_.set_training_id(event.training_id());
    if (event.has_accepted()) {
      progress_.Update({.phase = "queue"});
    } else if (event.has_model()) {
      *training_.mutable_model() = event.model();
    } else if (event.has_progress()) {
      progress_.Update(ToState(event.progress(), session_.style()));
    } else if (event.has_result()) {
      *training_.mutable_result() = event.result();
      training_.set_state(v1::JOB_STATE_SUCCEEDED);
      return absl::OkStatus();
    }
    if (session_.format() != Format::kNdjson) return absl::OkStatus();
    return session_.Write(absl::StrCat(Line(EventObject(event)), "\n"));
  }

  absl::StatusOr<v1::Training> Finish(const v1::TrainingSpec& spec) {
    if (!training_.has_result()) {
      return absl::InternalError(
          "the server ended the stream without a result; ask for it with `eigsvc jobs get ID`");
    }
    *training_.mutable_spec() = spec;
    return std::move(training_);
  }

  const std::string& training_id() const { return training_.training_id(); }

 private:
  const Session& session_;
  Progress& progress_;
  v1::Training training_;
};

Json TrainingObject(const v1::Training& training, const std::string& best_path,
                    const std::string& last_path) {
  const v1::TrainingResult& result = training.result();
  const auto checkpoint = [](const std::string& sha256, const std::string& path) {
    return Json{{"sha256", sha256.empty() ? Json() : Json(sha256)},
                {"path", path.empty() ? Json() : Json(path)}};
  };
  return {
      {"schema_version", kSchemaVersion},
      {"training_id", training.training_id()},
      {"model", ModelObject(training.model())},
      {"task",
       {{"name", training.spec().task().name()},
        {"seed", training.spec().task().seed()},
        {"parameters", ParsedOrNull(training.spec().task().parameters_json())}}},
      {"steps", result.steps()},
      {"best_step", result.best_step()},
      {"best", ScoreObject(result.best())},
      {"last", ScoreObject(result.last())},
      {"final_loss", result.final_loss()},
      {"checkpoints",
       {{"best", checkpoint(result.best_sha256(), best_path)},
        {"last", checkpoint(result.last_sha256(), last_path)}}},
      {"seconds", static_cast<double>(result.total_time().seconds()) + result.total_time().nanos() * 1e-9},
      {"versions", std::map<std::string, std::string>(result.versions().begin(), result.versions().end())},
      {"sites", SiteArray(result.sites())}};
}

std::string TrainingTable(const v1::Training& training, const std::string& best_path,
                          const std::string& last_path, const Style& style) {
  const v1::TrainingResult& result = training.result();
  const absl::Duration time =
      absl::Seconds(result.total_time().seconds()) + absl::Nanoseconds(result.total_time().nanos());
  std::string out = absl::StrCat(
      style.Apply(Paint::kBold, absl::StrCat(Printable(training.model().family()), " trained on ",
                                             Printable(training.spec().task().name()))),
      "\n");
  const auto field = [&](absl::string_view label, const std::string& text) {
    absl::StrAppend(&out, "  ", style.Apply(Paint::kDim, PadRight(label, 12)), text, "\n");
  };
  const auto score = [](const v1::Score& of) {
    return absl::StrCat(of.metric(), " ", ScoreText(of.value()), "  95 % [", ScoreText(of.ci95_low()), ", ",
                        ScoreText(of.ci95_high()), "]  n = ", CountText(of.n()));
  };
  field("model", absl::StrCat(CountText(training.model().parameters()), " parameters, ",
                              training.model().layers(), " layers"));
  field("steps", absl::StrCat(CountText(result.steps()), " in ", DurationText(time)));
  field("best", absl::StrCat(score(result.best()), " at step ", CountText(result.best_step())));
  field("last", absl::StrCat(score(result.last()), ", loss ", ScoreText(result.final_loss())));
  field("checkpoint", result.best_sha256().empty() ? "the one of the run before is the best still"
                      : best_path.empty()          ? absl::StrCat("at the server: ", result.best_sha256())
                                                   : Printable(best_path));
  if (!last_path.empty()) field("to resume", Printable(last_path));
  const std::string plot = RenderPlot({{"trained", MergeLayers(result.sites())}}, style);
  if (!plot.empty()) absl::StrAppend(&out, "\n", plot);
  return out;
}

}  // namespace

absl::StatusOr<v1::Training> RunTraining(Session& session, const v1::TrainingSpec& spec, Progress& progress) {
  EIGSVC_ASSIGN_OR_RETURN(Connection * connection, session.Connect());
  Follower follower(session, progress);
  CallOptions options = connection->call_options();
  options.tick = [&] { progress.Tick(); };
  options.on_interrupt = [&] {
    if (follower.training_id().empty()) return false;
    progress.Finish();
    session.Say(absl::StrCat("eigsvc: cancelling ", follower.training_id(), "; Ctrl-C again leaves at once"));
    return CancelTraining(session, follower.training_id()).ok();
  };
  v1::TrainRequest request;
  *request.mutable_spec() = spec;
  const absl::Status status = ReadStream<v1::TrainResponse>(
      options,
      [&](auto* context, auto* queue) {
        return connection->trainings().PrepareAsyncTrain(context, request, queue);
      },
      [&](const v1::TrainResponse& response) { return follower.Take(response.event()); });
  if (!status.ok()) return connection->Explain(status);
  return follower.Finish(spec);
}

absl::StatusOr<std::string> DetachTraining(Session& session, const v1::TrainingSpec& spec) {
  EIGSVC_ASSIGN_OR_RETURN(Connection * connection, session.Connect());
  v1::TrainRequest request;
  *request.mutable_spec() = spec;
  request.set_detach(true);
  std::string id;
  const absl::Status status = ReadStream<v1::TrainResponse>(
      connection->call_options(),
      [&](auto* context, auto* queue) {
        return connection->trainings().PrepareAsyncTrain(context, request, queue);
      },
      [&](const v1::TrainResponse& response) {
        id = response.event().training_id();
        return absl::CancelledError("detached");  // the first event says that the job was accepted: leave
      });
  if (!id.empty()) return id;
  if (!status.ok()) return connection->Explain(status);
  return absl::InternalError("the server ended the stream without accepting the job");
}

absl::StatusOr<v1::Training> WatchTraining(Session& session, const std::string& training_id,
                                           Progress& progress) {
  EIGSVC_ASSIGN_OR_RETURN(Connection * connection, session.Connect());
  EIGSVC_ASSIGN_OR_RETURN(const v1::Training known, GetTraining(session, training_id));
  Follower follower(session, progress);
  CallOptions options = connection->call_options();
  options.tick = [&] { progress.Tick(); };
  v1::WatchTrainingRequest request;
  request.set_training_id(training_id);
  const absl::Status status = ReadStream<v1::WatchTrainingResponse>(
      options,
      [&](auto* context, auto* queue) {
        return connection->trainings().PrepareAsyncWatchTraining(context, request, queue);
      },
      [&](const v1::WatchTrainingResponse& response) { return follower.Take(response.event()); });
  if (!status.ok()) return connection->Explain(status);
  return follower.Finish(known.spec());
}

absl::StatusOr<v1::Training> GetTraining(Session& session, const std::string& training_id) {
  EIGSVC_ASSIGN_OR_RETURN(Connection * connection, session.Connect());
  v1::GetTrainingRequest request;
  request.set_training_id(training_id);
  absl::StatusOr<v1::GetTrainingResponse> response =
      CallUnary<v1::GetTrainingResponse>(connection->call_options(), [&](auto* context, auto* queue) {
        return connection->trainings().PrepareAsyncGetTraining(context, request, queue);
      });
  if (!response.ok()) return connection->Explain(response.status());
  return std::move(*response->mutable_training());
}

absl::Status CancelTraining(Session& session, const std::string& training_id) {
  EIGSVC_ASSIGN_OR_RETURN(Connection * connection, session.Connect());
  v1::CancelTrainingRequest request;
  request.set_training_id(training_id);
  CallOptions options = connection->call_options();
  options.deadline = std::min(options.deadline, absl::Now() + absl::Seconds(3));
  return connection->Explain(CallUnary<v1::CancelTrainingResponse>(options, [&](auto* context, auto* queue) {
                               return connection->trainings().PrepareAsyncCancelTraining(context, request,
                                                                                         queue);
                             }).status());
}

absl::Status WriteTraining(const Session& session, const v1::Training& training, const std::string& best_path,
                           const std::string& last_path) {
  const v1::TrainingResult& result = training.result();
  switch (session.format()) {
    case Format::kTable:
      return session.Write(TrainingTable(training, best_path, last_path, session.style()));
    case Format::kJson:
      return session.Write(absl::StrCat(
          TrainingObject(training, best_path, last_path).dump(2, ' ', false, Json::error_handler_t::replace),
          "\n"));
    case Format::kNdjson:
      return session.Write(absl::StrCat(
          Line({{"event", "result"}, {"training", TrainingObject(training, best_path, last_path)}}), "\n"));
    case Format::kCsv:
      break;
  }
  return session.Write(
      absl::StrCat(CsvRow({"training_id", "family", "task", "steps", "best_step", "metric", "best", "last",
                           "final_loss", "best_sha256", "last_sha256", "best_path", "last_path"}),
                   CsvRow({training.training_id(), training.model().family(), training.spec().task().name(),
                           absl::StrCat(result.steps()), absl::StrCat(result.best_step()),
                           result.best().metric(), CsvNumber(result.best().value()),
                           CsvNumber(result.last().value()), CsvNumber(result.final_loss()),
                           result.best_sha256(), result.last_sha256(), best_path, last_path})));
}

}  // namespace eigsvc::cli
