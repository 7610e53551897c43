#include "models/tensor/attention_lse.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "ATen/TensorOperators.h"
#include "ATen/core/grad_mode.h"
#include "ATen/ops/arange.h"
#include "ATen/ops/cat.h"
#include "ATen/ops/logaddexp.h"
#include "ATen/ops/sin.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "models/base/status_macros.h"
#include "models/tensor/attention_operators.h"
#include "models/tensor/attention_rows.h"
#include "models/tensor/torch_call.h"

namespace eigsvc {
namespace {

// One piece of work between two looks at the stop token: 5 GFLOP take 50 ms on two laptop cores, 2 TFLOP 40
// ms on an H100 in float32, a tenth of that in 16 bits. Outputs of more than one piece are copied.
double PieceFlops(const at::Tensor& q) {
  if (!q.is_cuda()) return 5e9;
  return q.element_size() > 2 ? 2e12 : 2e13;
}
// Smaller windows are cheaper plainly: the operators would be called for a handful of rows at a time.
constexpr int64_t kSmallestFusedWindow = 128;

int64_t PerPiece(double limit, double cost_of_one, int64_t most) {
  return static_cast<int64_t>(std::clamp(limit / cost_of_one, 1.0, static_cast<double>(most)));
}

at::Tensor Joined(std::vector<at::Tensor>& parts, int64_t dimension) {
  return parts.size() == 1 ? std::move(parts[0]) : at::cat(parts, dimension);
}

// Outputs and log-sum-exps of pieces along one dimension.
struct Pieces {
  std::vector<at::Tensor> outputs, lses;
  void Add(AttentionOutput piece) {
    outputs.push_back(std::move(piece.output));
    lses.push_back(std::move(piece.lse));
  }
  AttentionOutput Join(int64_t dimension) { return {Joined(outputs, dimension), Joined(lses, dimension)}; }
};

// The sink takes its share of each row's softmax and gives nothing for it.
AttentionOutput WithSinks(const AttentionOutput& attended, const at::Tensor& sinks) {
  const at::Tensor sink = sinks.to(attended.lse.scalar_type()).view({1, -1, 1});
  const at::Tensor lse = at::logaddexp(attended.lse, sink);
  const at::Tensor output = attended.output * (attended.lse - lse).exp().unsqueeze(-1);
  return {output.to(attended.output.scalar_type()), lse};
}

// The rows of some key heads, in pieces that fit between two looks at the stop token. `options` with the
// scale and only with a window that hides something; `fused` null for the plain form.
absl::StatusOr<AttentionOutput> InPieces(const FusedOperator* fused, const at::Tensor& q, const at::Tensor& k,
                                         const at::Tensor& v, const AttentionOptions& options) {
  const int64_t batch = q.size(0), heads = q.size(1), rows = q.size(2), groups = k.size(1), keys = k.size(2);
  const int64_t share = heads / groups, window = options.window;
  const auto stopped = [&] { return options.stop != nullptr ? options.stop->Check() : absl::OkStatus(); };

  // A row of one key group: all query heads that share its keys. The square part costs half.
  double keys_of_row = static_cast<double>(keys) - static_cast<double>(rows) / 2;
  if (window > 0) keys_of_row = std::min(keys_of_row, static_cast<double>(window));
  const double row_flops = 2.0 * static_cast<double>((q.size(-1) + v.size(-1)) * share) * keys_of_row;
  const double limit = PieceFlops(q);
  const double group_flops = row_flops * static_cast<double>(rows);
  if (fused != nullptr && window == 0 && group_flops * static_cast<double>(batch * groups) <= limit) {
    EIGSVC_RETURN_IF_ERROR(stopped());
    return FusedRows(*fused, q, k, v, options.scale, window);
  }

  // Pieces: as many sequences as fit; else key groups of one sequence; else rows of one group.
  const int64_t groups_per_piece = PerPiece(limit, group_flops, batch * groups);
  const int64_t batch_step = std::max<int64_t>(1, groups_per_piece / groups);
  const int64_t group_step = std::min(groups, groups_per_piece);
  int64_t row_step = PerPiece(limit, row_flops, rows);
  if (fused == nullptr) row_step = std::min(row_step, options.query_block);
  // Where a window is full, more rows than it has keys would only hide what they compute.
  const int64_t full_step = fused != nullptr ? window - 1 : std::max<int64_t>(window, 64);

  const auto slice = [](const at::Tensor& x, int64_t b, int64_t bs, int64_t h, int64_t hs) {
    return x.narrow(0, b, std::min(bs, x.size(0) - b)).narrow(1, h, std::min(hs, x.size(1) - h));
  };
  Pieces of_batches;
  for (int64_t b = 0; b < batch; b += batch_step) {
    Pieces of_groups;
    for (int64_t g = 0; g < groups; g += group_step) {
      const at::Tensor qs = slice(q, b, batch_step, g * share, group_step * share);
      const at::Tensor ks = slice(k, b, batch_step, g, group_step),
                       vs = slice(v, b, batch_step, g, group_step);
      Pieces of_rows;
      for (int64_t t = 0, step = 0; t < rows; t += step) {
        EIGSVC_RETURN_IF_ERROR(stopped());
        step = std::min(row_step, rows - t);
        const int64_t position = keys - rows + t;
        int64_t oldest = 0;
        if (window > 0 && position < window) step = std::min(step, window - position);
        if (window > 0 && position >= window) {
          step = std::min(step, full_step);
          oldest = position - window + 1;
        }
        const int64_t seen = position + step - oldest;
        const at::Tensor qt = qs.narrow(2, t, step), kt = ks.narrow(2, oldest, seen),
                         vt = vs.narrow(2, oldest, seen);
        of_rows.Add(fused != nullptr ? FusedRows(*fused, qt, kt, vt, options.scale, window)
                                     : PlainRows(qt, kt, vt, options));
      }
      of_groups.Add(of_rows.Join(2));
    }
    of_batches.Add(of_groups.Join(1));
  }
  return of_batches.Join(0);
}

}  // namespace

absl::StatusOr<AttentionOutput> CausalAttention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                                const AttentionOptions& options) {
  const int64_t heads = q.size(1), rows = q.size(2), groups = k.size(1), keys = k.size(2);
  if (rows == 0 || keys < rows || groups == 0 || heads % groups != 0) {
    return absl::InvalidArgumentError(absl::StrCat("attention of ", rows, " queries and ", heads,
                                                   " heads over ", keys, " keys and ", groups, " key heads"));
  }
  if (options.sinks.defined() && options.sinks.numel() != heads) {
    return absl::InvalidArgumentError(
        absl::StrCat("attention of ", heads, " heads with ", options.sinks.numel(), " sinks"));
  }
  if (q.is_cpu() && (q.scalar_type() == c10::kHalf || q.scalar_type() == c10::kBFloat16)) {
    // For 16-bit inputs the CPU operator takes a coarse exponential: its log-sum-exp is off by 7e-5
    // (measured, 2.13).
    EIGSVC_ASSIGN_OR_RETURN(AttentionOutput result, CausalAttention(q.to(c10::kFloat), k.to(c10::kFloat),
                                                                    v.to(c10::kFloat), options));
    result.output = result.output.to(q.scalar_type());
    return result;
  }
  AttentionOptions exact = options;
  if (exact.scale == 0) exact.scale = 1 / std::sqrt(static_cast<double>(q.size(-1)));
  if (exact.window >= keys) exact.window = 0;
  const bool gradients =
      at::GradMode::is_enabled() && (q.requires_grad() || k.requires_grad() || v.requires_grad() ||
                                     (exact.sinks.defined() && exact.sinks.requires_grad()));
  const FusedOperator* fused = exact.use_fused && exact.cap == 0 ? ChooseOperator(q, v) : nullptr;
  if (exact.window > 0 && exact.window < kSmallestFusedWindow) fused = nullptr;
  if (gradients) {
    // Training runs whole sequences, which the operators differentiate in one call.
    if (fused != nullptr && keys == rows && exact.window == 0 && !exact.sinks.defined())
      return CallFused(*fused, q, k, v, /*causal=*/true, exact.scale);
    fused = nullptr;
  }
  EIGSVC_ASSIGN_OR_RETURN(AttentionOutput result, InPieces(fused, q, k, v, exact));
  if (exact.sinks.defined()) result = WithSinks(result, exact.sinks);
  result.lse = result.lse.detach();
  return result;
}

