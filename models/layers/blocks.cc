#include "models/layers/blocks.h"

#include <vector>

#include "ATen/ops/constant_pad_nd.h"

namespace eigsvc {

at::Tensor IntoBlocks(const at::Tensor& tensor, int64_t blocks, int64_t block) {
  const int64_t missing = blocks * block - tensor.size(1);
  if (missing == 0) return tensor.unflatten(1, {blocks, block});
  std::vector<int64_t> padding(2 * (tensor.dim() - 1), 0);
  padding.back() = missing;
  return at::constant_pad_nd(tensor, padding).unflatten(1, {blocks, block});
}

}  // namespace eigsvc
