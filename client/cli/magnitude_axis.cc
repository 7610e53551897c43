#include "client/cli/magnitude_axis.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"

namespace eigsvc::cli {
namespace {

constexpr double kTailShare = 1e-4;

double BinLowLog10(int bin) { return std::log10(Spectrum::BinLow(bin)); }

// Widens [low, high] by the bins of one side, but for a tail at each end.
void Widen(const std::vector<uint64_t>& bins, double count, double* low, double* high) {
  double seen = 0;
  for (int b = 0; b < Spectrum::kBins; ++b) {
    seen += static_cast<double>(bins[b]);
    if (bins[b] > 0 && seen > kTailShare * count) {
      *low = std::min(*low, BinLowLog10(b));
      break;
    }
  }
  seen = 0;
  for (int b = Spectrum::kBins - 1; b >= 0; --b) {
    seen += static_cast<double>(bins[b]);
    if (bins[b] > 0 && seen > kTailShare * count) {
      *high = std::max(*high, BinLowLog10(b + 1));
      break;
    }
  }
}

// Labels laid on a line, most wanted first; one that would touch an earlier one is left out.
std::string PlaceLabels(int columns, const std::vector<std::pair<int, std::string>>& labels) {
  std::vector<std::string> cells(columns, " ");
  std::vector<bool> taken(columns, false);
  for (const auto& [center, label] : labels) {
    const int width = DisplayWidth(label);
    if (width > columns) continue;
    const int start = std::clamp(center - width / 2, 0, columns - width);
    const int from = std::max(0, start - 1);
    const int to = std::min(columns, start + width + 1);
    if (std::find(taken.begin() + from, taken.begin() + to, true) != taken.begin() + to) continue;
    std::fill(taken.begin() + start, taken.begin() + start + width, true);
    int cell = start - 1;
    for (const char c : label) {
      if ((c & 0xC0) != 0x80) cells[++cell].clear();
      cells[cell].push_back(c);
    }
  }
  std::string line;
  for (const std::string& cell : cells) absl::StrAppend(&line, cell);
  line.erase(line.find_last_not_of(' ') + 1);
  return line;
}

}  // namespace

MagnitudeAxis::MagnitudeAxis(const std::vector<const Spectrum*>& spectra, int columns) : columns_(columns) {
  constexpr double kNone = 1e9;
  below_.low = beyond_.low = kNone;
  below_.high = beyond_.high = -kNone;
  for (const Spectrum* spectrum : spectra) {
    const auto count = static_cast<double>(spectrum->count());
    Widen(spectrum->below_1(), count, &below_.low, &below_.high);
    Widen(spectrum->beyond_1(), count, &beyond_.low, &beyond_.high);
  }
  if (below_.low > below_.high) below_.low = -2, below_.high = 1;  // atoms only: the usual range
  // Two decades at least, so that a narrow spectrum looks narrow; growth has its own ends on the same scale.
  const auto widen_to = [](Side& side, double decades) {
    const double middle = (side.low + side.high) / 2;
    side.low = std::min(side.low, middle - decades / 2);
    side.high = std::max(side.high, middle + decades / 2);
    return side.high - side.low;
  };
  const double decay = widen_to(below_, 2);
  if (beyond_.low < beyond_.high) {
    const double growth = widen_to(beyond_, 1);
    beyond_.columns = std::max(3, static_cast<int>(std::lround((columns - 1) * growth / (decay + growth))));
  }
  below_.columns = columns - 1 - beyond_.columns;
}

double MagnitudeAxis::Position(double distance, bool beyond) const {
  const Side& side = beyond ? beyond_ : below_;
  const double fraction = std::clamp((std::log10(distance) - side.low) / (side.high - side.low), 0.0, 1.0);
  return beyond ? below_.columns + 1 + fraction * side.columns : (1 - fraction) * side.columns;
}

int MagnitudeAxis::ColumnOf(double log_magnitude) const {
  if (log_magnitude == 0) return below_.columns;
  if (std::isinf(log_magnitude)) return log_magnitude < 0 ? 0 : columns_ - 1;
  const bool beyond = log_magnitude > 0;
  const int column = static_cast<int>(Position(std::abs(log_magnitude), beyond));
  return beyond ? std::clamp(column, std::min(below_.columns + 1, columns_ - 1), columns_ - 1)
                : std::clamp(column, 0, below_.columns - 1);
}

void MagnitudeAxis::Spread(const std::vector<uint64_t>& bins, bool beyond,
                           std::vector<double>* counts) const {
  // A bin may cover several columns of a narrow axis: its count is spread evenly over its width.
  const int first = ColumnOf(beyond ? 1e-300 : -HUGE_VAL);
  const int last = ColumnOf(beyond ? HUGE_VAL : -1e-300);
  for (int b = 0; b < Spectrum::kBins; ++b) {
    if (bins[b] == 0) continue;
    double from = Position(Spectrum::BinLow(b), beyond);
    double to = Position(Spectrum::BinLow(b + 1), beyond);
    if (from > to) std::swap(from, to);
    const int from_column = std::clamp(static_cast<int>(from), first, last);
    const int to_column = std::clamp(static_cast<int>(to), first, last);
    const auto count = static_cast<double>(bins[b]);
    if (from_column == to_column) {
      (*counts)[from_column] += count;
      continue;
    }
    for (int c = from_column; c <= to_column; ++c) {
      (*counts)[c] += count * (std::min(to, c + 1.0) - std::max(from, static_cast<double>(c))) / (to - from);
    }
  }
}

std::vector<double> MagnitudeAxis::Shares(const Spectrum& spectrum) const {
  std::vector<double> counts(columns_, 0.0);
  if (spectrum.count() == 0) return counts;
  Spread(spectrum.below_1(), false, &counts);
  // An axis without a growing side was asked to show none or a negligible tail of it: that joins |λ| = 1.
  if (beyond_.columns > 0) {
    Spread(spectrum.beyond_1(), true, &counts);
  } else {
    for (const uint64_t bin : spectrum.beyond_1()) counts[below_.columns] += static_cast<double>(bin);
  }
  counts[ColumnOf(-HUGE_VAL)] += static_cast<double>(spectrum.zeros());
  counts[below_.columns] += static_cast<double>(spectrum.ones());
  for (double& count : counts) count /= static_cast<double>(spectrum.count());
  return counts;
}

std::string MagnitudeAxis::MagnitudeTicks() const {
  constexpr double kTicks[] = {0.5,     2,        0.9,     0.1,  0.99,  10,   0.999, 0.01,  0.001, 1.1,
                               0.9999,  100,      0.7,     0.97, 1e-6,  1e3,  1.01,  1.001, 1e-12, 1.0001,
                               0.99999, 0.999999, 1.00001, 1e6,  1e-30, 1e12, 1e-60, 1e100, 1e-100};
  std::vector<std::pair<int, std::string>> labels = {{below_.columns, "1"}};
  for (const double magnitude : kTicks) {
    const Side& side = magnitude < 1 ? below_ : beyond_;
    if (side.Shows(std::log10(std::abs(std::log(magnitude))))) {
      labels.emplace_back(ColumnOf(std::log(magnitude)), absl::StrCat(magnitude));
    }
  }
  return PlaceLabels(columns_, labels);
}

std::string MagnitudeAxis::HalfLifeTicks(const Style& style) const {
  std::vector<std::pair<int, std::string>> labels = {{below_.columns, std::string(style.Pick("∞", "inf"))}};
  for (const double steps : {1.0, 10.0, 100.0, 1e3, 1e4, 1e5, 1e6, 0.1, 0.01, 1e-3, 1e7, 1e8}) {
    if (!below_.Shows(std::log10(std::log(2.0) / steps))) continue;
    const std::string label = steps < 1e3   ? absl::StrCat(steps)
                              : steps < 1e6 ? absl::StrCat(steps / 1e3, "k")
                                            : absl::StrCat(steps / 1e6, "M");
    labels.emplace_back(ColumnOf(-std::log(2.0) / steps), label);
  }
  return PlaceLabels(columns_, labels);
}

}  // namespace eigsvc::cli
