#include "models/layers/ssd.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "ATen/TensorOperators.h"
#include "ATen/core/IListRef.h"
#include "ATen/ops/addcmul.h"
#include "ATen/ops/cat.h"
#include "ATen/ops/constant_pad_nd.h"
#include "ATen/ops/cumsum.h"
#include "ATen/ops/exp.h"
#include "ATen/ops/full.h"
#include "ATen/ops/matmul.h"
#include "ATen/ops/stack.h"
#include "ATen/ops/triu.h"
#include "ATen/ops/zeros.h"
#include "models/layers/blocks.h"
#include "models/layers/ssd_by_blocks.h"

namespace eigsvc {
namespace {

// exp(Σ_{s<k<=l} log λ_k) for l >= s and 0 above the diagonal: [B,K,H,Q] running sums in float64 ->
// [B,K,H,Q,Q]. A difference of float32 running sums would lose the small ones beside a large total; float64
// ones would double the traffic of the largest tensor. So each sum is split in a float32 head and tail. The
// mask goes in before exp, which therefore never sees a positive number.
at::Tensor DecayMatrix(const at::Tensor& running, at::ScalarType type) {
  const int64_t block = running.size(-1);
  const at::Tensor head = running.to(type);
  at::Tensor exponent = head.unsqueeze(-1) - head.unsqueeze(-2);
  if (type != at::kDouble) {
    const at::Tensor tail = (running - head).detach().to(type);
    exponent.add_(tail.unsqueeze(-1)).sub_(tail.unsqueeze(-2));
  }
  const double infinity = std::numeric_limits<double>::infinity();
  return exponent.add_(at::triu(at::full({block, block}, -infinity, head.options()), 1)).exp_();
}

// The states at the starts of blocks [B,K,H,P,N], from what each block adds to the state by its own end, its
// total decay in logarithms [B,K,H] float64 and the state before; the state behind the last block is left in
// `state` [B,H,P,N].
at::Tensor Starts(const at::Tensor& added, const at::Tensor& total, int64_t blocks_at_once,
                  at::Tensor& state) {
  const int64_t blocks = added.size(1);
  std::vector<at::Tensor> starts;
  if (blocks_at_once <= 1) {
    const std::vector<at::Tensor> decays =
        at::exp(total).to(added.scalar_type()).unsqueeze(-1).unsqueeze(-1).unbind(1);
    const std::vector<at::Tensor> each = added.unbind(1);
    for (int64_t k = 0; k < blocks; ++k) {
      starts.push_back(state);
      state = at::addcmul(each[k], state, decays[k]);
    }
    return at::stack(starts, 1);
  }
  const std::vector<at::Tensor> parts = added.split(blocks_at_once, 1),
                                totals = total.split(blocks_at_once, 1);
  for (size_t i = 0; i < parts.size(); ++i) {
    const int64_t count = parts[i].size(1);
    // The state before is what a block before the first would have added.
    const at::Tensor terms = at::cat({state.unsqueeze(1), parts[i]}, 1);  // [B,1+K,H,P,N]
    const at::Tensor running =
        at::constant_pad_nd(at::cumsum(totals[i].transpose(1, 2), -1), {1, 0});  // [B,H,1+K]
    const at::Tensor summed = at::matmul(DecayMatrix(running.unsqueeze(1), added.scalar_type()).squeeze(1),
                                         terms.transpose(1, 2).flatten(3, 4))
                                  .unflatten(-1, {added.size(3), added.size(4)})
                                  .transpose(1, 2);  // [B,1+K,H,P,N]
    starts.push_back(summed.narrow(1, 0, count));
    state = summed.select(1, count);
  }
  return starts.size() == 1 ? starts[0] : at::cat(starts, 1);
}

}  // namespace

SsdOutput Ssd(const SsdInput& input, int64_t block, int64_t blocks_at_once) {
  if (SsdGoesByBlocks(input.x, input.x.size(2))) return SsdByBlocks(input);
  const int64_t batch = input.x.size(0), steps = input.x.size(1), heads = input.x.size(2),
                width = input.x.size(3);
  const int64_t groups = input.b.size(2), order = input.b.size(3), shared = heads / groups;
  const auto type = input.x.scalar_type();
  // Blocks of equal length waste the least padding.
  const int64_t blocks = (steps + block - 1) / block;
  block = (steps + blocks - 1) / blocks;

  // Padding's x = 0 and log λ = 0 leave the state as it is.
  at::Tensor x = IntoBlocks(input.x, blocks, block);  // [B,K,Q,H,P]
  if (input.dt.defined()) x = x * IntoBlocks(input.dt, blocks, block).unsqueeze(-1);
  const at::Tensor b = IntoBlocks(input.b, blocks, block).transpose(2, 3);  // [B,K,G,Q,N]
  const at::Tensor c = IntoBlocks(input.c, blocks, block).transpose(2, 3);  // [B,K,G,Q,N]
  const at::Tensor running =
      at::cumsum(IntoBlocks(input.log_decay, blocks, block).transpose(2, 3), -1, at::kDouble);  // [B,K,H,Q]
  const at::Tensor total = running.narrow(-1, block - 1, 1);

  // What the steps of a block pass to each other: (C Bᵀ ∘ decay)·x. C Bᵀ is shared by the heads of a group.
  const at::Tensor scores = at::matmul(c, b.transpose(-1, -2)).unsqueeze(3);  // [B,K,G,1,Q,Q]
  const at::Tensor mixing =
      (DecayMatrix(running, type).unflatten(2, {groups, shared}) * scores).flatten(2, 3);
  at::Tensor y = at::matmul(mixing, x.transpose(2, 3)).transpose(2, 3);  // [B,K,Q,H,P]

  // What a block adds to the state, decayed to the block's end: [B,K,G,(H/G)·P,N].
  const auto per_group = [&](const at::Tensor& t) {  // [B,K,Q,H,P] -> [B,K,G,Q,(H/G)·P]
    return t.unflatten(3, {groups, shared}).flatten(4, 5).transpose(2, 3);
  };
  const at::Tensor to_end = at::exp(total - running).to(type).transpose(2, 3).unsqueeze(-1);
  const at::Tensor added = at::matmul(per_group(x * to_end).transpose(-1, -2), b)
                               .unflatten(3, {shared, width})
                               .flatten(2, 3);  // [B,K,H,P,N]

  at::Tensor state = input.initial_state.defined()
                         ? input.initial_state
                         : at::zeros({batch, heads, width, order}, input.x.options());
  if (blocks_at_once == 0) blocks_at_once = input.x.is_cuda() ? 64 : 1;
  const at::Tensor starts = Starts(added, total.squeeze(-1), blocks_at_once, state);

  // What the state at a block's start gives to its steps: decay·(C hᵀ).
  const at::Tensor start = starts.unflatten(2, {groups, shared}).flatten(3, 4);  // [B,K,G,(H/G)·P,N]
  const at::Tensor carried = at::matmul(c, start.transpose(-1, -2))
                                 .unflatten(-1, {shared, width})
                                 .transpose(2, 3)
                                 .flatten(3, 4);  // [B,K,Q,H,P]
  const at::Tensor from_start = at::exp(running).to(type).transpose(2, 3).unsqueeze(-1);
  y = at::addcmul(y, carried, from_start).flatten(1, 2).narrow(1, 0, steps);
  if (input.skip.defined()) y = at::addcmul(y, input.x, input.skip.view({heads, -1}));
  return {y, state};
}

}  // namespace eigsvc
