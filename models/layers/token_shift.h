// RWKV's token shift: what every step sees of the one before it.
#pragma once

#include "ATen/core/Tensor.h"

namespace eigsvc {

// x_{t-1} at step t: x [B,T,D] moved by one step behind `last` [B,1,D], which becomes x's own last step.
// Undefined where the sequence starts: zeros.
at::Tensor TokenShift(const at::Tensor& x, at::Tensor& last);

}  // namespace eigsvc
