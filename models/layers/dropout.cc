#include "models/layers/dropout.h"

#include "ATen/TensorOperators.h"
#include "ATen/core/IListRef.h"
#include "ATen/ops/empty.h"

namespace eigsvc {

at::Tensor Dropout(const at::Tensor& x, double probability, bool tied, const at::Generator& generator) {
  const std::vector<int64_t> shape = tied ? std::vector<int64_t>{x.size(0), 1, x.size(2)} : x.sizes().vec();
  const double kept = 1 - probability;
  return x * at::empty(shape, x.options()).bernoulli_(kept, generator).div_(kept);
}

}  // namespace eigsvc
