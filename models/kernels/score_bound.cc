#include "models/kernels/score_bound.h"

#include <algorithm>

#include "models/kernels/bound_one.h"

namespace eigsvc {

void BoundPlainly(const ScoreBoundProblem& problem) {
  const int64_t width = problem.q.heads + problem.k.heads;
  for (int64_t i = 0; i < problem.columns(); ++i) {
    problem.norms[i] = 0;
    const int64_t row = i / width, column = i % width;
    const bool of_q = column < problem.q.heads;
    const HeadRows& rows = of_q ? problem.q : problem.k;
    const int64_t head = of_q ? column : column - problem.q.heads;
    for (int64_t step = 0; step < rows.rows; ++step) {
      const int64_t at = row * rows.batch_stride + head * rows.head_stride + step * rows.row_stride;
      double sum = 0;
      for (int64_t d = 0; d < problem.size; ++d) {
        const double x = kernels::ElementAt(problem.element, rows.data, at + d);
        sum += x * x;
      }
      problem.norms[i] = std::max(problem.norms[i], sum);
    }
  }
  double largest = 0;
  for (int64_t i = 0; i < problem.batch * problem.q.heads; ++i)
    largest = std::max(largest, kernels::SquaredBound(problem.norms, problem.q.heads, problem.k.heads, i));
  *problem.noise_floor = kernels::NoiseFloorOf(problem, largest);
}

}  // namespace eigsvc
