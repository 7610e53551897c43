#include "models/layers/dplr_kernel.h"

#include <algorithm>
#include <numbers>
#include <vector>

#include "ATen/TensorOperators.h"
#include "ATen/core/IListRef.h"
#include "ATen/ops/arange.h"
#include "ATen/ops/cat.h"
#include "ATen/ops/complex.h"
#include "ATen/ops/cos.h"
#include "ATen/ops/eye.h"
#include "ATen/ops/fft_ifft.h"
#include "ATen/ops/linalg_solve.h"
#include "ATen/ops/matmul.h"
#include "ATen/ops/real.h"
#include "ATen/ops/sin.h"

namespace eigsvc {
namespace {

constexpr int64_t kElementsAtOnce = int64_t{1} << 21;

// `from` channels on. With g = (2/dt)(1-ω)/(1+ω) the generating function is 2/(1+ω)·c(g - A)^{-1}b;
// multiplied out by 1+ω nothing is divided by zero at ω = -1, and Woodbury's identity leaves sums over the
// states.
at::Tensor Part(const DplrSystem& system, int64_t length, int64_t from, int64_t count) {
  const auto part = [&](const at::Tensor& x, int64_t axis) { return x.narrow(axis, from, count); };
  const at::Tensor lambda = part(system.lambda, 0), p = part(system.p, 0), q = part(system.q, 0);
  const at::Tensor b = part(system.b, 0).unsqueeze(-1),
                   c = part(system.c, 1).movedim(0, 1);  // [H,N,1], [H,M,N]
  const int64_t outputs = c.size(1), rank = p.size(-1);

  const at::Tensor angle = at::arange(length, system.dt.options()) * (-2 * std::numbers::pi / length);
  const at::Tensor omega = at::complex(at::cos(angle), at::sin(angle));
  const at::Tensor one_plus = 1 + omega, rate = 2 / part(system.dt, 0);
  const at::Tensor denominator =
      rate.view({-1, 1, 1}) * (1 - omega) - lambda.unsqueeze(-1) * one_plus;  // [H,N,L]

  // Every product of a row (c, q) and a column (b, p), summed over the states.
  const at::Tensor rows = at::cat({c, q.transpose(-1, -2)}, 1);  // [H,M+R,N]
  const at::Tensor columns = at::cat({b, p}, -1);                // [H,N,1+R]
  const at::Tensor products = (rows.unsqueeze(2) * columns.transpose(-1, -2).unsqueeze(1)).flatten(1, 2);
  const at::Tensor sums =
      at::matmul(products, denominator.reciprocal()).unflatten(1, {outputs + rank, 1 + rank});  // [H,·,·,L]
  const auto block = [&](int64_t row, int64_t rows_count, int64_t column, int64_t columns_count) {
    return sums.narrow(1, row, rows_count).narrow(2, column, columns_count);
  };
  const at::Tensor direct = block(0, outputs, 0, 1).squeeze(2);  // [H,M,L]
  const at::Tensor to_low = block(0, outputs, 1, rank), low = block(outputs, rank, 1, rank) * one_plus,
                   from_low = block(outputs, rank, 0, 1);
  at::Tensor correction;
  if (rank == 1) {
    correction = (to_low * from_low / (1 + low)).squeeze(2);
  } else {
    const auto last = [](const at::Tensor& x) { return x.permute({0, 3, 1, 2}); };  // [H,L,·,·]
    const at::Tensor inner = at::linalg_solve(at::eye(rank, low.options()) + last(low), last(from_low));
    correction = at::matmul(last(to_low), inner).squeeze(-1).transpose(1, 2);
  }
  const at::Tensor spectrum = 2 * (direct - one_plus * correction);
  return at::real(at::fft_ifft(spectrum, length));  // [H,M,L]
}

}  // namespace

at::Tensor DplrKernel(const DplrSystem& system, int64_t length) {
  const int64_t channels = system.lambda.size(0), states = system.lambda.size(1);
  const int64_t at_once = std::clamp<int64_t>(kElementsAtOnce / (states * length), 1, channels);
  std::vector<at::Tensor> parts;
  for (int64_t from = 0; from < channels; from += at_once) {
    parts.push_back(Part(system, length, from, std::min(at_once, channels - from)));
  }
  return at::cat(parts, 0).transpose(0, 1);
}

}  // namespace eigsvc
