#include "models/mixers/diagonal_layer.h"

#include <cmath>

#include "ATen/TensorOperators.h"
#include "ATen/core/IListRef.h"
#include "ATen/ops/cat.h"
#include "ATen/ops/complex.h"
#include "ATen/ops/imag.h"
#include "ATen/ops/linear.h"
#include "ATen/ops/promote_types.h"
#include "ATen/ops/real.h"
#include "models/base/status_macros.h"
#include "models/layers/linear_time_invariant.h"

namespace eigsvc {

absl::StatusOr<at::Tensor> DiagonalLayer::Run(const LayerCall& call, const at::Tensor& x) const {
  System system = MakeSystem(call);
  if (call.WantsConstant(mixer_)) {
    EIGSVC_RETURN_IF_ERROR(call.Report(mixer_, UnitKind::kLayer, std::move(system.transition)));
  }
  const auto type = at::promote_types(x.scalar_type(), at::kFloat);
  const at::Tensor u = x.to(type);
  const at::Tensor v = at::linear(u, at::cat({system.b_re, system.b_im}, 0).to(type));  // [B,T,2N]
  at::Tensor& state = State(call, "state");
  const at::Tensor h = ScanDiagonal(
      system.log_lambda, at::complex(v.narrow(-1, 0, order_), v.narrow(-1, order_, order_)), state);
  state = h.select(1, h.size(1) - 1);
  const at::Tensor y =
      at::linear(at::cat({at::real(h), at::imag(h)}, -1), at::cat({system.c_re, -system.c_im}, -1).to(type));
  return (y + u * system.d.to(type)).to(x.scalar_type());
}

std::vector<MixerDescription> DiagonalLayer::Mixers() const {
  return {
      {std::string(mixer_), UnitKind::kLayer, 1, order_, 1, /*constant=*/true, TransitionForm::kDiagonal}};
}

double DiagonalLayer::ExtraOperations() const {
  // Three transforms of the states, some 20 passes each.
  return 300.0 * 60 * static_cast<double>(order_) / 10;
}

}  // namespace eigsvc
