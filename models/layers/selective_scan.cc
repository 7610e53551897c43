#include "models/layers/selective_scan.h"

#include "ATen/TensorOperators.h"
#include "ATen/core/IListRef.h"
#include "ATen/ops/addcmul.h"
#include "ATen/ops/empty.h"
#include "ATen/ops/matmul.h"
#include "c10/core/DeviceGuard.h"
#include "models/kernels/selective_scan.h"
#include "models/layers/diagonal_scan.h"
#include "models/transition/kernel_call.h"

namespace eigsvc {
namespace {

#ifdef EIGSVC_CUDA_KERNELS
at::Tensor ScanByKernel(const SelectiveScanInput& input, at::Tensor& state) {
  const at::Tensor a = input.a.contiguous(), d = input.d.contiguous();
  const at::Tensor initial = state.defined() ? state.contiguous() : at::Tensor();
  const at::Tensor& x = input.x;
  SelectiveScanProblem problem{x.size(0), x.size(1), x.size(2), input.a.size(1)};
  const auto read = [](const at::Tensor& t, const float*& data, int64_t& row_stride, int64_t& step_stride) {
    data = t.const_data_ptr<float>();
    row_stride = t.stride(0);
    step_stride = t.stride(1);
  };
  read(x, problem.x, problem.x_row_stride, problem.x_step_stride);
  read(input.dt, problem.dt, problem.dt_row_stride, problem.dt_step_stride);
  read(input.b, problem.b, problem.b_row_stride, problem.b_step_stride);
  read(input.c, problem.c, problem.c_row_stride, problem.c_step_stride);
  problem.a = a.const_data_ptr<float>();
  problem.d = d.const_data_ptr<float>();
  if (initial.defined()) problem.initial = initial.const_data_ptr<float>();
  const at::Tensor y = at::empty(x.sizes(), x.options());
  at::Tensor last = at::empty({problem.rows, problem.channels, problem.order}, x.options());
  const at::Tensor room = at::empty({problem.Room()}, x.options());
  problem.y = y.mutable_data_ptr<float>();
  problem.final_state = last.mutable_data_ptr<float>();
  problem.room = room.mutable_data_ptr<float>();
  const c10::DeviceGuard guard(x.device());
  ThrowUnlessOk(SelectiveScanOnCuda(problem, KernelStream(x.device())));
  state = std::move(last);
  return y;
}
#endif

}  // namespace

bool ScansInOnePass(const SelectiveScanInput& input) {
  const auto fits = [](const at::Tensor& t) { return t.scalar_type() == c10::kFloat && t.stride(-1) == 1; };
  return LayerKernelsTake(input.x) && fits(input.x) && fits(input.dt) && fits(input.b) && fits(input.c) &&
         input.a.scalar_type() == c10::kFloat && input.d.scalar_type() == c10::kFloat &&
         input.x.size(0) <= SelectiveScanProblem::kMostRows &&
         input.a.size(1) <= SelectiveScanProblem::kMostOrder;
}

at::Tensor SelectiveScan(const SelectiveScanInput& input, at::Tensor& state) {
#ifdef EIGSVC_CUDA_KERNELS
  if (ScansInOnePass(input)) return ScanByKernel(input, state);
#endif
  const at::Tensor states = DiagonalScan(input.dt.unsqueeze(-1) * input.a,
                                         (input.dt * input.x).unsqueeze(-1) * input.b.unsqueeze(2), state);
  state = states.select(1, states.size(1) - 1).clone();  // lets go of the others
  return at::addcmul(at::matmul(states, input.c.unsqueeze(-1)).squeeze(-1), input.x, input.d);
}

}  // namespace eigsvc