namespace {

// Empty when `fused` agrees with the plain form in float64 on the same rounded inputs; else what was wrong.
// Odd length and head sizes, grouped heads, unequal q and v, a prefix and a window: every trap of the
// operators at once.
std::string Disagreement(const FusedOperator& fused, c10::ScalarType type, const c10::Device& device) {
  constexpr int64_t kHeads = 4, kGroups = 2, kRows = 37, kKeys = 61, kHeadSize = 12, kValueSize = 20;
  const auto wave = [&](int64_t heads, int64_t length, int64_t size, double pace) {
    const at::Tensor index = at::arange(2 * heads * length * size, at::TensorOptions().dtype(c10::kDouble));
    return (at::sin(index * pace) * 3).view({2, heads, length, size}).to(device, type);
  };
  const at::Tensor q = wave(kHeads, kRows, kHeadSize, 0.7), k = wave(kGroups, kKeys, kHeadSize, 1.3),
                   v = wave(kGroups, kKeys, kValueSize, 0.3);
  for (const int64_t window : {int64_t{0}, kKeys - kRows + 1}) {
    // As many rows as a window takes at once.
    const int64_t rows = window > 0 ? std::min(kRows, window - 1) : kRows;
    const int64_t keys = window > 0 ? rows + window - 1 : kKeys;
    const at::Tensor qs = q.narrow(2, 0, rows), ks = k.narrow(2, 0, keys), vs = v.narrow(2, 0, keys);
    AttentionOptions options;
    options.scale = 0.37;
    options.window = window;
    const AttentionOutput exact =
        PlainRows(qs.to(c10::kDouble), ks.to(c10::kDouble), vs.to(c10::kDouble), options);
    const AttentionOutput found = FusedRows(fused, qs, ks, vs, options.scale, window);
    if (found.lse.sizes() != exact.lse.sizes()) return "a log-sum-exp of another shape";
    const double lse_error = (found.lse.to(c10::kDouble) - exact.lse).abs().max().item<double>();
    const double error = (found.output.to(c10::kDouble) - exact.output).abs().max().item<double>();
    // Scores reach 40: four units in the last place of a float32 are 1.5e-5.
    const double tolerance = type == c10::kDouble ? 1e-12 : type == c10::kFloat ? 2e-5 : 2e-4;
    // Outputs are of size 3: two roundings of the type.
    const double output_tolerance = type == c10::kBFloat16 ? 0.05 : type == c10::kHalf ? 0.01 : tolerance;
    if (!(lse_error <= tolerance && error <= output_tolerance)) {
      return absl::StrCat("log-sum-exp off by ", lse_error, ", output by ", error,
                          window > 0 ? " under a window" : "");
    }
  }
  return "";
}

}  // namespace

absl::StatusOr<std::string> SelfTestAttention(c10::Device device) {
  std::vector<std::string> verdicts;
  const at::NoGradGuard no_grad;
  for (const FusedOperator& fused : FusedOperators()) {
    if (fused.device != device.type()) continue;
    std::string trouble;
    for (const c10::ScalarType type : {c10::kFloat, c10::kDouble, c10::kHalf, c10::kBFloat16}) {
      if (fused.HeadMultiple(type) == 0 || !trouble.empty()) continue;
      const absl::StatusOr<std::string> result = CallTorch(
          fused.name, [&]() -> absl::StatusOr<std::string> { return Disagreement(fused, type, device); });
      if (!result.ok() && result.status().GetPayload(kStickyCudaErrorUrl).has_value()) return result.status();
      const std::string found = result.ok() ? *result : std::string(result.status().message());
      if (!found.empty()) trouble = absl::StrCat(c10::toString(type), ": ", found);
    }
    SwitchOff(fused, !trouble.empty());
    verdicts.push_back(trouble.empty() ? absl::StrCat(fused.name, ": good")
                                       : absl::StrCat(fused.name, ": off (", trouble, ")"));
  }
  return absl::StrJoin(verdicts, "; ");
}

}  // namespace eigsvc
