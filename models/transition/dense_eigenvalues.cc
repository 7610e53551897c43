#include "models/transition/dense_eigenvalues.h"

#include <atomic>
#include <limits>
#include <vector>

#include "ATen/TensorOperators.h"
#include "ATen/ops/complex.h"
#include "ATen/ops/empty.h"
#include "ATen/ops/empty_like.h"
#include "ATen/ops/isfinite.h"
#include "ATen/ops/linalg_eigvals.h"
#include "ATen/ops/nonzero.h"
#include "c10/core/DeviceGuard.h"
#include "models/kernels/batched_eigenvalues.h"
#include "models/transition/deal_out.h"
#include "models/transition/kernel_call.h"

namespace eigsvc {
namespace {

// By LibTorch, one matrix after the other.
at::Tensor GeneralEigenvalues(const at::Tensor& matrix) {
  const at::Tensor bad = at::isfinite(matrix).logical_not().flatten(-2).any(-1);
  const at::Tensor values = at::linalg_eigvals(matrix.masked_fill(bad.unsqueeze(-1).unsqueeze(-1), 0));
  return values.masked_fill(bad.unsqueeze(-1), std::numeric_limits<double>::quiet_NaN());
}

bool HasKernel(const at::Tensor& matrix) {
  if (matrix.is_complex() || matrix.size(-1) < 1 || matrix.size(-1) > kMaxBatchedOrder) return false;
#ifdef EIGSVC_CUDA_KERNELS
  if (matrix.is_cuda()) return true;
#endif
  return matrix.is_cpu();
}

// Part of the batch, from `begin` on.
EigenProblem<double> Part(EigenProblem<double> problem, int64_t begin, int64_t count) {
  const int64_t order = problem.order;
  problem.matrices += begin * order * order;
  problem.real += begin * order;
  problem.imaginary += begin * order;
  problem.outcomes += begin;
  problem.count = count;
  return problem;
}

absl::Status SolveOnCpu(const EigenProblem<double>& problem) {
  constexpr int64_t kLaneMultiple = 64;
  std::atomic<bool> out_of_memory = false;
  DealOut(problem.count, kLaneMultiple, [&](int64_t first, int64_t length) {
    if (!EigenvaluesOnCpu(Part(problem, first, length)).ok()) out_of_memory = true;
  });
  return out_of_memory ? absl::ResourceExhaustedError("no memory for the eigenvalue solver")
                       : absl::OkStatus();
}

absl::Status Solve(const EigenProblem<double>& problem, const c10::Device& device) {
#ifdef EIGSVC_CUDA_KERNELS
  if (device.is_cuda()) {
    const c10::DeviceGuard guard(device);
    return EigenvaluesOnCuda(problem, KernelStream(device));
  }
#endif
  (void)device;
  return SolveOnCpu(problem);
}

}  // namespace

at::Tensor DenseEigenvalues(const at::Tensor& matrix, int64_t* redone, int most_sweeps) {
  const at::Tensor full = matrix.to(matrix.is_complex() ? at::kComplexDouble : at::kDouble).contiguous();
  if (!HasKernel(full) || full.numel() == 0) return GeneralEigenvalues(full);
  const int64_t order = full.size(-1), count = full.numel() / (order * order);
  const at::Tensor real = at::empty({count, order}, full.options()), imaginary = at::empty_like(real);
  const at::Tensor outcomes = at::empty({count}, full.options().dtype(at::kInt));
  const absl::Status solved =
      Solve({full.const_data_ptr<double>(), count, static_cast<int>(order), real.mutable_data_ptr<double>(),
             imaginary.mutable_data_ptr<double>(),
             reinterpret_cast<EigenOutcome*>(outcomes.mutable_data_ptr<int32_t>()), most_sweeps},
            full.device());
  if (absl::IsUnimplemented(solved)) return GeneralEigenvalues(full);  // too large for this device's kernel
  ThrowUnlessOk(solved);
  at::Tensor values = at::complex(real, imaginary);
  const at::Tensor failed =
      at::nonzero(outcomes == static_cast<int32_t>(EigenOutcome::kNotConverged)).squeeze(-1);
  if (failed.numel() > 0) {
    if (redone != nullptr) *redone += failed.numel();
    const at::Tensor again = full.view({count, order, order}).index_select(0, failed).cpu();
    values.index_copy_(0, failed, GeneralEigenvalues(again).to(values.device()));
  }
  std::vector<int64_t> shape = full.sizes().vec();
  shape.pop_back();
  return values.view(shape);
}

}  // namespace eigsvc
