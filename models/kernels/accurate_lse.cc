#include "models/kernels/accurate_lse.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "models/kernels/bound_one.h"

namespace eigsvc {
namespace {

double LogSumExp(const std::vector<double>& scores) {
  const double largest = *std::max_element(scores.begin(), scores.end());
  double sum = 0;
  for (const double score : scores) sum += std::exp(score - largest);
  return largest + std::log(sum);
}

}  // namespace

void RefineLsePlainly(const LseProblem& problem) {
  const HeadRows &q = problem.q, &k = problem.k;
  std::vector<double> scores;
  for (int64_t i = 0; i < problem.batch * q.heads; ++i) {
    if (!problem.Takes(kernels::SquaredBound(problem.squared_norms, q.heads, k.heads, i))) continue;
    const int64_t row = i / q.heads, head = i % q.heads;
    const int64_t queries = row * q.batch_stride + head * q.head_stride,
                  keys = row * k.batch_stride + head / (q.heads / k.heads) * k.head_stride;
    for (int64_t t = 0; t < q.rows; ++t) {
      float& held = problem.lse[row * problem.lse_batch_stride + head * problem.lse_head_stride +
                                t * problem.lse_row_stride];
      if (!problem.TakesRow(held)) continue;
      scores.clear();
      if (problem.sinks != nullptr) scores.push_back(problem.sinks[head]);
      const int64_t position = k.rows - q.rows + t;
      for (int64_t j = problem.window > 0 ? std::max<int64_t>(0, position - problem.window + 1) : 0;
           j <= position; ++j) {
        double sum = 0;
        for (int64_t d = 0; d < problem.size; ++d) {
          sum += kernels::ElementAt(problem.element, q.data, queries + t * q.row_stride + d) *
                 kernels::ElementAt(problem.element, k.data, keys + j * k.row_stride + d);
        }
        scores.push_back(sum * problem.scale);
      }
      const double lse = LogSumExp(scores);
      if (std::isfinite(lse)) held = static_cast<float>(lse);
    }
  }
}

}  // namespace eigsvc
