// What decays do inside a block of time: the part that the chunked forms of gated linear recurrences share
// (arXiv 2312.06635, section 4; arXiv 2406.06484).
#pragma once

#include <cstdint>

#include "ATen/core/Tensor.h"

namespace eigsvc {

// IntoBlocks with heads before steps: [B,T,H,...] -> [B,N,H,Q,...]. Padding has no input and log λ = 0, so
// that states stay as they are.
at::Tensor IntoHeadBlocks(const at::Tensor& x, int64_t blocks, int64_t block);

// The power of two that cuts `steps` into blocks: at most `largest`, itself one, and no more than needed.
int64_t BlockSteps(int64_t steps, int64_t largest);

// What decays do inside blocks. With g = log λ [...,Q,K] (K may be 1: one decay for all dimensions):
struct DecayedBlocks {
  // products[t,s,i] = Σ_k rows[t,k]·columns[s,i,k]·exp(Σ_r g[r,k]), [...,Q,Q,I], over s < r <= t for s <= t
  // ("through"), or over s < r < t for s < t ("before"); zero elsewhere.
  at::Tensor through_products, before_products;
  // Σ g over the steps up to t, before t, and after t: [...,Q,K].
  at::Tensor through, before, after;
};

// rows [...,Q,K], each undefined where its products are not needed; columns [...,Q,I,K]; Q a power of two.
// Blocks are built of halves, their sums added and never subtracted, and only sums of decays exponentiated:
// decays of any strength (-inf too) keep their digits and nothing overflows.
DecayedBlocks DecayBlocks(const at::Tensor& through_rows, const at::Tensor& before_rows,
                          const at::Tensor& columns, const at::Tensor& log_decay);

}  // namespace eigsvc
