#include "models/tensor/attention_rows.h"

#include <limits>

#include "ATen/TensorOperators.h"
#include "ATen/core/grad_mode.h"
#include "ATen/ops/arange.h"
#include "ATen/ops/logaddexp.h"
#include "ATen/ops/logsumexp.h"
#include "ATen/ops/matmul.h"
#include "ATen/ops/tanh.h"

namespace eigsvc {
namespace {

// Softmax over the keys of both.
AttentionOutput Mixture(const AttentionOutput& a, const AttentionOutput& b) {
  const at::Tensor lse = at::logaddexp(a.lse, b.lse);
  const at::Tensor output =
      a.output * (a.lse - lse).exp().unsqueeze(-1) + b.output * (b.lse - lse).exp().unsqueeze(-1);
  return {output.to(a.output.scalar_type()), lse};
}

// Row t sees the keys from t on: the causal square backwards.
AttentionOutput FusedAnticausal(const FusedOperator& fused, const at::Tensor& q, const at::Tensor& k,
                                const at::Tensor& v, double scale) {
  const AttentionOutput mirrored = CallFused(fused, q.flip(2), k.flip(2), v.flip(2), /*causal=*/true, scale);
  return {mirrored.output.flip(2), mirrored.lse.flip(2)};
}

}  // namespace

AttentionOutput PlainRows(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                          const AttentionOptions& options) {
  const c10::ScalarType type = q.scalar_type() == c10::kDouble ? c10::kDouble : c10::kFloat;
  const int64_t batch = q.size(0), heads = q.size(1), rows = q.size(2), groups = k.size(1), keys = k.size(2);
  const bool recorded =
      at::GradMode::is_enabled() && (q.requires_grad() || k.requires_grad() || v.requires_grad());
  // The query heads of a group share their keys, so they become rows of one product.
  const at::Tensor grouped =
      (q.to(type) * options.scale).reshape({batch, groups, heads / groups * rows, q.size(3)});
  at::Tensor scores =
      at::matmul(grouped, k.to(type).transpose(-1, -2)).view({batch, groups, heads / groups, rows, keys});
  // In place where nothing is recorded: passes over fresh memory are what this form costs.
  if (options.cap > 0) {
    scores = recorded ? at::tanh(scores / options.cap) * options.cap
                      : scores.div_(options.cap).tanh_().mul_(options.cap);
  }
  const at::Tensor position = at::arange(keys - rows, keys, q.options().dtype(c10::kLong)).unsqueeze(-1);
  const at::Tensor key = at::arange(keys, q.options().dtype(c10::kLong));
  at::Tensor hidden = key > position;
  if (options.window > 0) hidden = hidden.logical_or_(key <= position - options.window);
  constexpr double kNever = -std::numeric_limits<double>::infinity();
  scores = recorded ? scores.masked_fill(hidden, kNever) : scores.masked_fill_(hidden, kNever);
  const at::Tensor lse = at::logsumexp(scores, -1, /*keepdim=*/true);
  const at::Tensor weights = recorded ? (scores - lse).exp() : scores.sub_(lse).exp_();
  const at::Tensor output = at::matmul(weights.view({batch, groups, heads / groups * rows, keys}), v.to(type))
                                .view({batch, heads, rows, v.size(-1)});
  return {output.to(q.scalar_type()), lse.view({batch, heads, rows})};
}

AttentionOutput FusedRows(const FusedOperator& fused, const at::Tensor& q, const at::Tensor& k,
                          const at::Tensor& v, double scale, int64_t window) {
  const int64_t rows = q.size(2), keys = k.size(2), earlier = keys - rows;
  const auto attend = [&](int64_t first, int64_t count, bool causal) {
    return CallFused(fused, q, k.narrow(2, first, count), v.narrow(2, first, count), causal, scale);
  };
  AttentionOutput result = attend(earlier, rows, /*causal=*/true);
  // Of the earlier keys, one leaves the window with each row; those behind them are seen by all rows.
  const bool leaving = window > 0 && keys > window;
  const int64_t kept_from = leaving ? rows : 0;
  if (earlier > kept_from) result = Mixture(result, attend(kept_from, earlier - kept_from, /*causal=*/false));
  if (leaving) {
    result = Mixture(result, FusedAnticausal(fused, q, k.narrow(2, 0, rows), v.narrow(2, 0, rows), scale));
  }
  return result;
}

}  // namespace eigsvc
