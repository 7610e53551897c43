// A bottleneck assignment: eigenvalues come from either solver in any order, and clusters of them make
// sorting ambiguous.
#include <algorithm>
#include <cmath>
#include <complex>
#include <limits>
#include <vector>

#include "tests/conformance/compare.h"

namespace eigsvc::testing {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Whether all rows of `ratio` [N][N] can be given columns of their own with ratios of at most `limit`.
class Matching {
 public:
  Matching(const std::vector<std::vector<double>>& ratio, double limit)
      : ratio_(ratio), limit_(limit), row_of_(ratio.size(), -1) {}

  bool IsPerfect() {
    for (size_t row = 0; row < ratio_.size(); ++row) {
      visited_.assign(ratio_.size(), false);
      if (!Place(static_cast<int>(row))) return false;
    }
    return true;
  }

 private:
  // Kuhn's augmenting path from `row`.
  bool Place(int row) {
    for (size_t column = 0; column < ratio_.size(); ++column) {
      if (visited_[column] || !(ratio_[row][column] <= limit_)) continue;
      visited_[column] = true;
      if (row_of_[column] < 0 || Place(row_of_[column])) {
        row_of_[column] = row;
        return true;
      }
    }
    return false;
  }

  const std::vector<std::vector<double>>& ratio_;
  const double limit_;
  std::vector<int> row_of_;
  std::vector<bool> visited_;
};

}  // namespace

double MatchMultisets(const at::Tensor& found, const at::Tensor& expected, const at::Tensor& tolerance) {
  const size_t size = static_cast<size_t>(expected.numel());
  const at::Tensor f = found.contiguous(), e = expected.contiguous(), t = tolerance.contiguous();
  const auto* left = static_cast<const std::complex<double>*>(f.const_data_ptr());
  const auto* right = static_cast<const std::complex<double>*>(e.const_data_ptr());
  const double* allowed = t.const_data_ptr<double>();
  std::vector<std::vector<double>> ratio(size, std::vector<double>(size));
  std::vector<double> limits, nearest_row(size, kInfinity), nearest_column(size, kInfinity);
  for (size_t i = 0; i < size; ++i) {
    for (size_t j = 0; j < size; ++j) {
      ratio[i][j] = std::abs(left[i] - right[j]) / allowed[j];
      if (std::isnan(ratio[i][j])) return kInfinity;
      limits.push_back(ratio[i][j]);
      nearest_row[i] = std::min(ratio[i][j], nearest_row[i]);
      nearest_column[j] = std::min(ratio[i][j], nearest_column[j]);
    }
  }
  // No assignment is better than everybody's nearest; nearly always one is as good.
  double least = 0;
  for (size_t i = 0; i < size; ++i) least = std::max({least, nearest_row[i], nearest_column[i]});
  if (Matching(ratio, least).IsPerfect()) return least;
  std::sort(limits.begin(), limits.end());
  return *std::partition_point(limits.begin(), limits.end(),
                               [&](double limit) { return !Matching(ratio, limit).IsPerfect(); });
}

}  // namespace eigsvc::testing
