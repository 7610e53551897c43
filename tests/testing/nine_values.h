// A spectrum whose every count is known.
#pragma once

#include <cmath>
#include <limits>
#include <vector>

#include "models/spectrum/spectrum.h"

namespace eigsvc::testing {

// Nine eigenvalues with known counts: 0, 0.05, 0.3, 0.7, 0.995, 1, 2, 50, 1000 and a NaN.
inline Spectrum NineValues() {
  Spectrum spectrum;
  std::vector<double> logs;
  for (const double magnitude : {0.0, 0.05, 0.3, 0.7, 0.995, 1.0, 2.0, 50.0, 1000.0})
    logs.push_back(std::log(magnitude));
  logs.push_back(std::numeric_limits<double>::quiet_NaN());
  spectrum.Add(logs, 1e-7);
  return spectrum;
}

}  // namespace eigsvc::testing
