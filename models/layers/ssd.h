// The state-space dual form of a selective SSM with a scalar decay per head (Mamba-2), by the block algorithm
// of arXiv 2405.21060, section 6: matrix products inside a block of time, a recurrence from block to block.
#pragma once

#include <cstdint>

#include "ATen/core/Tensor.h"

namespace eigsvc {

// h_t = exp(log_decay_t)·h_{t-1} + dt_t·x_t ⊗ b_t,  y_t = h_t c_t + D·x_t, for each head; heads of a group
// share b and c.
struct SsdInput {
  at::Tensor x;              // [B,T,H,P]
  at::Tensor dt;             // [B,T,H], Δ >= 0; undefined for one
  at::Tensor log_decay;      // [B,T,H], Δ·A <= 0
  at::Tensor b, c;           // [B,T,G,N], H a multiple of G
  at::Tensor initial_state;  // [B,H,P,N], or undefined for zero
  at::Tensor skip;           // D [H] or [H,P]: D·x is added to y; undefined for none
};

struct SsdOutput {
  at::Tensor y;            // [B,T,H,P]
  at::Tensor final_state;  // [B,H,P,N]
};

// Steps that are handled by matrix products at once; more costs arithmetic, fewer costs passes over the
// state.
inline constexpr int64_t kSsdBlock = 64;

// All inputs of one dtype, float32 or float64. On CUDA without gradients (SsdGoesByBlocks) x, b and c may be
// bfloat16 beside float32, which y is then, too; `block` and `blocks_at_once` say nothing there. Never
// exponentiates a positive number. `blocks_at_once`: the states at the starts of so many blocks come of one
// matrix product; 1: of one addition after the other; 0: as suits the device, where either arithmetic (CPU)
// or the number of launches (CUDA) is what costs.
SsdOutput Ssd(const SsdInput& input, int64_t block = kSsdBlock, int64_t blocks_at_once = 0);

}  // namespace eigsvc
