// xLSTM's matrix memory (arXiv 2405.04517, section 2.3) by blocks of time: a selective state-space model
// whose input gate may be any positive number, held in units e^m that follow the largest term.
#pragma once

#include "ATen/core/Tensor.h"

namespace eigsvc {

// C_t = f_t C_{t-1} + i_t v_t k_tᵀ, n_t = f_t n_{t-1} + i_t k_t and h_t = C_t q_t/η_t with the normaliser
// η_t = max(|n_t·q_t|, 1) + eps·e^{m_t}, of each head. m_t = max(log f_t + m_{t-1}, log i_t).
struct MlstmInput {
  at::Tensor q, k;                   // [B,T,H,K], q scaled
  at::Tensor v;                      // [B,T,H,V]
  at::Tensor log_input, log_forget;  // [B,T,H], log_forget <= 0
  double eps = 1e-6;
  // e^{-m}·[C;n] [B,H,V+1,K] and m [B,1,H] in float64; undefined at the start, where m is `first_unit`.
  at::Tensor memory, unit;
  double first_unit = 0;  // -infinity: none, the first input decides
  // Of the step before, a bound of ‖n‖ in the same units, [B,H]; undefined at the start.
  at::Tensor bound;
};

struct MlstmOutput {
  at::Tensor h;                    // [B,T,H,V]
  at::Tensor log_normalizer;       // [B,T,H] float64, log η_t, detached
  at::Tensor memory, unit, bound;  // behind the last step
  // [B,T,H]: how many times larger than η the terms may be that n·q sums, whose rounding errors it has.
  at::Tensor amplification;
};

// q, k and v of one dtype, float32 or float64. In units e^m nothing but e^{-m} is exponentiated that could be
// large.
MlstmOutput Mlstm(const MlstmInput& input);

}  // namespace eigsvc
