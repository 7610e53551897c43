#include "models/layers/linear_time_invariant.h"

#include <algorithm>
#include <cmath>

#include "ATen/TensorOperators.h"
#include "ATen/core/IListRef.h"
#include "ATen/ops/arange.h"
#include "ATen/ops/cat.h"
#include "ATen/ops/complex.h"
#include "ATen/ops/constant_pad_nd.h"
#include "ATen/ops/exp.h"
#include "ATen/ops/fft_fft.h"
#include "ATen/ops/fft_ifft.h"
#include "ATen/ops/fft_irfft.h"
#include "ATen/ops/fft_rfft.h"
#include "ATen/ops/imag.h"
#include "ATen/ops/matmul.h"
#include "ATen/ops/real.h"

namespace eigsvc {
namespace {

// The smallest 2^a·3^b·5^c that is even and at least `size`: what FFTs are fast at.
int64_t FastLength(int64_t size) {
  int64_t best = 2;
  while (best < size) best *= 2;
  for (int64_t five = 1; five < best; five *= 5) {
    for (int64_t three = five; three < best; three *= 3) {
      int64_t length = 2 * three;
      while (length < size) length *= 2;
      best = std::min(best, length);
    }
  }
  return best;
}

// Long sequences are handled as a grid of rows of this many steps, so that powers are needed of the steps of
// a row and of the rows only.
int64_t RowSteps(int64_t steps) {
  return std::max<int64_t>(1, static_cast<int64_t>(std::ceil(std::sqrt(static_cast<double>(steps)))));
}

// Re Σ_n left[...,a,n]·right[n...,c] for complex left [...,A,N] and right [...,N,C], by one real product.
at::Tensor RealProduct(const at::Tensor& left, const at::Tensor& right) {
  return at::matmul(at::cat({at::real(left), -at::imag(left)}, -1),
                    at::cat({at::real(right), at::imag(right)}, -2));
}

}  // namespace

at::Tensor CausalFftConvolve(const at::Tensor& u, const at::Tensor& kernel, int64_t steps) {
  const int64_t length = u.size(1), used = std::min(kernel.size(-1), length);
  // What wraps around falls on the steps that are not asked for.
  const int64_t size = FastLength(std::max(length, used + steps - 1));
  const at::Tensor transformed = at::fft_rfft(u.transpose(1, 2), size);
  const at::Tensor response = at::fft_rfft(kernel.narrow(-1, 0, used), size);
  return at::fft_irfft(transformed * response, size)
      .narrow(-1, length - steps, steps)
      .transpose(1, 2)
      .contiguous();
}

at::Tensor Powers(const at::Tensor& log_lambda, int64_t first, int64_t stride, int64_t count) {
  const at::Tensor exponents =
      at::arange(count, at::TensorOptions(at::kDouble).device(log_lambda.device())) * stride + first;
  return at::exp(log_lambda.unsqueeze(-1) * exponents);
}

at::Tensor DiagonalKernel(const DiagonalSystem& system, int64_t steps) {
  const int64_t row = RowSteps(steps), rows = (steps + row - 1) / row;
  const at::Tensor starts = system.c.unsqueeze(-1) * Powers(system.log_lambda, 0, row, rows);  // [H,N,rows]
  const at::Tensor within = Powers(system.log_lambda, 0, 1, row);                              // [H,N,row]
  return RealProduct(starts.transpose(-1, -2), within).flatten(-2).narrow(-1, 0, steps);
}

at::Tensor DiagonalResponse(const DiagonalSystem& system, const at::Tensor& state, int64_t steps) {
  const int64_t row = RowSteps(steps), rows = (steps + row - 1) / row;
  const at::Tensor starts = state.unsqueeze(-1) * (system.c.unsqueeze(-1) *
                                                   Powers(system.log_lambda, 0, row, rows));  // [B,H,N,rows]
  const at::Tensor within = Powers(system.log_lambda, 1, 1, row);
  return RealProduct(starts.transpose(-1, -2), within).flatten(-2).narrow(-1, 0, steps).transpose(1, 2);
}

at::Tensor DiagonalState(const DiagonalSystem& system, const at::Tensor& u, const at::Tensor& state) {
  const int64_t steps = u.size(1), row = RowSteps(steps), rows = (steps + row - 1) / row;
  const at::Tensor padded = at::constant_pad_nd(u.to(at::kDouble).transpose(1, 2), {rows * row - steps, 0})
                                .unflatten(-1, {rows, row});                   // [B,H,rows,row]
  const at::Tensor within = Powers(system.log_lambda, 0, 1, row).flip(-1);     // [H,N,row]: λ^(row-1-j)
  const at::Tensor to_end = Powers(system.log_lambda, 0, row, rows).flip(-1);  // [H,N,rows]
  // Σ over the steps of a row, real and imaginary parts side by side; then over the rows.
  const int64_t size = within.size(1);
  const at::Tensor sums =
      at::matmul(padded, at::cat({at::real(within), at::imag(within)}, 1).transpose(-1, -2));
  const at::Tensor re = sums.narrow(-1, 0, size).transpose(-1, -2),
                   im = sums.narrow(-1, size, size).transpose(-1, -2);  // [B,H,N,rows]
  const at::Tensor a = at::real(to_end), b = at::imag(to_end);
  const at::Tensor added = at::complex((re * a - im * b).sum(-1), (re * b + im * a).sum(-1));
  return state.defined() ? added + at::exp(system.log_lambda * static_cast<double>(steps)) * state : added;
}

at::Tensor ScanDiagonal(const at::Tensor& log_lambda, const at::Tensor& v, const at::Tensor& state) {
  const int64_t steps = v.size(1), size = FastLength(2 * steps - 1);
  const at::Tensor powers = Powers(log_lambda, 0, 1, steps).to(v.scalar_type());  // [N,T]
  const at::Tensor scanned =
      at::fft_ifft(at::fft_fft(v.transpose(1, 2), size) * at::fft_fft(powers, size), size)
          .narrow(-1, 0, steps);
  if (!state.defined()) return scanned.transpose(1, 2);
  const at::Tensor carried = state.unsqueeze(-1) * Powers(log_lambda, 1, 1, steps).to(v.scalar_type());
  return (scanned + carried).transpose(1, 2);
}

}  // namespace eigsvc
