#include "client/cli/training_run.h"

#include <algorithm>
#include <map>

#include "absl/strings/str_cat.h"
#include "client/cli/analysis_json.h"
#include "client/cli/csv.h"
#include "client/cli/layer_spectrum.h"
#include "client/cli/number_text.h"
#include "client/cli/plot.h"

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
    const std::string value = absl::StrCat(of.metric(), " ", ScoreText(of.value()));
    if (of.n() == 0) return value;  // the best of a run that was resumed: its interval was not kept
    return absl::StrCat(value, "  95 % [", ScoreText(of.ci95_low()), ", ", ScoreText(of.ci95_high()),
                        "]  n = ", CountText(of.n()));
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

Progress::State TrainingKind::ToState(const v1::TrainingProgress& progress) const {
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

Json TrainingKind::ToJson(const v1::TrainingProgress& progress) const {
  return {{"step", progress.step()},
          {"steps", progress.steps()},
          {"loss", progress.loss()},
          {"learning_rate", progress.learning_rate()},
          {"gradient_norm", progress.gradient_norm()},
          {"tokens_per_second", progress.tokens_per_second()},
          {"score", progress.has_score() ? ScoreObject(progress.score()) : Json()},
          {"score_step", progress.score_step()},
          {"best_score", progress.best_score()},
          {"sites", SiteArray(progress.sites())}};
}

void TrainingKind::Mark(const std::string& id, Json* event) const { (*event)["training_id"] = id; }

int64_t Done(const v1::Training& training) {
  return training.has_result() ? training.result().steps() : training.progress().step();
}
int64_t Total(const v1::Training& training) {
  return training.has_result() ? training.result().steps() : training.progress().steps();
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
