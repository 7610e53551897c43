#include "models/layers/delta_rule.h"

#include <utility>
#include <vector>

#include "ATen/TensorOperators.h"
#include "ATen/core/IListRef.h"
#include "ATen/ops/cat.h"
#include "ATen/ops/diag_embed.h"
#include "ATen/ops/exp.h"
#include "ATen/ops/linalg_solve_triangular.h"
#include "ATen/ops/matmul.h"
#include "ATen/ops/stack.h"
#include "ATen/ops/zeros.h"
#include "models/layers/decay_blocks.h"

namespace eigsvc {

int64_t DeltaRuleBlock(int64_t order) {
  constexpr int64_t kShortest = 4, kLongest = 32;
  int64_t block = kShortest;
  while (block < kLongest && 2 * block <= order) block *= 2;
  return block;
}

// With p_t = -S_{t-1}ᵀ w_t, a block that starts at S has S_t = decay(S) + Σ_{s<=t} decay(u_s p_sᵀ + k_s
// v_sᵀ), so its p solve the unit lower triangular (I + W U) P = -(W S + W K V), where W U stands for the
// decayed products of rows w_t and columns u_s, s < t.
LinearAttentionOutput DeltaRule(const DeltaRuleInput& input, int64_t block) {
  const int64_t batch = input.q.size(0), steps = input.q.size(1), heads = input.q.size(2),
                order = input.q.size(3), width = input.v.size(3);
  block = BlockSteps(steps, block > 0 ? block : DeltaRuleBlock(order));
  const int64_t blocks = (steps + block - 1) / block;
  const auto into_blocks = [&](const at::Tensor& x) { return IntoHeadBlocks(x, blocks, block); };
  const at::Tensor q = into_blocks(input.q), w = into_blocks(input.w), v = into_blocks(input.v);
  const at::Tensor columns = at::stack({into_blocks(input.u), into_blocks(input.k)}, -2);  // [B,N,H,Q,2,K]
  const DecayedBlocks decayed = DecayBlocks(q, w, columns, into_blocks(input.log_decay));
  const at::Tensor wu = decayed.before_products.select(-1, 0), wk = decayed.before_products.select(-1, 1),
                   qu = decayed.through_products.select(-1, 0), qk = decayed.through_products.select(-1, 1);

  // P = -(by_state S + by_input).
  const at::Tensor solved =
      at::linalg_solve_triangular(wu, at::cat({w * at::exp(decayed.before), at::matmul(wk, v)}, -1),
                                  /*upper=*/false, /*left=*/true, /*unitriangular=*/true);
  const at::Tensor by_state = solved.narrow(-1, 0, order), by_input = solved.narrow(-1, order, width);

  // The state after a block: map·S + added.
  const at::Tensor left = columns * at::exp(decayed.after).unsqueeze(-2);
  const at::Tensor left_u = left.select(-2, 0).transpose(-1, -2),
                   left_k = left.select(-2, 1).transpose(-1, -2);
  const at::Tensor kept =
      at::exp(decayed.through.select(-2, block - 1)).expand({batch, blocks, heads, order});
  const std::vector<at::Tensor> maps =  // each [B,H,K,K]
      (at::diag_embed(kept) - at::matmul(left_u, by_state)).unbind(1);
  const std::vector<at::Tensor> added =  // each [B,H,K,V]
      (at::matmul(left_k, v) - at::matmul(left_u, by_input)).unbind(1);
  at::Tensor state = input.initial_state.defined()
                         ? input.initial_state
                         : at::zeros({batch, heads, order, width}, input.v.options());
  std::vector<at::Tensor> starts;
  starts.reserve(blocks);
  for (int64_t n = 0; n < blocks; ++n) {
    starts.push_back(state);
    state = at::matmul(maps[n], state) + added[n];
  }

  const at::Tensor reading = q * at::exp(decayed.through) - at::matmul(qu, by_state);
  const at::Tensor o =
      at::matmul(reading, at::stack(starts, 1)) + at::matmul(qk, v) - at::matmul(qu, by_input);
  return {o.transpose(2, 3).flatten(1, 2).narrow(1, 0, steps), std::move(state)};
}

}  // namespace eigsvc
