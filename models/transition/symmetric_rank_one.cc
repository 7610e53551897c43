#include "models/transition/symmetric_rank_one.h"

#include <limits>
#include <string>

#include "ATen/TensorOperators.h"
#include "ATen/ops/diag_embed.h"
#include "ATen/ops/empty.h"
#include "ATen/ops/empty_like.h"
#include "ATen/ops/isfinite.h"
#include "ATen/ops/linalg_eigvalsh.h"
#include "c10/core/DeviceGuard.h"
#include "c10/util/Exception.h"
#include "models/kernels/rank_one_eigenvalues.h"
#include "models/transition/deal_out.h"
#include "models/transition/kernel_call.h"

namespace eigsvc {
namespace {

bool HasKernel(const at::Tensor& d) {
  if (d.size(-1) < 1 || d.size(-1) > kMaxRankOneOrder || d.numel() == 0) return false;
#ifdef EIGSVC_CUDA_KERNELS
  if (d.is_cuda()) return true;
#endif
  return d.is_cpu();
}

at::Tensor ByLibTorch(const at::Tensor& d, const at::Tensor& z) {
  const at::Tensor column = z.unsqueeze(-1);
  const at::Tensor matrices = at::diag_embed(d) - column * column.transpose(-1, -2);
  const at::Tensor bad = at::isfinite(matrices).logical_not().flatten(-2).any(-1);
  const at::Tensor values = at::linalg_eigvalsh(matrices.masked_fill(bad.unsqueeze(-1).unsqueeze(-1), 0));
  return values.masked_fill(bad.unsqueeze(-1), std::numeric_limits<double>::quiet_NaN());
}

absl::Status Solve(const RankOneProblem<double>& problem, const c10::Device& device) {
#ifdef EIGSVC_CUDA_KERNELS
  if (device.is_cuda()) {
    const c10::DeviceGuard guard(device);
    return RankOneEigenvaluesOnCuda(problem, KernelStream(device));
  }
#endif
  (void)device;
  constexpr int64_t kBlock = 32;
  DealOut(problem.count, kBlock, [&](int64_t first, int64_t length) {
    RankOneProblem<double> part = problem;
    part.d += first * problem.order;
    part.z += first * problem.order;
    part.values += first * problem.order;
    part.outcomes += first;
    part.count = length;
    (void)RankOneEigenvaluesOnCpu(part);  // of an order that was looked at
  });
  return absl::OkStatus();
}

}  // namespace

at::Tensor SymmetricRankOne(const at::Tensor& d, const at::Tensor& z) {
  const at::Tensor diagonal = d.to(at::kDouble).contiguous(), column = z.to(at::kDouble).contiguous();
  if (!HasKernel(diagonal)) return ByLibTorch(diagonal, column);
  const at::Tensor values = at::empty_like(diagonal);
  const at::Tensor outcomes = at::empty({diagonal.size(0)}, diagonal.options().dtype(at::kInt));
  const absl::Status solved =
      Solve({diagonal.const_data_ptr<double>(), column.const_data_ptr<double>(), diagonal.size(0),
             static_cast<int>(diagonal.size(1)), values.mutable_data_ptr<double>(),
             reinterpret_cast<EigenOutcome*>(outcomes.mutable_data_ptr<int32_t>())},
            diagonal.device());
  TORCH_CHECK(solved.ok(), std::string(solved.message()));
  return values;
}

}  // namespace eigsvc
