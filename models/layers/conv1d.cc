#include "models/layers/conv1d.h"

#include "ATen/TensorOperators.h"
#include "ATen/core/IListRef.h"
#include "ATen/ops/addcmul.h"
#include "ATen/ops/cat.h"
#include "ATen/ops/mul.h"
#include "ATen/ops/zeros.h"

namespace eigsvc {

CausalConv1dOutput CausalConv1d(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                                const at::Tensor& tail) {
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
  return {output, padded.narrow(1, steps, taps - 1)};
}

}  // namespace eigsvc
