// The state-space dual form through models/kernels/ssd_blocks: the same products as Ssd's, and one pass over
// memory for what is between them. Without gradients.
#pragma once

#include "models/layers/ssd.h"

namespace eigsvc {

// Whether Ssd takes this way for x [B,...] of so many heads: on CUDA, without gradients, in float32 or
// bfloat16, of no more heads than a launch has.
bool SsdGoesByBlocks(const at::Tensor& x, int64_t heads);

// Throws like LibTorch. On a CPU by the kernels' plain twins, slowly and in float32 alone, which is how tests
// see it. x, b and c may be bfloat16: products of that dtype are summed in float32, and the decays, Δ and
// the states stay float32.
SsdOutput SsdByBlocks(const SsdInput& input);

}  // namespace eigsvc
