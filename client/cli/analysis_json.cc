#include "client/cli/analysis_json.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/cli/layer_spectrum.h"
#include "server/inspection/spectrum_summary.h"

namespace eigsvc::cli {
namespace {

constexpr const char* kQuantileNames[] = {"0.01", "0.05", "0.25", "0.5", "0.75", "0.95", "0.99"};
constexpr int kPaperBins = 7;

Json Strings(const google::protobuf::RepeatedPtrField<std::string>& texts) {
  return std::vector<std::string>(texts.begin(), texts.end());
}

Json NullIfEmpty(const std::string& text) { return text.empty() ? Json() : Json(text); }

// The statistics of one distribution, appended to `object`.
void AppendSummary(const v1::SpectrumSummary& summary, Json* object) {
  (*object)["count"] = summary.count();
  (*object)["nonfinite_count"] = summary.nonfinite_count();
  (*object)["zero_count"] = summary.zero_count();
  Json quantiles = Json::object();
  for (int i = 0; i < 7; ++i) {
    quantiles[kQuantileNames[i]] = i < summary.quantiles_size() ? Json(summary.quantiles(i)) : Json();
  }
  const bool any = summary.count() > 0;
  (*object)["log_magnitude"] = {{"mean", summary.mean()},
                                {"std", summary.std()},
                                {"min", any ? Json(summary.min()) : Json()},
                                {"max", any ? Json(summary.max()) : Json()},
                                {"quantiles", quantiles}};
  (*object)["mass"] = {{"le_0_1", any ? Json(summary.le_0_1()) : Json()},
                       {"near_1", any ? Json(summary.near_1()) : Json()},
                       {"above_1", any ? Json(summary.above_1()) : Json()}};
  Json bins = Json::array();
  for (int i = 0; i < kPaperBins; ++i)
    bins.push_back(i < summary.paper_bins_size() ? Json(summary.paper_bins(i)) : Json());
  (*object)["paper_bins"] = bins;
  (*object)["noise_floor"] = summary.noise_floor();
}

// One number where all stored eigenvalues have the same; null stands for infinite.
Json MultiplicityJson(const v1::SiteSpectrum& site) {
  Json all = Json::array();
  for (const int64_t each : site.multiplicities()) all.push_back(each > 0 ? Json(each) : Json());
  if (all.empty()) return Json();
  return all.size() == 1 ? all[0] : all;
}

Json LayerArray(const google::protobuf::RepeatedPtrField<v1::SiteSpectrum>& sites) {
  Json layers = Json::array();
  for (const LayerSpectrum& layer : MergeLayers(sites)) {
    Json object = {{"layer", layer.layer},
                   {"mixer", layer.mixer},
                   {"unit", UnitName(layer.unit_kind)},
                   {"units", layer.units}};
    AppendSummary(SummaryProto(layer.spectrum), &object);
    layers.push_back(std::move(object));
  }
  return layers;
}

double Seconds(const google::protobuf::Duration& duration) {
  return static_cast<double>(duration.seconds()) + duration.nanos() * 1e-9;
}

Json AnalysisObject(const v1::Analysis& analysis, const std::string& source) {
  const v1::AnalysisResult& result = analysis.result();
  Json object;
  object["schema_version"] = kSchemaVersion;
  object["analysis_id"] = analysis.analysis_id();
  object["model"] = ModelObject(analysis.model());
  object["checkpoint"] = {{"sha256", NullIfEmpty(analysis.model().checkpoint_sha256())},
                          {"source", source},
                          {"twin_seed", analysis.spec().checkpoint().has_twin_seed()
                                            ? Json(analysis.spec().checkpoint().twin_seed())
                                            : Json()}};
  object["task"] = {{"name", result.task().name()},
                    {"seed", result.task().seed()},
                    {"split", result.task().split()},
                    {"parameters", ParsedOrNull(result.task().parameters_json())}};
  object["score"] = ScoreObject(result.score());
  object["definition"] = result.definition();
  object["departures"] = Strings(result.departures());
  object["gauge"] = result.gauge();
  object["rotation"] = NullIfEmpty(result.rotation());
  object["weight"] = analysis.spec().weight_by_multiplicity() ? "multiplicity" : "none";
  object["first_step"] = analysis.spec().include_first_step();
  object["window"] = result.has_window()
                         ? Json{{"length", result.window().length()}, {"stride", result.window().stride()}}
                         : Json();
  object["examples"] = result.examples();
  object["tokens"] = result.tokens();
  object["eigenvalues"] = result.eigenvalues();
  object["redone_matrices"] = result.redone_matrices();
  object["batch_size"] = result.batch_size();
  object["batch_halvings"] = result.batch_halvings();
  object["halved_batch_size"] = result.batch_halvings() > 0 ? Json(result.halved_batch_size()) : Json();
  object["max_steps"] = analysis.spec().max_steps() > 0 ? Json(analysis.spec().max_steps()) : Json();
  object["seconds"] = {{"forward", Seconds(result.forward_time())},
                       {"analysis", Seconds(result.analysis_time())},
                       {"total", Seconds(result.total_time())}};
  object["versions"] = std::map<std::string, std::string>(result.versions().begin(), result.versions().end());
  object["sites"] = SiteArray(result.sites());
  object["layers"] = LayerArray(result.sites());
  return object;
}

}  // namespace

Json ParsedOrNull(const std::string& text) {
  Json parsed = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  return parsed.is_object() ? parsed : Json();
}

Json ScoreObject(const v1::Score& score) {
  const bool known = score.n() > 0;  // else of a run before the one that was resumed, or of nothing
  return {{"metric", score.metric()},
          {"value", score.value()},
          {"n", score.n()},
          {"ci95", {known ? Json(score.ci95_low()) : Json(), known ? Json(score.ci95_high()) : Json()}},
          {"interval", NullIfEmpty(score.interval())},
          {"also", std::map<std::string, double>(score.also().begin(), score.also().end())}};
}

Json ModelObject(const v1::Model& model) {
  return {{"family", model.family()},
          {"layout", model.layout()},
          {"layers", model.layers()},
          {"parameters", model.parameters()},
          {"width", model.width()},
          {"vocab_size", model.vocab_size()},
          {"dtype", model.dtype()},
          {"device", model.device()},
          {"gauges", Strings(model.gauges())},
          {"rotations", Strings(model.rotations())},
          {"departures", Strings(model.departures())},
          {"residency", model.residency()},
          {"initial_seed", model.has_initial_seed() ? Json(model.initial_seed()) : Json()},
          {"settings", ParsedOrNull(model.settings_json())}};
}

Json SiteArray(const google::protobuf::RepeatedPtrField<v1::SiteSpectrum>& sites) {
  Json array = Json::array();
  for (const v1::SiteSpectrum& site : sites) {
    Json object = {{"layer", site.site().layer()},
                   {"mixer", site.site().mixer()},
                   {"unit", UnitName(site.site().unit_kind())},
                   {"head", site.site().unit()},
                   {"multiplicity", MultiplicityJson(site)},
                   {"constant", site.constant()},
                   {"conjugate_pairs", site.conjugate_pairs()}};
    if (site.has_conditioning()) {
      const double count = static_cast<double>(site.summary().count());
      const auto unresolved = static_cast<double>(site.conditioning().unresolved_count());
      object["conditioning"] = {{"max_condition", site.conditioning().max_condition()},
                                {"unresolved", count > 0 ? Json(unresolved / count) : Json()},
                                {"bits", site.conditioning().bits()}};
    }
    AppendSummary(site.summary(), &object);
    const auto& phases = site.summary().phase_bins();
    if (!phases.empty()) object["phase_bins"] = std::vector<double>(phases.begin(), phases.end());
    array.push_back(std::move(object));
  }
  return array;
}

Json ReportObject(const Report& report) {
  const std::string source =
      report.source.empty() ? SourceName(report.analysis.spec().checkpoint()) : report.source;
  Json object = AnalysisObject(report.analysis, source);
  if (report.twin.has_value()) object["twin"] = AnalysisObject(*report.twin, source);
  return object;
}

std::string Line(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }

std::string ReportJson(const Report& report) {
  return absl::StrCat(ReportObject(report).dump(2, ' ', false, Json::error_handler_t::replace), "\n");
}

std::string SourceName(const v1::CheckpointRef& checkpoint) {
  switch (checkpoint.source_case()) {
    case v1::CheckpointRef::kName:
      return checkpoint.name();
    case v1::CheckpointRef::kSha256:
      return absl::StrCat("upload ", checkpoint.sha256().substr(0, 12));
    case v1::CheckpointRef::kLocalPath:
      return checkpoint.local_path();
    case v1::CheckpointRef::kInitializer:
      return absl::StrCat(checkpoint.initializer().family(), " initialised, seed ",
                          checkpoint.initializer().seed());
    case v1::CheckpointRef::SOURCE_NOT_SET:
      break;
  }
  return "";
}

}  // namespace eigsvc::cli
