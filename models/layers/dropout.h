// Dropout (Srivastava et al., 2014) with a generator of its own, so that a training step is a function of its
// seed alone.
#pragma once

#include "ATen/core/Generator.h"
#include "ATen/core/Tensor.h"

namespace eigsvc {

// x with each element zeroed with this probability and the rest divided by 1 - probability. `tied`: x is
// [B,T,D] and all steps of a row share a mask. 0 <= probability < 1.
at::Tensor Dropout(const at::Tensor& x, double probability, bool tied, const at::Generator& generator);

}  // namespace eigsvc
