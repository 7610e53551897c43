#include "models/mixers/module.h"

#include "absl/strings/str_cat.h"
#include "models/layers/mlp.h"

namespace eigsvc {

at::Tensor Module::Linear(const LayerCall& call, absl::string_view rest, const at::Tensor& x) const {
  return eigsvc::Linear(x, Weight(call, absl::StrCat(rest, ".weight")),
                        WeightOrNone(call, absl::StrCat(rest, ".bias")));
}

}  // namespace eigsvc
