#include "client/cli/plot.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "client/cli/magnitude_axis.h"

namespace eigsvc::cli {
namespace {

constexpr int kIndent = 2;
constexpr int kLabelWidth = 14;  // "layer 12", "half-life"
constexpr int kPanelGap = 3;
constexpr int kEighths = 8;

// The glyph of a cell filled to `eighths` from below.
absl::string_view Block(int eighths, const Style& style) {
  constexpr absl::string_view kUnicode[] = {" ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
  constexpr absl::string_view kAscii[] = {" ", ".", ".", ":", ":", "|", "|", "#", "#"};
  return style.utf8 ? kUnicode[eighths] : kAscii[eighths];
}

// Near 0, in between, near 1 and beyond 1 in the colours of the table's shares.
Paint PaintOf(const MagnitudeAxis& axis, int column) {
  if (column <= axis.ColumnOf(std::log(0.1))) return Paint::kBlue;
  if (column < axis.ColumnOf(std::log(0.99))) return Paint::kCyan;
  if (column <= axis.ColumnOf(0)) return Paint::kGreen;
  return Paint::kRed;
}

// The lines of one panel, top first, each axis.columns() wide. The tallest column fills the height; a column
// with anything in it shows at least one eighth.
std::vector<std::string> Panel(const Spectrum& spectrum, const MagnitudeAxis& axis, int height,
                               const Style& style) {
  const std::vector<double> shares = axis.Shares(spectrum);
  const double tallest = *std::max_element(shares.begin(), shares.end());
  std::vector<int> eighths(shares.size(), 0);
  for (size_t c = 0; c < shares.size(); ++c) {
    if (shares[c] > 0) {
      eighths[c] = std::max(1, static_cast<int>(std::lround(shares[c] / tallest * height * kEighths)));
    }
  }
  std::vector<std::string> lines(height);
  for (int line = 0; line < height; ++line) {
    // Columns of one colour are painted together.
    for (int c = 0; c < axis.columns();) {
      const Paint paint = PaintOf(axis, c);
      std::string run;
      for (; c < axis.columns() && PaintOf(axis, c) == paint; ++c) {
        absl::StrAppend(&run,
                        Block(std::clamp(eighths[c] - (height - 1 - line) * kEighths, 0, kEighths), style));
      }
      const size_t end = run.find_last_not_of(' ') + 1;  // spaces stay bare, so that lines can lose theirs
      absl::StrAppend(&lines[line], style.Apply(paint, run.substr(0, end)), run.substr(end));
    }
  }
  return lines;
}

int PanelHeight(size_t layers) { return layers <= 4 ? 4 : layers <= 12 ? 2 : 1; }

// Whole lines of panels beside each other: the label, then each run's part.
void AppendLine(std::string* out, absl::string_view label, const std::vector<std::string>& parts, int width,
                const Style& style, Paint paint) {
  std::string line =
      absl::StrCat(std::string(kIndent, ' '), style.Apply(Paint::kDim, PadRight(label, kLabelWidth)));
  for (size_t i = 0; i < parts.size(); ++i) {
    if (i > 0)
      absl::StrAppend(&line, std::string(kPanelGap + std::max(0, width - DisplayWidth(parts[i - 1])), ' '));
    absl::StrAppend(&line, style.Apply(paint, parts[i]));
  }
  line.erase(line.find_last_not_of(' ') + 1);
  absl::StrAppend(out, line, "\n");
}

}  // namespace

std::string RenderPlot(const std::vector<PlotRun>& runs, const Style& style) {
  std::vector<const Spectrum*> spectra;
  for (const PlotRun& run : runs) {
    for (const LayerSpectrum& layer : run.layers) {
      if (layer.spectrum.count() > 0) spectra.push_back(&layer.spectrum);
    }
  }
  if (spectra.empty()) return "";
  const int count = static_cast<int>(runs.size());
  const int available = std::min(style.columns, 120) - kIndent - kLabelWidth - (count - 1) * kPanelGap;
  const MagnitudeAxis axis(spectra, std::max(16, available / count));

  std::string out = absl::StrCat(
      style.Apply(Paint::kBold, absl::StrCat("Distribution of ", style.Pick("|λ|", "|lambda|"))),
      style.Apply(Paint::kDim,
                  "  x: timescale of memory, logarithmic; height: share of eigenvalues, by panel"),
      "\n");
  if (count > 1) {
    std::vector<std::string> headings;
    for (const PlotRun& run : runs) headings.push_back(run.heading);
    AppendLine(&out, "", headings, axis.columns(), style, Paint::kBold);
  }
  size_t layers = 0;
  for (const PlotRun& run : runs) layers = std::max(layers, run.layers.size());
  const int height = PanelHeight(layers);
  for (size_t l = 0; l < layers; ++l) {
    std::vector<std::vector<std::string>> panels;
    std::string label;
    for (const PlotRun& run : runs) {
      if (l >= run.layers.size()) {
        panels.emplace_back(height, std::string(axis.columns(), ' '));
        continue;
      }
      const LayerSpectrum& layer = run.layers[l];
      // Two mixers of one layer are two panels; the second says which it is.
      const bool more = l > 0 && run.layers[l - 1].layer == layer.layer;
      if (label.empty())
        label =
            more ? Printable(layer.mixer).substr(0, kLabelWidth - 1) : absl::StrCat("layer ", layer.layer);
      panels.push_back(Panel(layer.spectrum, axis, height, style));
    }
    for (int line = 0; line < height; ++line) {
      std::string text =
          absl::StrCat(std::string(kIndent, ' '), PadRight(line + 1 == height ? label : "", kLabelWidth));
      for (size_t p = 0; p < panels.size(); ++p) {
        absl::StrAppend(&text, p > 0 ? std::string(kPanelGap, ' ') : "", panels[p][line]);
      }
      text.erase(text.find_last_not_of(' ') + 1);
      absl::StrAppend(&out, text, "\n");
    }
  }
  std::string rule;
  for (int i = 0; i < axis.columns(); ++i) absl::StrAppend(&rule, style.Pick("─", "-"));
  AppendLine(&out, "", std::vector<std::string>(count, rule), axis.columns(), style, Paint::kDim);
  AppendLine(&out, style.Pick("|λ|", "|lambda|"), std::vector<std::string>(count, axis.MagnitudeTicks()),
             axis.columns(), style, Paint::kNone);
  AppendLine(&out, "half-life", std::vector<std::string>(count, axis.HalfLifeTicks(style)), axis.columns(),
             style, Paint::kNone);
  return out;
}

}  // namespace eigsvc::cli
