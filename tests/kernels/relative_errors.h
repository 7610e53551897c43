// How far two sets of eigenvalues are apart that no double holds.
#pragma once

#include <algorithm>
#include <cmath>
#include <complex>
#include <limits>
#include <numbers>
#include <vector>

namespace eigsvc::testing {

// |λ/λ' - 1| of each with the nearest of the others, each used once, in terms of logarithms.
inline std::vector<double> RelativeErrors(const std::vector<std::complex<double>>& found,
                                          std::vector<std::complex<double>> expected) {
  std::vector<double> errors;
  for (const std::complex<double>& log : found) {
    const auto distance = [&](const std::complex<double>& other) {
      if (log.real() == other.real() && std::isinf(log.real())) return 0.0;
      const std::complex<double> difference(log.real() - other.real(),
                                            std::remainder(log.imag() - other.imag(), 2 * std::numbers::pi));
      const double error = std::abs(std::exp(difference) - 1.0);
      return std::isnan(error) ? std::numeric_limits<double>::infinity() : error;
    };
    const auto nearest = std::min_element(expected.begin(), expected.end(),
                                          [&](const std::complex<double>& a, const std::complex<double>& b) {
                                            return distance(a) < distance(b);
                                          });
    errors.push_back(distance(*nearest));
    expected.erase(nearest);
  }
  return errors;
}

}  // namespace eigsvc::testing
