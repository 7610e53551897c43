#include "models/mixers/gated_units.h"

#include <cmath>

#include "ATen/TensorOperators.h"
#include "ATen/ops/gelu.h"
#include "ATen/ops/glu.h"
#include "ATen/ops/sigmoid.h"

namespace eigsvc {

void GatedLinearUnit::Plan(const WeightPlanner& planner) const {
  planner.Linear(Name("linear"), 2 * width_, width_, true);
}

absl::StatusOr<at::Tensor> GatedLinearUnit::Run(const LayerCall& call, const at::Tensor& x) const {
  return at::glu(Linear(call, "linear", x), -1);
}

void MixedUnit::Plan(const WeightPlanner& planner) const {
  planner.Add(Name("alpha"), {1}, DrawConstant(-std::log(1 / 0.2 - 1)));  // σ(α) = 0.2
  planner.Linear(Name("encoder"), 2 * width_, width_, true);
  planner.Linear(Name("decoder"), width_, 2 * width_, true);
}

absl::StatusOr<at::Tensor> MixedUnit::Run(const LayerCall& call, const at::Tensor& x) const {
  const at::Tensor hidden = Linear(call, "encoder", x), share = at::sigmoid(Weight(call, "alpha"));
  const at::Tensor mlp = Linear(call, "decoder", Dropped(call, at::gelu(hidden), dropout_));
  return Dropped(call, share * at::glu(hidden, -1) + (1 - share) * mlp, dropout_);
}

}  // namespace eigsvc
