// Time cut into blocks of equal length, for algorithms that work on all of them at once.
#pragma once

#include <cstdint>

#include "ATen/core/Tensor.h"

namespace eigsvc {

// [B,T,...] -> [B,blocks,block,...], T padded with zeros at its end. REQUIRES blocks·block >= T.
at::Tensor IntoBlocks(const at::Tensor& tensor, int64_t blocks, int64_t block);

}  // namespace eigsvc
