#include "client/cli/analysis_run.h"

#include "absl/strings/str_cat.h"
#include "client/cli/analysis_json.h"
#include "client/cli/number_text.h"

namespace eigsvc::cli {

Progress::State AnalysisKind::ToState(const v1::AnalysisProgress& progress) const {
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

Json AnalysisKind::ToJson(const v1::AnalysisProgress& progress) const {
  return {{"phase", progress.phase()},
          {"examples_done", progress.examples_done()},
          {"examples_total", progress.examples_total()},
          {"eigenvalues", progress.eigenvalues()},
          {"score", progress.has_score() ? ScoreObject(progress.score()) : Json()},
          {"sites", SiteArray(progress.sites())}};
}

void AnalysisKind::Mark(const std::string& id, Json* event) const {
  (*event)["run"] = run;
  (*event)["analysis_id"] = id;
}

int64_t Done(const v1::Analysis& analysis) {
  return analysis.has_result() ? analysis.result().examples() : analysis.progress().examples_done();
}
int64_t Total(const v1::Analysis& analysis) {
  return analysis.has_result() ? analysis.result().examples() : analysis.progress().examples_total();
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
