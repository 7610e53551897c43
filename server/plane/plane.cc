#include "server/plane/plane.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <limits>
#include <numbers>

namespace eigsvc {
namespace {

// The grid of SpectrumBins.
constexpr int kBinsPerOctave = 32, kMinExponent = -30, kOctaves = 42, kPhases = 64;
constexpr int kBins = kOctaves * kBinsPerOctave, kCells = 2 * kOctaves * kPhases;

double BinLow(int bin) {
  return std::ldexp(1 + (bin % kBinsPerOctave) / static_cast<double>(kBinsPerOctave),
                    kMinExponent + bin / kBinsPerOctave);
}

// Sums of all sites. Index 0: |λ| < 1; 1: |λ| > 1.
struct Counts {
  std::array<std::array<double, kBins>, 2> positive{};                      // positive real λ
  std::array<std::array<std::array<double, kPhases>, kOctaves>, 2> grid{};  // the others
  double zeros = 0, ones = 0;
  double max = -std::numeric_limits<double>::infinity();  // of log|λ|
};

template <typename Indices, typename Values, typename Add>
void ForEach(const Indices& indices, const Values& values, int limit, const Add& add) {
  for (int i = 0; i < std::min(indices.size(), values.size()); ++i) {
    if (indices[i] >= 0 && indices[i] < limit) add(indices[i], static_cast<double>(values[i]));
  }
}

Counts Count(const std::vector<const v1::SiteSpectrum*>& sites) {
  Counts counts;
  for (const v1::SiteSpectrum* site : sites) {
    const v1::SpectrumBins& bins = site->bins();
    std::array<std::array<double, kBins>, 2> by_bin{};
    const auto all = [&](int side) {
      return [&by_bin, side](int bin, double count) { by_bin[side][bin] += count; };
    };
    ForEach(bins.below_1_index(), bins.below_1_count(), kBins, all(0));
    ForEach(bins.beyond_1_index(), bins.beyond_1_count(), kBins, all(1));
    std::array<std::array<double, kOctaves>, 2> elsewhere{};  // not positive real
    ForEach(bins.phase_index(), bins.phase_count(), kCells, [&](int cell, double count) {
      const int side = cell / (kOctaves * kPhases), octave = cell / kPhases % kOctaves,
                phase = cell % kPhases;
      elsewhere[side][octave] += count;
      auto& row = counts.grid[side][octave];
      if (site->conjugate_pairs()) {
        row[phase] += count / 2;
        row[kPhases - 1 - phase] += count / 2;
      } else {
        row[phase] += count;
      }
    });
    // |λ| = 1 lies in the first octave of the grid, but in no bin.
    double ones = static_cast<double>(bins.one_count());
    for (int side = 0; side < 2; ++side) {
      for (int octave = 0; octave < kOctaves; ++octave) {
        double total = 0;
        for (int bin = 0; bin < kBinsPerOctave; ++bin) total += by_bin[side][octave * kBinsPerOctave + bin];
        double left = elsewhere[side][octave];
        if (side == 0 && octave == 0) {
          const double on_circle = std::min(ones, left);
          ones -= on_circle;
          left -= on_circle;
        }
        // Which bins the others of an octave are in is not known: each bin gives the same share.
        const double positive = total == 0 ? 0 : std::max(0.0, 1 - left / total);
        for (int bin = octave * kBinsPerOctave; bin < (octave + 1) * kBinsPerOctave; ++bin) {
          counts.positive[side][bin] += by_bin[side][bin] * positive;
        }
      }
    }
    counts.ones += ones;
    counts.zeros += static_cast<double>(bins.zero_count());
    if (site->summary().count() > 0) counts.max = std::max(counts.max, site->summary().max());
  }
  return counts;
}

Picture ToLevels(int width, int height, const std::vector<double>& density) {
  double least = std::numeric_limits<double>::infinity(), greatest = 0;
  for (const double value : density) {
    if (value <= 0) continue;
    least = std::min(least, value);
    greatest = std::max(greatest, value);
  }
  Picture picture{width, height, std::vector<uint8_t>(density.size())};
  const double span = std::log(greatest / least);
  for (size_t i = 0; i < density.size(); ++i) {
    if (density[i] <= 0) continue;
    const double position = span > 0 ? std::log(density[i] / least) / span : 1;
    picture.levels[i] = static_cast<uint8_t>(1 + std::lround(position * (Picture::kDensest - 1)));
  }
  return picture;
}

// Octaves of |log|λ|| in the plane: below 2^-6 they are too thin to be seen and go into kThinnest; from 4 on
// they are the disc in the middle or, beyond the circle, outside the picture.
constexpr int kThinnest = -kMinExponent - 7, kLast = -kMinExponent + 2;

Picture DrawDisc(const Counts& counts) {
  constexpr int kSize = 561, kMiddle = kSize / 2;
  const double reach = std::clamp(1.05 * std::exp(counts.max), 1.15, 4.0);
  const double scale = kSize / 2.0 / reach;  // pixels a unit
  // Eigenvalues a pixel, by side, octave and phase.
  std::array<std::array<std::array<double, kPhases>, kOctaves>, 2> dense{};
  for (int side = 0; side < 2; ++side) {
    for (int octave = 0; octave < kOctaves; ++octave) {
      if (side == 1 && octave >= kLast) break;
      auto& shown = dense[side][std::clamp(octave, kThinnest, kLast)];
      for (int phase = 0; phase < kPhases; ++phase) shown[phase] += counts.grid[side][octave][phase];
    }
    for (int octave = kThinnest; octave <= kLast; ++octave) {
      const double low = octave == kThinnest ? 0 : std::ldexp(1.0, kMinExponent + octave);
      const double high = side == 0 && octave == kLast ? std::numeric_limits<double>::infinity()
                                                       : std::ldexp(1.0, kMinExponent + octave + 1);
      const double area =
          std::numbers::pi / kPhases * scale * scale *
          std::abs(std::exp((side == 0 ? -2 : 2) * low) - std::exp((side == 0 ? -2 : 2) * high));
      for (double& cell : dense[side][octave]) cell /= area;
    }
  }
  double disc = 0;  // |λ| < e^-4 has no phase at this size
  for (const double cell : dense[0][kLast]) disc += cell / kPhases;
  disc += counts.zeros / (std::numbers::pi * std::exp(-8) * scale * scale);
  dense[0][kLast].fill(disc);

  std::vector<double> density(size_t{kSize} * kSize);
  std::vector<bool> on_circle(density.size());
  for (int row = 0; row < kSize; ++row) {
    for (int column = 0; column < kSize; ++column) {
      const double x = (column - kMiddle) / scale, y = (kMiddle - row) / scale;
      const double radius = std::hypot(x, y);
      const int side = radius > 1;
      const double octave =
          std::floor(std::log2(std::abs(std::log(radius)))) - kMinExponent;  // infinite at 0 and 1
      const int phase =
          static_cast<int>(std::floor((std::atan2(y, x) / std::numbers::pi + 1) * kPhases / 2)) % kPhases;
      density[row * kSize + column] =
          dense[side][static_cast<int>(std::clamp<double>(octave, kThinnest, kLast))][phase];
      on_circle[row * kSize + column] = std::abs(radius - 1) * scale < 0.5;
    }
  }
  // The bar of positive real λ: each bin over the columns that it covers.
  constexpr int kRows = 5, kFirstRow = kMiddle - kRows / 2;
  std::vector<double> bar(kSize);
  const auto column_of = [&](double x) { return x * scale + kMiddle + 0.5; };  // columns cover [c, c + 1)
  const auto spread = [&](double from, double to, double count) {
    if (count == 0 || from > reach) return;
    const double first = column_of(from), last = std::max(column_of(to), first + 1e-9);
    for (int column = static_cast<int>(first); column <= static_cast<int>(last) && column < kSize; ++column) {
      const double overlap = std::min(last, column + 1.0) - std::max(first, static_cast<double>(column));
      bar[column] += count * overlap / (last - first);
    }
  };
  for (int bin = 0; bin < kBins; ++bin) {
    spread(std::exp(-BinLow(bin + 1)), std::exp(-BinLow(bin)), counts.positive[0][bin]);
    spread(std::exp(BinLow(bin)), std::exp(BinLow(bin + 1)), counts.positive[1][bin]);
  }
  spread(1, 1, counts.ones);
  for (int column = kMiddle; column < kSize; ++column) {
    if (bar[column] == 0) continue;
    for (int row = kFirstRow; row < kFirstRow + kRows; ++row)
      density[row * kSize + column] = bar[column] / kRows;
  }

  Picture picture = ToLevels(kSize, kSize, density);
  for (int i = 0; i < kSize * kSize; ++i) {
    if (picture.levels[i] != 0) continue;
    if (on_circle[i]) {
      picture.levels[i] = Picture::kCircle;
    } else if (i / kSize == kMiddle || i % kSize == kMiddle) {
      picture.levels[i] = Picture::kAxis;
    }
  }
  return picture;
}

Picture DrawUnrolled(const Counts& counts) {
  constexpr int kCell = 8, kRow = 6, kWidth = kPhases * kCell, kRows = 1 + 2 * kOctaves, kLine = 2;
  constexpr int kHeight = kRows * kRow + kLine;
  // From the bottom: zeros; |λ| < 1, the largest |log|λ|| first; |λ| > 1, the smallest first.
  std::array<std::array<double, kPhases>, kRows> rows{};
  rows[0].fill(counts.zeros / kPhases);
  for (int octave = 0; octave < kOctaves; ++octave) {
    std::array<double, kPhases>* const at[2] = {&rows[kOctaves - octave], &rows[kOctaves + 1 + octave]};
    for (int side = 0; side < 2; ++side) {
      *at[side] = counts.grid[side][octave];
      double& real = (*at[side])[kPhases / 2];
      for (int bin = 0; bin < kBinsPerOctave; ++bin)
        real += counts.positive[side][octave * kBinsPerOctave + bin];
      if (side == 0 && octave == 0) real += counts.ones;
    }
  }
  std::vector<double> density(size_t{kWidth} * kHeight);
  for (int index = 0; index < kRows; ++index) {
    const int bottom = index * kRow + (index > kOctaves ? kLine : 0);
    for (int y = bottom; y < bottom + kRow; ++y) {
      for (int x = 0; x < kWidth; ++x) density[(kHeight - 1 - y) * kWidth + x] = rows[index][x / kCell];
    }
  }
  Picture picture = ToLevels(kWidth, kHeight, density);
  constexpr int kTop = kHeight - (1 + kOctaves) * kRow - kLine;
  std::fill_n(picture.levels.begin() + ptrdiff_t{kTop} * kWidth, kLine * kWidth, Picture::kCircle);
  for (int y = 0; y < kHeight; ++y) {
    uint8_t& level = picture.levels[y * kWidth + kWidth / 2];
    if (level == 0) level = Picture::kAxis;
  }
  return picture;
}

}  // namespace

Picture DrawPlane(const std::vector<const v1::SiteSpectrum*>& sites, PlaneView view) {
  const Counts counts = Count(sites);
  return view == PlaneView::kPlane ? DrawDisc(counts) : DrawUnrolled(counts);
}

}  // namespace eigsvc
