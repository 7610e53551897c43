#include "models/mixers/module.h"

#include "absl/strings/str_cat.h"
#include "models/layers/dropout.h"
#include "models/layers/mlp.h"

namespace eigsvc {

at::Tensor Module::Linear(const LayerCall& call, absl::string_view rest, const at::Tensor& x) const {
  return eigsvc::Linear(x, Weight(call, absl::StrCat(rest, ".weight")),
                        WeightOrNone(call, absl::StrCat(rest, ".bias")));
}

at::Tensor Module::Dropped(const LayerCall& call, const at::Tensor& x, double probability, bool tied) const {
  if (call.context.training == nullptr || probability == 0) return x;
  return Dropout(x, probability, tied, call.context.training->generator);
}

}  // namespace eigsvc
