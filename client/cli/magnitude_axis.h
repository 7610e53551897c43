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
  std::string MagnitudeTicks() const;
  std::string HalfLifeTicks(const Style& style) const;

 private:
  // Position of |log|λ|| = `distance` on its side, in columns from the side's left end.
  double Position(double distance, bool beyond) const;
  void Spread(const std::vector<uint64_t>& bins, bool beyond, std::vector<double>* counts) const;

  // One side of |λ| = 1: what it shows of log10 |log|λ||, and in how many columns.
  struct Side {
    double low = 0, high = 0;
    int columns = 0;
    bool Shows(double log10_distance) const {
      return columns > 0 && log10_distance >= low && log10_distance <= high;
    }
  };

  int columns_;
  Side below_, beyond_;  // columns [0, below_.columns) decay, the next is |λ| = 1, then growth
};

}  // namespace eigsvc::cli
