// The elementwise linear recurrence: what diagonal state-space models and gated linear units run over time.
#pragma once

#include "ATen/core/Tensor.h"

namespace eigsvc {

// h_t = exp(log_decay_t)·h_{t-1} + input_t for t < T. log_decay and input [B,T,...] of one shape and float
// type; initial [B,...], undefined for zero -> every h_t, [B,T,...]. Never exponentiates a positive number
// unless log_decay holds one.
at::Tensor DiagonalScan(const at::Tensor& log_decay, const at::Tensor& input, const at::Tensor& initial);

}  // namespace eigsvc
