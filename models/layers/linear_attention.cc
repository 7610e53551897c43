#include "models/layers/linear_attention.h"

#include "ATen/TensorOperators.h"
#include "ATen/core/IListRef.h"
#include "ATen/ops/cumsum.h"
#include "ATen/ops/ones.h"
#include "ATen/ops/zeros.h"
#include "models/layers/ssd.h"

namespace eigsvc {

KernelAttentionOutput LinearAttention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                      const at::Tensor& initial_state) {
  // A selective SSM whose steps are 1 and whose decay is none.
  const at::IntArrayRef per_head = v.sizes().slice(0, 3);
  const SsdOutput output =
      Ssd({v, at::ones(per_head, v.options()), at::zeros(per_head, v.options()), k, q, initial_state});
  return {output.y, output.final_state};
}

KernelSums SumKernel(const at::Tensor& q, const at::Tensor& k, const at::Tensor& initial_keys) {
  at::Tensor keys = at::cumsum(k, 1, at::kDouble);
  if (initial_keys.defined()) keys = keys + initial_keys;
  return {(q.to(at::kDouble) * keys).sum(-1), keys.narrow(1, keys.size(1) - 1, 1)};
}

}  // namespace eigsvc
