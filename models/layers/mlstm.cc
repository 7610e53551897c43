#include "models/layers/mlstm.h"

#include <cmath>
#include <tuple>

#include "ATen/TensorOperators.h"
#include "ATen/core/IListRef.h"
#include "ATen/core/grad_mode.h"
#include "ATen/ops/cat.h"
#include "ATen/ops/cummax.h"
#include "ATen/ops/cumsum.h"
#include "ATen/ops/exp.h"
#include "ATen/ops/full.h"
#include "ATen/ops/full_like.h"
#include "ATen/ops/linalg_vector_norm.h"
#include "ATen/ops/log.h"
#include "ATen/ops/logaddexp.h"
#include "ATen/ops/maximum.h"
#include "ATen/ops/ones_like.h"
#include "models/layers/diagonal_scan.h"
#include "models/layers/ssd.h"

namespace eigsvc {

MlstmOutput Mlstm(const MlstmInput& input) {
  const int64_t steps = input.v.size(1), width = input.v.size(3);
  const auto type = input.v.scalar_type();
  // m_t = Σ_{s<=t} log f_s + a_t for a_t = max(m_0, max_{s<=t}(log i_s - Σ_{r<=s} log f_r)), which only
  // rises: in units of e^m a step decays by e^{a_{t-1} - a_t} and its input is e^{log i_t - m_t}, both at
  // most 1.
  const at::Tensor passed = at::cumsum(input.log_forget, 1, at::kDouble);
  const at::Tensor entering = input.log_input.to(at::kDouble) - passed;
  at::Tensor largest = std::get<0>(at::cummax(entering, 1)), before;  // [B,T,H]; a_{-1}: [B,1,H]
  if (input.unit.defined()) {
    before = input.unit;
  } else if (std::isfinite(input.first_unit)) {
    before = at::full({1, 1, 1}, input.first_unit, largest.options()).expand_as(largest.narrow(1, 0, 1));
  } else {
    before = largest.narrow(1, 0, 1);  // there is nothing yet that could decay
  }
  largest = at::maximum(largest, before);
  const at::Tensor unit = passed + largest;
  const at::Tensor log_decay = at::cat({before, largest.narrow(1, 0, steps - 1)}, 1) - largest;
  // n is what a value that is always 1 leaves.
  const at::Tensor values = at::cat({input.v, at::ones_like(input.v.narrow(-1, 0, 1))}, -1);
  const SsdOutput output =
      Ssd({values, at::exp(entering - largest).to(type), log_decay.to(type), input.k, input.q, input.memory});
  const at::Tensor read = output.y.select(-1, width).abs().to(at::kDouble);  // |n·q|/e^m, [B,T,H]
  // e^{-m} is one in these units: float64 holds it, and beyond float32 what is divided by it is 0.
  const at::Tensor normalizer = at::maximum(read, at::exp((-unit).clamp_max(700))) + input.eps;
  at::Tensor bounds, amplification;
  {
    const at::NoGradGuard no_grad;
    const auto norm = [](const at::Tensor& x) { return at::linalg_vector_norm(x, 2, at::IntArrayRef{-1}); };
    bounds =
        DiagonalScan(log_decay.to(type), at::exp(entering - largest).to(type) * norm(input.k), input.bound);
    amplification = bounds * norm(input.q) / normalizer;
  }
  // Its logarithm without that bound.
  const at::Tensor log_eps = at::full_like(unit, std::log(input.eps));
  const at::Tensor log_normalizer =
      at::logaddexp(at::maximum(at::log(read.detach()), -unit.detach()), log_eps) + unit.detach();
  return {(output.y.narrow(-1, 0, width) / normalizer.unsqueeze(-1)).to(type),
          log_normalizer,
          output.final_state,
          unit.narrow(1, steps - 1, 1).clone(),
          bounds.select(1, steps - 1).clone(),
          amplification};
}

}  // namespace eigsvc
