#include "models/layers/gated_linear_attention.h"

#include <utility>
#include <vector>

#include "ATen/TensorOperators.h"
#include "ATen/core/IListRef.h"
#include "ATen/ops/addcmul.h"
#include "ATen/ops/exp.h"
#include "ATen/ops/matmul.h"
#include "ATen/ops/stack.h"
#include "ATen/ops/zeros.h"
#include "models/layers/decay_blocks.h"

namespace eigsvc {

LinearAttentionOutput GatedLinearAttention(const GatedLinearAttentionInput& input, int64_t block) {
  const int64_t batch = input.q.size(0), steps = input.q.size(1), heads = input.q.size(2),
                order = input.q.size(3), width = input.v.size(3);
  block = BlockSteps(steps, block);
  const int64_t blocks = (steps + block - 1) / block;
  const at::Tensor q = IntoHeadBlocks(input.q, blocks, block), k = IntoHeadBlocks(input.k, blocks, block),
                   v = IntoHeadBlocks(input.v, blocks, block);  // [B,N,H,Q,...]
  const bool present = !input.bonus.defined();                  // o_t reads S_t, not S_{t-1}

  const DecayedBlocks decayed = DecayBlocks(present ? q : at::Tensor(), present ? at::Tensor() : q,
                                            k.unsqueeze(-2), IntoHeadBlocks(input.log_decay, blocks, block));
  const at::Tensor products = (present ? decayed.through_products : decayed.before_products).squeeze(-1);

  const std::vector<at::Tensor> added =  // each [B,H,K,V]
      at::matmul((k * at::exp(decayed.after)).transpose(-1, -2), v).unbind(1);
  const std::vector<at::Tensor> kept =  // each [B,H,K,1]
      at::exp(decayed.through.select(-2, block - 1)).unsqueeze(-1).unbind(1);
  at::Tensor state = input.initial_state.defined()
                         ? input.initial_state
                         : at::zeros({batch, heads, order, width}, input.v.options());
  std::vector<at::Tensor> starts;
  starts.reserve(blocks);
  for (int64_t n = 0; n < blocks; ++n) {
    starts.push_back(state);
    state = at::addcmul(added[n], state, kept[n]);
  }

  const at::Tensor reading = q * at::exp(present ? decayed.through : decayed.before);
  at::Tensor o = at::matmul(products, v) + at::matmul(reading, at::stack(starts, 1));
  if (!present) o = o + (q * k * input.bonus.unsqueeze(1)).sum(-1, /*keepdim=*/true) * v;
  return {o.transpose(2, 3).flatten(1, 2).narrow(1, 0, steps), std::move(state)};
}

}  // namespace eigsvc
