#include "models/layers/conv1d.h"

#include "ATen/TensorOperators.h"
#include "ATen/core/IListRef.h"
#include "ATen/ops/addcmul.h"
#include "ATen/ops/cat.h"
#include "ATen/ops/empty.h"
#include "ATen/ops/mul.h"
#include "ATen/ops/silu.h"
#include "ATen/ops/zeros.h"
#include "c10/core/DeviceGuard.h"
#include "models/kernels/short_convolution.h"
#include "models/transition/kernel_call.h"

namespace eigsvc {
namespace {

#ifdef EIGSVC_CUDA_KERNELS
CausalConv1dOutput ByKernel(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                            const at::Tensor& tail, bool silu) {
  const auto floats = [](const at::Tensor& t) {
    return t.defined() ? t.to(at::kFloat).contiguous() : at::Tensor();
  };
  const at::Tensor taps = floats(weight.squeeze(1)), shift = floats(bias), before = floats(tail);
  const at::Tensor output = at::empty(x.sizes(), x.options());
  const int64_t kept = weight.size(2) - 1;
  ShortConvolutionProblem problem;
  problem.element = *ElementOf(x.scalar_type());
  problem.x = x.const_data_ptr();
  problem.rows = x.size(0);
  problem.steps = x.size(1);
  problem.channels = x.size(2);
  problem.row_stride = x.stride(0);
  problem.step_stride = x.stride(1);
  problem.taps = static_cast<int>(weight.size(2));
  problem.weight = taps.const_data_ptr<float>();
  if (shift.defined()) problem.bias = shift.const_data_ptr<float>();
  if (before.defined()) problem.before = before.const_data_ptr<float>();
  problem.silu = silu;
  problem.y = output.mutable_data_ptr();
  const c10::DeviceGuard guard(x.device());
  ThrowUnlessOk(ConvolveOnCuda(problem, KernelStream(x.device())));
  // A copy: x may be a part of something large.
  return {output, x.narrow(1, x.size(1) - kept, kept).clone()};
}
#endif

}  // namespace

bool ConvolvesInOnePass(const at::Tensor& x, int64_t taps) {
  return LayerKernelsTake(x) && taps <= ShortConvolutionProblem::kMostTaps && x.size(1) >= taps &&
         x.stride(2) == 1 && x.size(0) <= ShortConvolutionProblem::kMostRows &&
         x.size(1) <= ShortConvolutionProblem::kMostSteps;
}

CausalConv1dOutput CausalConv1d(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                                const at::Tensor& tail, bool silu) {
#ifdef EIGSVC_CUDA_KERNELS
  if (ConvolvesInOnePass(x, weight.size(2))) return ByKernel(x, weight, bias, tail, silu);
#endif
  const int64_t batch = x.size(0), steps = x.size(1), channels = x.size(2), taps = weight.size(2);
  const at::Tensor before = tail.defined() ? tail : at::zeros({batch, taps - 1, channels}, x.options());
  const at::Tensor padded = at::cat({before, x}, 1);
  // K shifted multiply-adds beat at::conv1d here: time stays the slow axis, so nothing is transposed.
  at::Tensor output;
  for (int64_t k = 0; k < taps; ++k) {
    const at::Tensor shifted = padded.narrow(1, k, steps), tap = weight.select(2, k).select(1, 0);
    if (output.defined()) {
      output.addcmul_(shifted, tap);
    } else {
      output = bias.defined() ? at::addcmul(bias, shifted, tap) : shifted * tap;
    }
  }
  return {silu ? at::silu(output) : output, padded.narrow(1, steps, taps - 1)};
}

}  // namespace eigsvc
