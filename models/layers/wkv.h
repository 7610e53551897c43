// RWKV-4's weighted averages over time (arXiv 2305.13048, equations 16 to 18), of every channel by itself, as
// a scan of weights in logarithms and of averages: nothing overflows and no two large numbers are subtracted.
#pragma once

#include "ATen/core/Tensor.h"

namespace eigsvc {

// With b_t = e^{-decay}·b_{t-1} + e^{k_t} and A_t the average of v_1..v_t with the same weights,
// y_t = (b_{t-1}·A_{t-1} + e^{bonus + k_t}·v_t) / (b_{t-1} + e^{bonus + k_t}).
struct WkvInput {
  at::Tensor k, v;          // [B,T,C]
  at::Tensor decay, bonus;  // [C], decay >= 0
  // log b and A of the step before the first, [B,1,C]; undefined where the sequence starts.
  at::Tensor log_weight, average;
};

struct WkvOutput {
  at::Tensor y;                    // [B,T,C], of v's dtype
  at::Tensor earlier;              // [B,T,C] float64: log b_{t-1}, -inf where the sequence starts
  at::Tensor log_weight, average;  // behind the last step
};

// v is float32 or float64. Log weights are float64.
WkvOutput Wkv(const WkvInput& input);

}  // namespace eigsvc
