#include "models/transition/normaliser.h"

#include "ATen/TensorOperators.h"
#include "ATen/core/IListRef.h"
#include "ATen/ops/cat.h"
#include "ATen/ops/cumsum.h"
#include "ATen/ops/elu.h"
#include "ATen/ops/exp.h"
#include "ATen/ops/log.h"
#include "ATen/ops/log_sigmoid.h"
#include "ATen/ops/sigmoid.h"
#include "ATen/ops/softplus.h"
#include "ATen/ops/where.h"
#include "ATen/ops/zeros.h"

namespace eigsvc {

Transition NormaliserTransition(const at::Tensor& log_eta, const at::Tensor& previous, int64_t first_position,
                                int64_t multiplicity, const NoiseFloor& noise_floor) {
  // A float32 difference is that of the two numbers to within half a unit of its last place.
  const auto type = log_eta.scalar_type() == c10::kDouble ? c10::kDouble : c10::kFloat;
  const at::Tensor all = log_eta.detach().to(type).transpose(1, 2);  // [B,T,H]
  Transition transition;
  transition.kind = previous.defined()
                        ? ScalarPerUnit{all, multiplicity, previous.detach().to(type).transpose(1, 2)}
                        : ScalarPerUnit{all.narrow(1, 1, all.size(1) - 1), multiplicity, all.narrow(1, 0, 1)};
  transition.first_step = previous.defined() ? first_position : first_position + 1;
  SetNoiseFloor(noise_floor, transition);
  return transition;
}

at::Tensor LogMagnitude(const ScalarPerUnit& kind) {
  if (!kind.previous.defined()) return kind.log_magnitude;
  // [B,U,T], in which order they lie in memory where they are attention's.
  const at::Tensor own = kind.log_magnitude.transpose(1, 2), previous = kind.previous.transpose(1, 2);
  return (at::cat({previous, own}, -1).narrow(-1, 0, own.size(-1)) - own).transpose(1, 2);
}

Transition SummingTransition(int64_t units, int64_t multiplicity) {
  return {ScalarPerUnit{at::zeros({1, 1, units}, at::TensorOptions().dtype(c10::kDouble)), multiplicity},
          /*constant=*/true};
}

at::Tensor LogLinearNormaliser(const at::Tensor& q_features, const at::Tensor& k_features,
                               at::Tensor& carried) {
  at::Tensor sums = at::cumsum(k_features.detach(), -2, c10::kDouble);
  if (carried.defined()) sums = sums + carried;
  carried = sums.narrow(-2, sums.size(-2) - 1, 1);
  return at::log((q_features.detach().to(c10::kDouble) * sums).sum({-1}));
}

at::Tensor LogNormNormaliser(const at::Tensor& pre_activation, NormMap map, NormStyle style) {
  const at::Tensor a = pre_activation.detach().to(c10::kDouble);
  const bool plain = style == NormStyle::kPlain;
  switch (map) {
    case NormMap::kExp:
      return plain ? a : at::exp(a);
    case NormMap::kSoftplus:  // far below 0, softplus(a) = e^a
      return plain ? at::where(a < -700, a, at::log(at::softplus(a))) : at::softplus(a);
    case NormMap::kSigmoid:
      return plain ? at::log_sigmoid(a) : at::sigmoid(a);
    case NormMap::kElu:
      return plain ? at::log(at::elu(a)) : at::elu(a);
  }
  return a;
}

}  // namespace eigsvc
