// -o table of an analysis: what ran, how well it did, and its eigenvalues by site, as a plot and in the
// paper's bins.
#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/time/time.h"
#include "client/cli/layer_spectrum.h"
#include "client/cli/number_text.h"
#include "client/cli/plot.h"
#include "client/cli/report.h"
#include "client/cli/table.h"
#include "server/inspection/spectrum_summary.h"

namespace eigsvc::cli {
namespace {

// Where sites and runs would make more rows, the table has them by layer, unless all are asked for.
constexpr int kMaxSiteRows = 64;
constexpr int kQ05 = 1, kQ25 = 2, kQ50 = 3, kQ75 = 4, kQ95 = 5;  // of SpectrumSummary.quantiles

// A row of the tables: a site or a whole layer.
struct Row {
  int layer;
  std::string mixer, unit;
  v1::SpectrumSummary summary;
};

std::vector<Row> SiteRows(const v1::Analysis& analysis) {
  std::vector<Row> rows;
  for (const v1::SiteSpectrum& site : analysis.result().sites()) {
    const bool whole = site.site().unit_kind() == v1::UNIT_KIND_LAYER;
    rows.push_back({site.site().layer(), site.site().mixer(),
                    whole ? "" : absl::StrCat(UnitName(site.site().unit_kind()), " ", site.site().unit()),
                    site.summary()});
  }
  return rows;
}

std::vector<Row> LayerRows(const std::vector<LayerSpectrum>& layers) {
  std::vector<Row> rows;
  for (const LayerSpectrum& layer : layers) {
    const std::string plural = layer.units == 1 ? "" : "s";
    rows.push_back({layer.layer, layer.mixer,
                    layer.unit_kind == v1::UNIT_KIND_LAYER
                        ? ""
                        : absl::StrCat(layer.units, " ", UnitName(layer.unit_kind), plural),
                    SummaryProto(layer.spectrum)});
  }
  return rows;
}

double Quantile(const v1::SpectrumSummary& summary, int index) {
  return index < summary.quantiles_size() ? summary.quantiles(index) : std::nan("");
}

Table::Cell ShareCell(const v1::SpectrumSummary& summary, double share, Paint paint) {
  if (summary.count() == 0) return "-";
  return {PercentText(share), share >= 0.05 ? paint : Paint::kNone};
}

// The row of `rows` for the same site.
const v1::SpectrumSummary* Matching(const std::vector<Row>& rows, const Row& like) {
  const auto found = std::find_if(rows.begin(), rows.end(), [&](const Row& row) {
    return row.layer == like.layer && row.mixer == like.mixer && row.unit == like.unit;
  });
  return found == rows.end() ? nullptr : &found->summary;
}

// One run's rows under its name.
using Runs = std::vector<std::pair<std::string, std::vector<Row>>>;

// What of a spectrum a row shows beside its shares.
struct Detail {
  std::vector<int> quantiles;  // which of SpectrumSummary's
  bool half_life = true;
  bool windows = false;  // |λ| is a window's, and so is the half-life's unit
};

// A row a site and run, those of a site one below the other.
Table SiteTable(const Runs& runs, const Detail& detail, const Style& style) {
  constexpr const char* kNames[] = {"1 %", "5 %", "25 %", "50 %", "75 %", "95 %", "99 %"};
  const auto right = Table::Align::kRight;
  const std::vector<Row>& sites = runs.front().second;
  const bool several_mixers = std::any_of(sites.begin(), sites.end(), [&](const Row& row) {
    return row.mixer != sites.front().mixer || row.unit.empty();
  });
  const bool with_mixer = runs.size() == 1 || several_mixers;
  std::vector<Table::Column> columns = {{"layer", right}};
  if (with_mixer) columns.push_back({"mixer"});
  columns.push_back({"unit"});
  if (runs.size() > 1) columns.push_back({"run"});
  const int first = static_cast<int>(columns.size());
  for (const int q : detail.quantiles) columns.push_back({kNames[q], right});
  const int shares = static_cast<int>(columns.size()) + (detail.half_life ? 1 : 0);
  if (detail.half_life) columns.push_back({"half-life", right});
  columns.push_back({std::string(style.Pick("≤0.1", "<=.1")), right});
  columns.push_back({std::string(style.Pick("≈1", "~1")), right});
  columns.push_back({">1", right});
  Table table(columns);
  const int last = first + static_cast<int>(detail.quantiles.size()) - 1;
  const absl::string_view magnitude = style.Pick("|λ|", "|lambda|");
  table.Span(
      first, last,
      {first == last ? std::string(magnitude) : absl::StrCat("quantiles of ", magnitude), Paint::kDim});
  if (detail.half_life) table.Span(last + 1, last + 1, {detail.windows ? "windows" : "steps", Paint::kDim});
  table.Span(shares, shares + 2, {"shares in %", Paint::kDim});
  for (const Row& site : sites) {
    for (size_t r = 0; r < runs.size(); ++r) {
      std::vector<Table::Cell> cells = {r == 0 ? absl::StrCat(site.layer) : ""};
      if (with_mixer) cells.emplace_back(r == 0 ? Printable(site.mixer) : "");
      cells.emplace_back(r == 0 ? site.unit : "");
      if (runs.size() > 1) cells.emplace_back(runs[r].first);
      const v1::SpectrumSummary* summary = r == 0 ? &site.summary : Matching(runs[r].second, site);
      if (summary == nullptr) {
        cells.insert(cells.end(), columns.size() - cells.size(), Table::Cell("-"));
        table.Add(std::move(cells));
        continue;
      }
      for (const int q : detail.quantiles) {
        cells.emplace_back(MagnitudeText(Quantile(*summary, q), style),
                           q == kQ50 ? Paint::kBold : Paint::kNone);
      }
      if (detail.half_life) cells.emplace_back(HalfLifeText(Quantile(*summary, kQ50), style), Paint::kBold);
      cells.push_back(ShareCell(*summary, summary->le_0_1(), Paint::kBlue));
      cells.push_back(ShareCell(*summary, summary->near_1(), Paint::kGreen));
      cells.push_back(ShareCell(*summary, summary->above_1(), Paint::kRed));
      table.Add(std::move(cells));
    }
  }
  return table;
}

// With as much detail as the terminal has room for, the median at the least.
std::string FittingSiteTable(const Runs& runs, bool windows, const Style& style) {
  if (runs.front().second.empty()) return "";
  const Detail least{{kQ50}, /*half_life=*/false};
  for (Detail detail : {Detail{{kQ05, kQ25, kQ50, kQ75, kQ95}}, Detail{{kQ05, kQ50, kQ95}},
                        Detail{{kQ05, kQ50, kQ95}, /*half_life=*/false}, Detail{{kQ50}}}) {
    detail.windows = windows;
    const Table table = SiteTable(runs, detail, style);
    if (table.Width() <= style.columns) return table.Render(style);
  }
  return SiteTable(runs, least, style).Render(style);
}

std::string BinTable(const std::vector<std::pair<std::string, const std::vector<LayerSpectrum>*>>& runs,
                     const Style& style) {
  const auto right = Table::Align::kRight;
  std::vector<Table::Column> columns = {{"layer", right}, {"mixer"}};
  if (runs.size() > 1) columns.push_back({"run"});
  for (const char* bin : {"[0,.1)", "[.1,.5)", "[.5,.9)", "[.9,1]", "(1,10]", "(10,100]"})
    columns.push_back({bin, right});
  columns.push_back({std::string(style.Pick("(100,∞)", "(100,inf)")), right});
  columns.push_back({"count", right});
  Table table(columns);
  size_t layers = 0;
  for (const auto& [name, list] : runs) layers = std::max(layers, list->size());
  for (size_t l = 0; l < layers; ++l) {
    for (size_t r = 0; r < runs.size(); ++r) {
      const auto& [name, list] = runs[r];
      if (l >= list->size()) continue;
      const LayerSpectrum& layer = (*list)[l];
      std::vector<Table::Cell> cells = {r == 0 ? absl::StrCat(layer.layer) : std::string(),
                                        r == 0 ? Printable(layer.mixer) : std::string()};
      if (runs.size() > 1) cells.emplace_back(name);
      const auto count = static_cast<double>(layer.spectrum.count());
      const auto& bins = layer.spectrum.paper_bins();
      const uint64_t most = *std::max_element(bins.begin(), bins.end());
      for (const uint64_t bin : bins) {
        cells.emplace_back(count > 0 ? PercentText(static_cast<double>(bin) / count) : "-",
                           bin == most && bin > 0 ? Paint::kBold : Paint::kNone);
      }
      cells.emplace_back(ShortCountText(count));
      table.Add(std::move(cells));
    }
  }
  return table.Render(style);
}

std::string ScoreLine(const v1::Score& score, const Style& style) {
  std::string line = absl::StrCat(
      style.Apply(Paint::kBold, absl::StrCat(score.metric(), " ", ScoreText(score.value()))), "  95 % [",
      ScoreText(score.ci95_low()), ", ", ScoreText(score.ci95_high()), "]  n = ", CountText(score.n()));
  if (!score.interval().empty())
    absl::StrAppend(&line, style.Apply(Paint::kDim, absl::StrCat("  ", score.interval())));
  return line;
}

void AppendField(std::string* out, absl::string_view label, absl::string_view text, const Style& style) {
  absl::StrAppend(out, "  ", style.Apply(Paint::kDim, PadRight(label, 12)), text, "\n");
}

std::string Heading(absl::string_view title, absl::string_view remark, const Style& style) {
  return absl::StrCat("\n", style.Apply(Paint::kBold, title), style.Apply(Paint::kDim, remark), "\n");
}

std::string TwinName(const v1::Analysis& twin) {
  return absl::StrCat("twin, seed ", twin.spec().checkpoint().twin_seed());
}

// "EXACT · gauge dsf", and whatever else is not as usual.
std::string Convention(const v1::AnalysisResult& result, const Style& style) {
  const absl::string_view dot = style.Pick(" · ", ", ");
  std::string text = Printable(result.definition());
  if (result.departures_size() > 0)
    absl::StrAppend(&text, " (", Printable(absl::StrJoin(result.departures(), " ")), ")");
  absl::StrAppend(&text, dot, "gauge ", Printable(result.gauge()));
  if (result.rotation() != "io") absl::StrAppend(&text, dot, "rotation ", Printable(result.rotation()));
  return text;
}

void AppendProvenance(const Report& report, const Style& style, std::string* out) {
  const v1::Analysis& analysis = report.analysis;
  const v1::Model& model = analysis.model();
  const v1::AnalysisResult& result = analysis.result();
  const absl::string_view dot = style.Pick(" · ", ", ");
  const std::string source = report.source.empty() ? SourceName(analysis.spec().checkpoint()) : report.source;
  absl::StrAppend(out,
                  style.Apply(Paint::kBold, absl::StrCat(Printable(model.family()), " on ",
                                                         Printable(result.task().name()))),
                  "\n");
  std::string weights = Printable(source);
  if (model.has_initial_seed())
    absl::StrAppend(&weights, dot, "freshly initialised, seed ", model.initial_seed());
  AppendField(out, "checkpoint", weights, style);
  if (!model.checkpoint_sha256().empty())
    AppendField(out, "sha256", Printable(model.checkpoint_sha256()), style);
  AppendField(out, "model",
              absl::StrCat(Printable(model.family()), " (", Printable(model.layout()), " layout)", dot,
                           model.layers(), model.layers() == 1 ? " layer" : " layers", dot,
                           CountText(model.parameters()), " parameters", dot, "width ", model.width(), dot,
                           "vocabulary ", model.vocab_size()),
              style);
  AppendField(out, "task",
              absl::StrCat(Printable(result.task().name()), dot, Printable(result.task().split()), " split",
                           dot, "seed ", result.task().seed(), dot, CountText(result.examples()), " examples",
                           dot, CountText(result.tokens()), " tokens"),
              style);
  const absl::Duration total =
      absl::Seconds(result.total_time().seconds()) + absl::Nanoseconds(result.total_time().nanos());
  AppendField(
      out, "run",
      absl::StrCat(Printable(model.dtype()), " on ", Printable(model.device()),
                   model.residency() == "layer" ? ", a layer at a time" : "", dot, Convention(result, style),
                   dot, CountText(result.eigenvalues()), " eigenvalues", dot, DurationText(total)),
      style);
  AppendField(out, "score", ScoreLine(result.score(), style), style);
  if (report.twin.has_value()) {
    AppendField(out, "twin", ScoreLine(report.twin->result().score(), style), style);
  }
}

int64_t NonFinite(const v1::Analysis& analysis) {
  int64_t count = 0;
  for (const v1::SiteSpectrum& site : analysis.result().sites()) count += site.summary().nonfinite_count();
  return count;
}

// How far to trust eigenvalues that a solver found, where some were.
void AppendConditioning(const v1::Analysis& analysis, const Style& style, std::string* out) {
  int64_t count = 0, unresolved = 0;
  double worst = 0;
  int bits = 0;
  for (const v1::SiteSpectrum& site : analysis.result().sites()) {
    if (!site.has_conditioning()) continue;
    count += site.summary().count();
    unresolved += site.conditioning().unresolved_count();
    worst = std::max(worst, site.conditioning().max_condition());
    bits = site.conditioning().bits();
  }
  if (bits == 0) return;
  const std::string share =
      PercentText(static_cast<double>(unresolved) / static_cast<double>(std::max<int64_t>(count, 1)));
  absl::StrAppend(
      out, "  ",
      style.Apply(unresolved > 0 ? Paint::kRed : Paint::kDim, absl::StrCat(share, " % unresolved")), ": ",
      bits, " bits do not tell on which side of an edge ", style.Pick("|λ|", "|lambda|"),
      " lies\n  condition numbers up to ", absl::StrFormat("%.1e", worst),
      unresolved > 0 && bits <= 53 ? "; --precision multi resolves more" : "", "\n");
}

}  // namespace

std::string ReportTable(const Report& report, const Style& style) {
  std::string out;
  AppendProvenance(report, style, &out);

  const std::vector<LayerSpectrum> layers = MergeLayers(report.analysis.result().sites());
  std::vector<LayerSpectrum> twin_layers;
  if (report.twin.has_value()) twin_layers = MergeLayers(report.twin->result().sites());

  const int sites = report.analysis.result().sites_size();
  const bool by_site = report.all_sites || sites * (report.twin.has_value() ? 2 : 1) <= kMaxSiteRows;
  Runs runs = {{"checkpoint", by_site ? SiteRows(report.analysis) : LayerRows(layers)}};
  const v1::AnalysisResult& result = report.analysis.result();
  std::string remark;
  if (result.has_window()) {
    absl::StrAppend(&remark, "  of products over ", result.window().length(), " steps, every ",
                    result.window().stride());
  }
  if (report.twin.has_value()) {
    runs.emplace_back("twin", by_site ? SiteRows(*report.twin) : LayerRows(twin_layers));
    absl::StrAppend(&remark, "  ", TwinName(*report.twin));
  }
  if (!by_site) absl::StrAppend(&remark, "  ", CountText(sites), " sites; --all-sites or -o csv has each");
  absl::StrAppend(&out, Heading(by_site ? "Eigenvalues by site" : "Eigenvalues by layer", remark, style),
                  FittingSiteTable(runs, result.has_window(), style));
  absl::StrAppend(
      &out, "  ",
      style.Apply(Paint::kDim,
                  style.Pick("half-life of the median = ln 2 / −log|λ|; ≈1: |1−|λ|| ≤ 0.01; >1: beyond "
                             "the noise floor",
                             "half-life of the median = ln 2 / -log|lambda|; ~1: |1-|lambda|| <= 0.01; "
                             ">1: beyond the noise floor")),
      "\n");
  if (const int64_t bad = NonFinite(report.analysis); bad > 0) {
    absl::StrAppend(&out, "  ",
                    style.Apply(Paint::kRed, absl::StrCat(CountText(bad), " eigenvalues are not finite")),
                    ", counted apart\n");
  }

  if (const int64_t halvings = result.batch_halvings(); halvings > 0) {
    absl::StrAppend(&out, "  memory ran out ",
                    halvings == 1 ? "once" : absl::StrCat(CountText(halvings), " times"),
                    "; batches were halved, down to ", CountText(result.halved_batch_size()),
                    result.halved_batch_size() == 1 ? " example\n" : " examples\n");
  }
  if (const int64_t redone = result.redone_matrices(); redone > 0) {
    absl::StrAppend(&out, "  ", CountText(redone), redone == 1 ? " matrix" : " matrices",
                    " did not converge in the batched solver, redone on the host\n");
  }

  AppendConditioning(report.analysis, style, &out);

  std::vector<PlotRun> plot_runs = {{"checkpoint", layers}};
  if (report.twin.has_value()) plot_runs.push_back({TwinName(*report.twin), twin_layers});
  const std::string plot = RenderPlot(plot_runs, style);
  if (!plot.empty()) absl::StrAppend(&out, "\n", plot);

  absl::StrAppend(&out, Heading(absl::StrCat("Shares by ", style.Pick("|λ|", "|lambda|"), ", in %"),
                                "  bins of arXiv 2510.09379", style));
  std::vector<std::pair<std::string, const std::vector<LayerSpectrum>*>> bin_runs = {{"checkpoint", &layers}};
  if (report.twin.has_value()) bin_runs.emplace_back("twin", &twin_layers);
  absl::StrAppend(&out, BinTable(bin_runs, style));
  return out;
}

}  // namespace eigsvc::cli
