#include "models/layers/diagonal_scan.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "ATen/TensorOperators.h"
#include "ATen/core/IListRef.h"
#include "ATen/core/grad_mode.h"
#include "ATen/ops/addcmul.h"
#include "ATen/ops/cumsum.h"
#include "ATen/ops/empty_like.h"
#include "ATen/ops/exp.h"
#include "ATen/ops/stack.h"
#include "ATen/ops/zeros_like.h"
#include "models/layers/blocks.h"

namespace eigsvc {
namespace {

// The recurrence along `axis`, one operation a step.
at::Tensor Walk(const at::Tensor& decay, const at::Tensor& input, at::Tensor state, int64_t axis) {
  const int64_t steps = input.size(axis);
  const bool graph = at::GradMode::is_enabled() && (decay.requires_grad() || input.requires_grad() ||
                                                    (state.defined() && state.requires_grad()));
  if (graph) {  // autograd wants every state as a tensor of its own
    // Not select(), whose gradient is of the whole sequence's size at every step.
    const std::vector<at::Tensor> decays = decay.unbind(axis), inputs = input.unbind(axis);
    std::vector<at::Tensor> states;
    states.reserve(steps);
    for (int64_t t = 0; t < steps; ++t) {
      state = state.defined() ? at::addcmul(inputs[t], decays[t], state) : inputs[t];
      states.push_back(state);
    }
    return at::stack(states, axis);
  }
  const at::Tensor states = at::empty_like(input);
  for (int64_t t = 0; t < steps; ++t) {
    at::Tensor next = states.select(axis, t);
    if (state.defined()) {
      at::addcmul_out(next, input.select(axis, t), decay.select(axis, t), state);
    } else {
      next.copy_(input.select(axis, t));
    }
    state = next;
  }
  return states;
}

// Into how many blocks time is cut so that one operation is worth its launch. Blocks cost a second pass over
// every element, so that there is one where a step is large enough by itself.
int64_t BlockCount(const at::Tensor& input) {
  const int64_t steps = input.size(1), elements = std::max<int64_t>(input.numel() / steps, 1);
  const int64_t worthwhile = input.is_cpu() ? 1 << 13 : 1 << 18;
  const auto most = static_cast<int64_t>(std::sqrt(static_cast<double>(steps)));
  return std::clamp<int64_t>(worthwhile / elements, 1, std::max<int64_t>(most, 1));
}

}  // namespace

at::Tensor DiagonalScan(const at::Tensor& log_decay, const at::Tensor& input, const at::Tensor& initial) {
  int64_t blocks = BlockCount(input);
  if (blocks == 1) return Walk(at::exp(log_decay), input, initial, 1);

  const int64_t steps = input.size(1), block = (steps + blocks - 1) / blocks;
  blocks = (steps + block - 1) / block;
  // Padding has log λ = 0 and no input, so that the state stays as it is.
  const at::Tensor decays = IntoBlocks(log_decay, blocks, block);  // [B,K,Q,...]
  const at::Tensor local = Walk(at::exp(decays), IntoBlocks(input, blocks, block), at::Tensor(), 2);
  // How much of a block's starting state is left at each of its steps.
  const at::Tensor left = at::exp(at::cumsum(decays, 2, at::kDouble)).to(input.scalar_type());
  const std::vector<at::Tensor> ends = local.select(2, block - 1).unbind(1),
                                kept = left.select(2, block - 1).unbind(1);
  at::Tensor state = initial.defined() ? initial : at::zeros_like(ends[0]);
  std::vector<at::Tensor> starts;
  starts.reserve(blocks);
  for (int64_t k = 0; k < blocks; ++k) {
    starts.push_back(state);
    state = at::addcmul(ends[k], kept[k], state);
  }
  return at::addcmul(local, left, at::stack(starts, 1).unsqueeze(2)).flatten(1, 2).narrow(1, 0, steps);
}

}  // namespace eigsvc
