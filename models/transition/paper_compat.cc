#include "models/transition/paper_compat.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "ATen/TensorOperators.h"
#include "ATen/core/IListRef.h"
#include "ATen/ops/amax.h"
#include "ATen/ops/arange.h"
#include "ATen/ops/cat.h"
#include "ATen/ops/diag.h"
#include "ATen/ops/exp.h"
#include "ATen/ops/eye.h"
#include "ATen/ops/linalg_eigvals.h"
#include "ATen/ops/log.h"
#include "ATen/ops/matmul.h"
#include "ATen/ops/where.h"
#include "ATen/ops/zeros_like.h"
#include "models/base/status_macros.h"

namespace eigsvc {
namespace {

constexpr double kInsteadOfZero = 2e-23;
constexpr int64_t kScoresAtOnce = int64_t{1} << 21;  // 16 MiB of float64

}  // namespace

absl::StatusOr<at::Tensor> CompatLogSoftmaxNormaliser(const at::Tensor& q, const at::Tensor& k,
                                                      int64_t length, const Departures& departures,
                                                      const StopToken* stop) {
  const int64_t steps = q.size(2), first = k.size(2) - steps;
  const double scale = departures.unscaled_scores ? 1 : 1 / std::sqrt(static_cast<double>(q.size(3)));
  const at::Tensor keys = (k.detach() * scale).transpose(-1, -2),
                   positions = at::arange(k.size(2), k.device());
  const int64_t rows = std::max<int64_t>(1, kScoresAtOnce / (q.size(0) * q.size(1) * k.size(2)));
  std::vector<at::Tensor> blocks;
  for (int64_t begin = 0; begin < steps; begin += rows) {
    if (stop != nullptr) EIGSVC_RETURN_IF_ERROR(stop->Check());
    const int64_t count = std::min(rows, steps - begin), seen = first + begin + count;
    const at::Tensor row = positions.narrow(0, first + begin, count);
    const at::Tensor scores = at::matmul(q.detach().narrow(2, begin, count), keys.narrow(-1, 0, seen))
                                  .masked_fill(positions.narrow(0, 0, seen) > row.unsqueeze(-1),
                                               -std::numeric_limits<double>::infinity());
    const at::Tensor later = departures.masked_as_zero ? length - 1 - row : at::zeros_like(row);  // [count]
    at::Tensor largest = scores.amax({-1});
    largest = at::where(later > 0, largest.clamp_min(0), largest);
    const at::Tensor sum = at::exp((scores - largest.unsqueeze(-1)).to(at::kDouble)).sum({-1});
    blocks.push_back(at::log(sum + later) + largest.to(at::kDouble));
  }
  return at::cat(blocks, -1);
}

at::Tensor CompatLogLinearNormaliser(const at::Tensor& log_eta, const Departures& departures) {
  if (!departures.clamp_zero) return log_eta;
  return log_eta.masked_fill(log_eta == -std::numeric_limits<double>::infinity(), std::log(kInsteadOfZero));
}

at::Tensor CompatLogNormNormaliser(const at::Tensor& log_eta, at::ScalarType type,
                                   const Departures& departures) {
  if (!departures.clamp_zero) return log_eta;
  const at::Tensor n = at::exp(-log_eta.to(type)).to(at::kDouble);
  return -at::log(n.masked_fill(n == 0, kInsteadOfZero));
}

at::Tensor LogOfRounded(const at::Tensor& log_magnitude, at::ScalarType type) {
  return at::log(at::exp(log_magnitude.to(type)).to(at::kDouble));
}

at::Tensor CompatS4Eigenvalues(const at::Tensor& d, const at::Tensor& p, double step) {
  const auto type = at::kComplexFloat;
  const at::Tensor lambda = d.to(type), column = p.to(type).unsqueeze(1), row = column.conj().transpose(0, 1);
  const auto twice = 2 / static_cast<float>(step);
  const at::Tensor forward =
      at::eye(d.size(0), lambda.options()) * twice + at::diag(lambda) - at::matmul(column, row);
  // (2/Δ - A)⁻¹ by the matrix inversion lemma.
  const at::Tensor inverse = at::diag(1 / (twice - lambda));
  const at::Tensor left = at::matmul(inverse, column), right = at::matmul(row, inverse);
  const at::Tensor backward = inverse - at::matmul(left * (1 / (1 + at::matmul(right, column))), right);
  return at::linalg_eigvals(at::matmul(backward, forward).to(at::kComplexDouble)).to(type);
}

}  // namespace eigsvc
