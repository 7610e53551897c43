// -o csv of an analysis: one row a site, every digit.
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "client/cli/csv.h"
#include "client/cli/layer_spectrum.h"
#include "client/cli/report.h"

namespace eigsvc::cli {
namespace {

// Of each stored eigenvalue, one number where all have the same; "inf" among several, empty alone.
std::string MultiplicityText(const v1::SiteSpectrum& site) {
  if (site.multiplicities_size() == 1 && site.multiplicities(0) == 0) return "";
  return absl::StrJoin(site.multiplicities(), " ", [](std::string* out, int64_t each) {
    absl::StrAppend(out, each > 0 ? absl::StrCat(each) : "inf");
  });
}

void AppendRows(const std::string& run, const v1::Analysis& analysis, std::string* out) {
  const v1::Score& score = analysis.result().score();
  for (const v1::SiteSpectrum& site : analysis.result().sites()) {
    const v1::SpectrumSummary& summary = site.summary();
    const bool any = summary.count() > 0;
    std::vector<std::string> row = {run,
                                    analysis.analysis_id(),
                                    analysis.model().family(),
                                    analysis.model().layout(),
                                    analysis.model().checkpoint_sha256(),
                                    analysis.result().definition(),
                                    absl::StrJoin(analysis.result().departures(), " "),
                                    analysis.result().gauge(),
                                    analysis.result().rotation(),
                                    analysis.result().task().name(),
                                    score.metric(),
                                    CsvNumber(score.value()),
                                    absl::StrCat(score.n()),
                                    absl::StrCat(site.site().layer()),
                                    site.site().mixer(),
                                    UnitName(site.site().unit_kind()),
                                    absl::StrCat(site.site().unit()),
                                    MultiplicityText(site),
                                    site.constant() ? "true" : "false",
                                    site.conjugate_pairs() ? "true" : "false",
                                    absl::StrCat(summary.count()),
                                    absl::StrCat(summary.nonfinite_count()),
                                    absl::StrCat(summary.zero_count()),
                                    CsvNumber(summary.mean()),
                                    CsvNumber(summary.std()),
                                    any ? CsvNumber(summary.min()) : "",
                                    any ? CsvNumber(summary.max()) : ""};
    for (int i = 0; i < 7; ++i)
      row.push_back(i < summary.quantiles_size() ? CsvNumber(summary.quantiles(i)) : "");
    for (const double share : {summary.le_0_1(), summary.near_1(), summary.above_1()}) {
      row.push_back(any ? CsvNumber(share) : "");
    }
    for (int i = 0; i < 7; ++i)
      row.push_back(i < summary.paper_bins_size() ? CsvNumber(summary.paper_bins(i)) : "");
    const bool conditioned = site.has_conditioning();
    row.push_back(conditioned ? CsvNumber(site.conditioning().max_condition()) : "");
    row.push_back(conditioned ? absl::StrCat(site.conditioning().unresolved_count()) : "");
    const v1::Window& window = analysis.result().window();
    row.push_back(absl::StrCat(std::max<int64_t>(window.length(), 1)));
    row.push_back(absl::StrCat(std::max<int64_t>(window.stride(), 1)));
    absl::StrAppend(out, CsvRow(row));
  }
}

}  // namespace

std::string ReportCsv(const Report& report) {
  std::string out = CsvRow({"run",
                            "analysis_id",
                            "family",
                            "layout",
                            "checkpoint_sha256",
                            "definition",
                            "departures",
                            "gauge",
                            "rotation",
                            "task",
                            "metric",
                            "score",
                            "n",
                            "layer",
                            "mixer",
                            "unit",
                            "head",
                            "multiplicity",
                            "constant",
                            "conjugate_pairs",
                            "count",
                            "nonfinite_count",
                            "zero_count",
                            "mean",
                            "std",
                            "min",
                            "max",
                            "q0.01",
                            "q0.05",
                            "q0.25",
                            "q0.5",
                            "q0.75",
                            "q0.95",
                            "q0.99",
                            "le_0_1",
                            "near_1",
                            "above_1",
                            "bin_0_0.1",
                            "bin_0.1_0.5",
                            "bin_0.5_0.9",
                            "bin_0.9_1",
                            "bin_1_10",
                            "bin_10_100",
                            "bin_100_inf",
                            "max_condition",
                            "unresolved_count",
                            "window",
                            "stride"});
  AppendRows("checkpoint", report.analysis, &out);
  if (report.twin.has_value()) AppendRows("twin", *report.twin, &out);
  return out;
}

}  // namespace eigsvc::cli
