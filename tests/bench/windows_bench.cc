// Eigenvalues of products of W matrices: periodic QR, against the product itself in float64, rescaled at each
// step, and LAPACK's eigenvalues of it.
#include <algorithm>
#include <cstdint>
#include <string>
#include <tuple>
#include <vector>

#include "ATen/Parallel.h"
#include "ATen/TensorOperators.h"
#include "ATen/core/Tensor.h"
#include "ATen/ops/empty.h"
#include "ATen/ops/empty_like.h"
#include "ATen/ops/from_blob.h"
#include "ATen/ops/linalg_eigvals.h"
#include "ATen/ops/matmul.h"
#include "ATen/ops/zeros.h"
#include "absl/strings/str_cat.h"
#include "models/kernels/periodic_eigenvalues.h"
#include "tests/bench/race.h"
#include "tests/kernels/window_factors.h"

namespace eigsvc::bench {
namespace {

struct Buffers {
  at::Tensor matrices, log_magnitude, phase, outcomes;
  PeriodicProblem Problem() const {
    const int64_t length = matrices.size(1);
    return {matrices.const_data_ptr<double>(),
            matrices.size(0),
            length,
            1,
            static_cast<int>(matrices.size(2)),
            {length, length},
            log_magnitude.mutable_data_ptr<double>(),
            phase.mutable_data_ptr<double>(),
            reinterpret_cast<EigenOutcome*>(outcomes.mutable_data_ptr<int32_t>())};
  }
};

// Of [windows,W,order,order], a row a window.
Buffers MakeBuffers(const at::Tensor& matrices) {
  const at::Tensor values = at::empty({matrices.size(0), matrices.size(2)}, matrices.options());
  return {matrices, values, at::empty_like(values),
          at::empty({matrices.size(0)}, matrices.options().dtype(at::kInt))};
}

at::Tensor MakeMatrices(const char* kind, int order, int64_t length, int64_t count) {
  std::vector<double> factors = testing::WindowFactors(kind, order, length * count, order + length);
  return at::from_blob(factors.data(), {count, length, order, order}, at::kDouble).clone();
}

void SolveOnHost(const Buffers& buffers) {
  InParallel(buffers.matrices.size(0), 1, [&](int64_t begin, int64_t end) {
    Check(PeriodicEigenvaluesOnCpu(buffers.Problem(), begin, end - begin));
  });
}

// ln|λ| of the products [windows,order].
void SolveFormed(const at::Tensor& matrices, const at::Tensor& log_magnitude) {
  InParallel(matrices.size(0), 1, [&](int64_t begin, int64_t end) {
    const at::Tensor own = matrices.narrow(0, begin, end - begin);
    at::Tensor product = own.select(1, 0), scale = at::zeros({end - begin, 1}, at::kDouble);
    for (int64_t k = 1; k < matrices.size(1); ++k) {
      product = at::matmul(own.select(1, k), product);
      const at::Tensor size = product.abs().amax({-2, -1}, /*keepdim=*/true);
      product = product / size;
      scale = scale + size.squeeze(-1).log();
    }
    log_magnitude.narrow(0, begin, end - begin).copy_(at::linalg_eigvals(product).abs().log() + scale);
  });
}

// Of each window's eigenvalues, sorted by size: how many of `found` are within 10 % of `expected`.
double ShareWithinTenPercent(const at::Tensor& found, const at::Tensor& expected) {
  const auto sorted = [](const at::Tensor& x) { return std::get<0>(x.sort(-1)); };
  return ((sorted(found) - sorted(expected)).expm1().abs() < 0.1).to(at::kDouble).mean().item<double>();
}

void Register(const char* kind, int order, int64_t length) {
  const std::string row = absl::StrCat("windows ", kind, "/", order, ", ", length, "/");
  const int64_t count = 2 * at::get_num_threads();
  Race(row + "ours_host", [=] {
    const Buffers buffers = MakeBuffers(MakeMatrices(kind, order, length, count));
    return Work{static_cast<double>(count), [=] { SolveOnHost(buffers); }};
  });
  Race(row + "product_and_LAPACK", [=] {
    const Buffers buffers = MakeBuffers(MakeMatrices(kind, order, length, count));
    const at::Tensor formed = at::empty_like(buffers.log_magnitude);
    // Beside periodic QR, which golden/windows.json holds to many digits.
    const auto report = [=](benchmark::State& state) {
      SolveOnHost(buffers);
      state.counters["within_10_percent"] = ShareWithinTenPercent(formed, buffers.log_magnitude);
    };
    return Work{static_cast<double>(count), [=] { SolveFormed(buffers.matrices, formed); }, report};
  });
#ifdef EIGSVC_CUDA_KERNELS
  if (!HasCuda()) return;
  Race(row + "ours_device", [=] {
    constexpr int64_t kMany = 8192, kElements = int64_t{1} << 30;
    const Buffers buffers = MakeBuffers(MakeMatrices(kind, order, length, count)
                                            .repeat({kMany / count + 1, 1, 1, 1})
                                            .narrow(0, 0, kMany)
                                            .to(c10::Device(c10::kCUDA, 0)));
    const int64_t each = PeriodicWorkspace(buffers.Problem()), slots = std::min(kMany, kElements / each);
    const at::Tensor work = at::empty({slots * each}, buffers.matrices.options());
    return Work{static_cast<double>(kMany), [=] {
                  Check(PeriodicEigenvaluesOnCuda(buffers.Problem(), work.mutable_data_ptr<double>(), slots,
                                                  CurrentStream()));
                }};
  });
#endif
}

}  // namespace

void RegisterWindows() {
  for (const char* const kind : {"iid", "gated"}) {
    for (const int order : {8, 16, 32}) {
      for (const int64_t length : {16, 64, 256}) Register(kind, order, length);
    }
  }
}

}  // namespace eigsvc::bench
