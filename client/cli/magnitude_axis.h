// MagnitudeAxis: the x axis of the plots. It is logarithmic in |log|λ||, that is in the timescale of the
// memory: |λ| = 0 is at the left, slower and slower decay follows, |λ| = 1 stands near the right edge or,
// where some eigenvalues are beyond it, in the middle with growth mirrored to its right.
#pragma once

#include <string>
#include <vector>

#include "client/cli/style.h"
#include "models/spectrum/spectrum.h"

namespace eigsvc::cli {

class MagnitudeAxis {
 public:
  // Wide enough for all but 1e-4 of every spectrum; what lies beyond falls in the outermost columns.
  MagnitudeAxis(const std::vector<const Spectrum*>& spectra, int columns);

  int columns() const { return columns_; }
  // Share of the spectrum's eigenvalues in each column.
  std::vector<double> Shares(const Spectrum& spectrum) const;
  // The column that holds log|λ|.
  int ColumnOf(double log_magnitude) const;
  // Two lines without the label: |λ| at its ticks, and the half-life in steps below.
  std::string MagnitudeTicks(const Style& style) const;
  std::string HalfLifeTicks(const Style& style) const;

 private:
  // Position of |log|λ|| = `distance` on its side, in columns from the side's left end.
  double Position(double distance, bool beyond) const;
  void Spread(const std::vector<uint64_t>& bins, bool beyond, std::vector<double>* counts) const;

  int columns_;
  int below_columns_, beyond_columns_;  // [0, below) decay, column below: |λ| = 1, then growth
  double low_, high_;                   // log10 |log|λ|| at the ends of a side
};

}  // namespace eigsvc::cli
