#include "models/layers/decay_blocks.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "ATen/TensorOperators.h"
#include "ATen/core/IListRef.h"
#include "ATen/ops/cat.h"
#include "ATen/ops/exp.h"
#include "ATen/ops/full.h"
#include "ATen/ops/full_like.h"
#include "ATen/ops/matmul.h"
#include "ATen/ops/zeros_like.h"
#include "models/layers/blocks.h"

namespace eigsvc {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Two halves of blocks, [...,n,m,K] -> a pair of [...,n/2,m,K].
std::pair<at::Tensor, at::Tensor> Halves(const at::Tensor& x, int64_t from_end) {
  const int64_t axis = x.dim() - from_end;
  const at::Tensor pairs = x.unflatten(axis, {x.size(axis) / 2, 2});
  return {pairs.select(axis + 1, 0), pairs.select(axis + 1, 1)};
}

// Running sums of log λ in blocks of m steps: [...,n,m,K].
struct Sums {
  at::Tensor through, before, after;
};

// The sums of blocks of twice the length.
Sums Merged(const Sums& sums) {
  const auto [through_0, through_1] = Halves(sums.through, 3);
  const auto [before_0, before_1] = Halves(sums.before, 3);
  const auto [after_0, after_1] = Halves(sums.after, 3);
  const int64_t last = through_0.size(-2) - 1;
  const at::Tensor total_0 = through_0.narrow(-2, last, 1), total_1 = through_1.narrow(-2, last, 1);
  return {at::cat({through_0, through_1 + total_0}, -2), at::cat({before_0, before_1 + total_0}, -2),
          at::cat({after_0 + total_1, after_1}, -2)};
}

// [[a, fill], [low, b]] for the halves a, b [...,n/2,m,w] of blocks and what is below them.
at::Tensor Joined(const at::Tensor& halves, const at::Tensor& low, double fill) {
  const auto [a, b] = Halves(halves, 3);
  const at::Tensor above = at::full({1}, fill, low.options()).expand(low.sizes());
  return at::cat({at::cat({a, above}, -1), at::cat({low, b}, -1)}, -2);
}

// x [...,Q,K] as blocks of m steps.
at::Tensor Blocked(const at::Tensor& x, int64_t axis, int64_t steps) {
  return x.unflatten(axis, {x.size(axis) / steps, steps});
}

// One decay for all dimensions: the plain products times a matrix of decays, whose logarithm is built of
// halves.
DecayedBlocks OneDecay(const at::Tensor& through_rows, const at::Tensor& before_rows,
                       const at::Tensor& columns, const at::Tensor& log_decay) {
  const int64_t steps = log_decay.size(-2);
  const at::Tensor leaves = log_decay.unsqueeze(-2);  // [...,Q,1,1]
  Sums sums{leaves, at::zeros_like(leaves), at::zeros_like(leaves)};
  at::Tensor through = at::zeros_like(leaves), before = at::full_like(leaves, -kInfinity);
  for (int64_t m = 1; m < steps; m *= 2) {
    const at::Tensor after_0 = Halves(sums.after, 3).first.transpose(-1, -2);  // [...,n/2,1,m]
    through = Joined(through, Halves(sums.through, 3).second + after_0, -kInfinity);
    before = Joined(before, Halves(sums.before, 3).second + after_0, -kInfinity);
    sums = Merged(sums);
  }
  const at::Tensor flat = columns.flatten(-3, -2).transpose(-1, -2);  // [...,K,Q·I]
  const auto products = [&](const at::Tensor& rows, const at::Tensor& log_decays) {
    if (!rows.defined()) return at::Tensor();
    return at::matmul(rows, flat).unflatten(-1, {steps, columns.size(-2)}) *
           at::exp(log_decays.squeeze(-3)).unsqueeze(-1);
  };
  return {products(through_rows, through), products(before_rows, before), sums.through.squeeze(-3),
          sums.before.squeeze(-3), sums.after.squeeze(-3)};
}

}  // namespace

at::Tensor IntoHeadBlocks(const at::Tensor& x, int64_t blocks, int64_t block) {
  return IntoBlocks(x, blocks, block).transpose(2, 3).contiguous();
}

int64_t BlockSteps(int64_t steps, int64_t largest) {
  int64_t block = 1;
  while (block < std::min(steps, largest)) block *= 2;
  return block;
}

DecayedBlocks DecayBlocks(const at::Tensor& through_rows, const at::Tensor& before_rows,
                          const at::Tensor& columns, const at::Tensor& log_decay) {
  if (log_decay.size(-1) == 1) return OneDecay(through_rows, before_rows, columns, log_decay);
  const int64_t steps = log_decay.size(-2);
  const at::Tensor leaves = log_decay.unsqueeze(-2);  // [...,Q,1,K]
  Sums sums{leaves, at::zeros_like(leaves), at::zeros_like(leaves)};
  at::Tensor through, before;  // [...,n,m,m·I]
  if (through_rows.defined()) {
    through = at::matmul(columns, through_rows.unsqueeze(-1)).transpose(-1, -2);
  }
  if (before_rows.defined()) before = at::zeros_like(columns.select(-1, 0)).unsqueeze(-2);
  for (int64_t m = 1; m < steps; m *= 2) {
    // What the first half leaves at the second: each side of a product decays to the border on its own.
    const at::Tensor old = Halves(Blocked(columns, columns.dim() - 3, m), 4).first;  // [...,n/2,m,I,K]
    const at::Tensor left = (old * at::exp(Halves(sums.after, 3).first).unsqueeze(-2))
                                .flatten(-3, -2)
                                .transpose(-1, -2);  // [...,n/2,K,m·I]
    const auto seen = [&](const at::Tensor& rows, const at::Tensor& sum) {
      const at::Tensor young = Halves(Blocked(rows, rows.dim() - 2, m), 3).second;
      return at::matmul(young * at::exp(Halves(sum, 3).second), left);
    };
    if (through.defined()) through = Joined(through, seen(through_rows, sums.through), 0);
    if (before.defined()) before = Joined(before, seen(before_rows, sums.before), 0);
    sums = Merged(sums);
  }
  const auto products = [&](const at::Tensor& blocks) {
    return blocks.defined() ? blocks.squeeze(-3).unflatten(-1, {steps, columns.size(-2)}) : blocks;
  };
  return {products(through), products(before), sums.through.squeeze(-3), sums.before.squeeze(-3),
          sums.after.squeeze(-3)};
}

}  // namespace eigsvc
