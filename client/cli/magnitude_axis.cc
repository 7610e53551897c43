#include "client/cli/magnitude_axis.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/cli/number_text.h"

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
  double low = 1e9, high = -1e9;
  bool below = false, beyond = false;
  for (const Spectrum* spectrum : spectra) {
    const auto count = static_cast<double>(spectrum->count());
    double side_low = 1e9, side_high = -1e9;
    Widen(spectrum->below_1(), count, &side_low, &side_high);
    below = below || side_low < side_high || spectrum->zeros() > 0;
    double beyond_low = 1e9, beyond_high = -1e9;
    Widen(spectrum->beyond_1(), count, &beyond_low, &beyond_high);
    beyond = beyond || beyond_low < beyond_high;
    low = std::min({low, side_low, beyond_low});
    high = std::max({high, side_high, beyond_high});
  }
  if (low > high) low = -2, high = 1;  // nothing but atoms
  // Two decades at least, so that a narrow spectrum looks narrow.
  const double middle = (low + high) / 2;
  low_ = std::min(low, middle - 1);
  high_ = std::max(high, middle + 1);
  beyond_columns_ = beyond ? (below ? (columns - 1) / 2 : columns - 2) : 0;
  below_columns_ = columns - 1 - beyond_columns_;
}

double MagnitudeAxis::Position(double distance, bool beyond) const {
  const double fraction = std::clamp((std::log10(distance) - low_) / (high_ - low_), 0.0, 1.0);
  return beyond ? below_columns_ + 1 + fraction * beyond_columns_ : (1 - fraction) * below_columns_;
}

int MagnitudeAxis::ColumnOf(double log_magnitude) const {
  if (log_magnitude == 0) return below_columns_;
  if (std::isinf(log_magnitude)) return log_magnitude < 0 ? 0 : columns_ - 1;
  const bool beyond = log_magnitude > 0;
  const int column = static_cast<int>(Position(std::abs(log_magnitude), beyond));
  return beyond ? std::clamp(column, std::min(below_columns_ + 1, columns_ - 1), columns_ - 1)
                : std::clamp(column, 0, below_columns_ - 1);
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
  if (beyond_columns_ > 0) {
    Spread(spectrum.beyond_1(), true, &counts);
  } else {
    for (const uint64_t bin : spectrum.beyond_1()) counts[below_columns_] += static_cast<double>(bin);
  }
  counts[ColumnOf(-HUGE_VAL)] += static_cast<double>(spectrum.zeros());
  counts[below_columns_] += static_cast<double>(spectrum.ones());
  for (double& count : counts) count /= static_cast<double>(spectrum.count());
  return counts;
}

std::string MagnitudeAxis::MagnitudeTicks(const Style&) const {
  constexpr double kBelow[] = {0.5,      0.9,  0.1,   0.99,  0.999,  0.01, 0.001, 0.9999, 0.99999,
                               0.999999, 1e-6, 1e-12, 1e-30, 1e-100, 0.7,  0.3,   0.97,   0.997};
  constexpr double kBeyond[] = {2, 1.1, 10, 1.01, 1.001, 100, 1000, 1.0001, 1.00001, 1e6, 1e12, 1e30, 1e100};
  std::vector<std::pair<int, std::string>> labels = {{below_columns_, "1"}};
  const auto add = [&](double magnitude) {
    const double decade = std::log10(std::abs(std::log(magnitude)));
    if (decade >= low_ && decade <= high_) {
      labels.emplace_back(ColumnOf(std::log(magnitude)), absl::StrCat(magnitude));
    }
  };
  for (const double magnitude : kBelow) add(magnitude);
  if (beyond_columns_ > 0) {
    for (const double magnitude : kBeyond) add(magnitude);
  }
  return PlaceLabels(columns_, labels);
}

std::string MagnitudeAxis::HalfLifeTicks(const Style& style) const {
  std::vector<std::pair<int, std::string>> labels = {{below_columns_, std::string(style.Pick("∞", "inf"))}};
  for (const double steps : {1.0, 10.0, 100.0, 1e3, 1e4, 1e5, 1e6, 0.1, 0.01, 1e-3, 1e7, 1e8}) {
    const double decade = std::log10(std::log(2.0) / steps);
    if (decade >= low_ && decade <= high_) {
      labels.emplace_back(ColumnOf(-std::log(2.0) / steps),
                          steps < 1 ? absl::StrCat(steps) : ShortCountText(steps));
    }
  }
  return PlaceLabels(columns_, labels);
}

}  // namespace eigsvc::cli
