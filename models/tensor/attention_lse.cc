#include "models/tensor/attention_lse.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <iterator>
#include <limits>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "ATen/TensorOperators.h"
#include "ATen/core/grad_mode.h"
#include "ATen/detail/CUDAHooksInterface.h"
#include "ATen/ops/_scaled_dot_product_cudnn_attention.h"
#include "ATen/ops/_scaled_dot_product_efficient_attention.h"
#include "ATen/ops/_scaled_dot_product_flash_attention.h"
#include "ATen/ops/_scaled_dot_product_flash_attention_for_cpu.h"
#include "ATen/ops/arange.h"
#include "ATen/ops/cat.h"
#include "ATen/ops/constant_pad_nd.h"
#include "ATen/ops/logaddexp.h"
#include "ATen/ops/logsumexp.h"
#include "ATen/ops/matmul.h"
#include "ATen/ops/sin.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "models/base/status_macros.h"
#include "models/tensor/torch_call.h"

namespace eigsvc {
namespace {

// One piece of work between two looks at the stop token. 2 GFLOP take 20 ms on two laptop cores and
// microseconds on a GPU, where the launch is what counts.
constexpr double kPieceFlops = 2e9;
constexpr double kPieceFlopsCuda = 2e12;

enum class Fused { kCpuFlash, kCudaFlash, kCudaCudnn, kCudaEfficient };
struct FusedOperator {
  Fused kind;
  const char* name;
  c10::DeviceType device;
  int64_t max_head_size;       // 0: any
  int64_t half_head_multiple;  // head sizes are padded to a multiple of this; 0: not for 16-bit types
  int64_t full_head_multiple;  // the same for float32
  bool doubles;
  bool grouped_queries;  // takes fewer key heads than query heads
};
// In order of preference. Flash before cuDNN: cuDNN's log-sum-exp changed its rank between versions and its
// backward gives NaN at some lengths (pytorch#196678). Efficient attention is the only one for float32 on
// CUDA.
constexpr FusedOperator kOperators[] = {
    {Fused::kCpuFlash, "cpu flash", c10::DeviceType::CPU, 0, 0, 1, true, true},
    {Fused::kCudaFlash, "cuda flash", c10::DeviceType::CUDA, 256, 8, 0, false, true},
    {Fused::kCudaCudnn, "cuda cudnn", c10::DeviceType::CUDA, 128, 8, 0, false, true},
    {Fused::kCudaEfficient, "cuda efficient", c10::DeviceType::CUDA, 0, 8, 4, false, false},
};
std::atomic<bool> switched_off[std::size(kOperators)];

bool IsHalf(c10::ScalarType type) { return type == c10::kHalf || type == c10::kBFloat16; }

int64_t HeadMultiple(const FusedOperator& fused, c10::ScalarType type) {
  if (IsHalf(type)) return fused.half_head_multiple;
  if (type == c10::kFloat) return fused.full_head_multiple;
  return type == c10::kDouble && fused.doubles ? 1 : 0;
}

bool Takes(const FusedOperator& fused, const at::Tensor& q, const at::Tensor& v) {
  return q.device().type() == fused.device && HeadMultiple(fused, q.scalar_type()) != 0 &&
         (fused.max_head_size == 0 || std::max(q.size(-1), v.size(-1)) <= fused.max_head_size);
}

const FusedOperator* ChooseOperator(const at::Tensor& q, const at::Tensor& v) {
  for (const FusedOperator& fused : kOperators) {
    if (Takes(fused, q, v) && !switched_off[static_cast<int>(fused.kind)].load(std::memory_order_relaxed)) {
      return &fused;
    }
  }
  return nullptr;
}

at::Tensor PadHeads(const at::Tensor& x, int64_t size) {
  return x.size(-1) == size ? x : at::constant_pad_nd(x, {0, size - x.size(-1)});
}

// Each key head once a query head of its group. x [B,Hkv,S,D] -> [B,H,S,D].
at::Tensor RepeatHeads(const at::Tensor& x, int64_t heads) {
  if (x.size(1) == heads) return x;
  return x.unsqueeze(2)
      .expand({x.size(0), x.size(1), heads / x.size(1), x.size(2), x.size(3)})
      .reshape({x.size(0), heads, x.size(2), x.size(3)});
}

// Square when causal: the operators align unequal lengths differently.
AttentionOutput CallFused(const FusedOperator& fused, at::Tensor q, at::Tensor k, at::Tensor v, bool causal,
                          double scale) {
  const int64_t value_size = v.size(-1);
  const int64_t multiple = HeadMultiple(fused, q.scalar_type());
  const int64_t head_size = (std::max(q.size(-1), value_size) + multiple - 1) / multiple * multiple;
  q = PadHeads(q, head_size);
  k = PadHeads(k, head_size);
  v = PadHeads(v, head_size);
  const bool gradients =
      at::GradMode::is_enabled() && (q.requires_grad() || k.requires_grad() || v.requires_grad());
  if (!fused.grouped_queries || (gradients && q.is_cuda())) {
    k = RepeatHeads(k, q.size(1));
    v = RepeatHeads(v, q.size(1));
  }
  at::Tensor output, lse;
  switch (fused.kind) {
    case Fused::kCpuFlash:
      std::tie(output, lse) = at::_scaled_dot_product_flash_attention_for_cpu(
          q, k, v, /*dropout_p=*/0.0, causal, /*attn_mask=*/{}, scale);
      break;
    case Fused::kCudaFlash: {
      // Every argument spelt: newer versions add an overload with scales for 8-bit inputs.
      auto result =
          at::_scaled_dot_product_flash_attention(q, k, v, /*dropout_p=*/0.0, causal,
                                                  /*return_debug_mask=*/false, std::optional<double>(scale));
      output = std::get<0>(result);
      lse = std::get<1>(result);
      break;
    }
    case Fused::kCudaCudnn: {
      auto result = at::_scaled_dot_product_cudnn_attention(
          q, k, v, /*attn_bias=*/{}, /*compute_log_sumexp=*/true,
          /*dropout_p=*/0.0, causal, /*return_debug_mask=*/false, std::optional<double>(scale));
      output = std::get<0>(result);
      lse = std::get<1>(result);
      if (lse.dim() == 4) lse = lse.squeeze(-1);  // [B,H,T,1] in newer versions
      break;
    }
    case Fused::kCudaEfficient: {
      auto result = at::_scaled_dot_product_efficient_attention(
          q, k, v, /*attn_bias=*/{}, /*compute_log_sumexp=*/true,
          /*dropout_p=*/0.0, causal, std::optional<double>(scale));
      output = std::get<0>(result);
      lse = std::get<1>(result).narrow(-1, 0, q.size(2));  // padded to a multiple of 32 with garbage
      break;
    }
  }
  return {output.narrow(-1, 0, value_size), lse.detach()};
}

// The operators know no causal mask for a chunk of queries behind earlier keys; two calls and the rule
// softmax over a union = mixture of softmaxes by their log-sum-exps make it up. Not differentiable: the lse
// is not.
AttentionOutput FusedBehindPrefix(const FusedOperator& fused, const at::Tensor& q, const at::Tensor& k,
                                  const at::Tensor& v, double scale) {
  const int64_t rows = q.size(2), prefix = k.size(2) - rows;
  const AttentionOutput own =
      CallFused(fused, q, k.narrow(2, prefix, rows), v.narrow(2, prefix, rows), /*causal=*/true, scale);
  if (prefix == 0) return own;
  const AttentionOutput earlier =
      CallFused(fused, q, k.narrow(2, 0, prefix), v.narrow(2, 0, prefix), /*causal=*/false, scale);
  const at::Tensor lse = at::logaddexp(own.lse, earlier.lse);
  const at::Tensor output = own.output * (own.lse - lse).exp().unsqueeze(-1) +
                            earlier.output * (earlier.lse - lse).exp().unsqueeze(-1);
  return {output.to(q.scalar_type()), lse};
}

// The plain form of the same rows: scores in float32, or float64 for float64 inputs.
AttentionOutput PlainRows(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, double scale) {
  const c10::ScalarType type = q.scalar_type() == c10::kDouble ? c10::kDouble : c10::kFloat;
  const int64_t batch = q.size(0), heads = q.size(1), rows = q.size(2), groups = k.size(1), keys = k.size(2);
  // The query heads of a group share their keys, so they become rows of one product.
  const at::Tensor grouped = (q.to(type) * scale).reshape({batch, groups, heads / groups * rows, q.size(3)});
  at::Tensor scores =
      at::matmul(grouped, k.to(type).transpose(-1, -2)).view({batch, groups, heads / groups, rows, keys});
  const at::Tensor position = at::arange(keys - rows, keys, q.options().dtype(c10::kLong)).unsqueeze(-1);
  const at::Tensor future = at::arange(keys, q.options().dtype(c10::kLong)) > position;
  scores = scores.masked_fill(future, -std::numeric_limits<double>::infinity());
  const at::Tensor lse = at::logsumexp(scores, -1, /*keepdim=*/true);
  const at::Tensor weights = (scores - lse).exp().view({batch, groups, heads / groups * rows, keys});
  const at::Tensor output = at::matmul(weights, v.to(type)).view({batch, heads, rows, v.size(-1)});
  return {output.to(q.scalar_type()), lse.detach().view({batch, heads, rows})};
}

int64_t PerPiece(double limit, double cost_of_one, int64_t most) {
  return static_cast<int64_t>(std::clamp(limit / cost_of_one, 1.0, static_cast<double>(most)));
}

}  // namespace

absl::StatusOr<AttentionOutput> CausalAttention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                                const AttentionOptions& options) {
  const int64_t batch = q.size(0), heads = q.size(1), rows = q.size(2), groups = k.size(1), keys = k.size(2);
  if (rows == 0 || keys < rows || groups == 0 || heads % groups != 0) {
    return absl::InvalidArgumentError(absl::StrCat("attention of ", rows, " queries and ", heads,
                                                   " heads over ", keys, " keys and ", groups, " key heads"));
  }
  if (q.is_cpu() && IsHalf(q.scalar_type())) {
    // For 16-bit inputs the CPU operator takes a coarse exponential: its log-sum-exp is off by 7e-5
    // (measured, 2.13).
    EIGSVC_ASSIGN_OR_RETURN(AttentionOutput result, CausalAttention(q.to(c10::kFloat), k.to(c10::kFloat),
                                                                    v.to(c10::kFloat), options));
    result.output = result.output.to(q.scalar_type());
    return result;
  }
  const double scale = options.scale != 0 ? options.scale : 1 / std::sqrt(static_cast<double>(q.size(-1)));
  const bool gradients =
      at::GradMode::is_enabled() && (q.requires_grad() || k.requires_grad() || v.requires_grad());
  const FusedOperator* fused = options.use_fused ? ChooseOperator(q, v) : nullptr;
  const auto stopped = [&] { return options.stop != nullptr ? options.stop->Check() : absl::OkStatus(); };
  EIGSVC_RETURN_IF_ERROR(stopped());

  // Training runs whole sequences, which the operators differentiate in one call.
  if (fused != nullptr && gradients && keys == rows)
    return CallFused(*fused, q, k, v, /*causal=*/true, scale);
  if (gradients) fused = nullptr;

  // The square part costs half. A row of one key group: all query heads that share its keys.
  const double row_flops = 2.0 * static_cast<double>((q.size(-1) + v.size(-1)) * (heads / groups)) *
                           (static_cast<double>(keys) - static_cast<double>(rows) / 2);
  const double limit = q.is_cuda() ? kPieceFlopsCuda : kPieceFlops;
  const double group_flops = row_flops * static_cast<double>(rows);
  if (fused != nullptr && group_flops * static_cast<double>(batch * groups) <= limit) {
    return FusedBehindPrefix(*fused, q, k, v, scale);
  }

  // Pieces: as many sequences as fit; else key groups of one sequence; else rows of one group.
  const int64_t groups_per_piece = PerPiece(limit, group_flops, batch * groups);
  const int64_t batch_step = std::max<int64_t>(1, groups_per_piece / groups);
  const int64_t group_step = std::min(groups, groups_per_piece);
  int64_t row_step = PerPiece(limit, row_flops, rows);
  if (fused == nullptr) row_step = std::min({row_step, options.query_block, rows});

  const auto slice = [](const at::Tensor& x, int64_t b, int64_t bs, int64_t h, int64_t hs) {
    return x.narrow(0, b, std::min(bs, x.size(0) - b)).narrow(1, h, std::min(hs, x.size(1) - h));
  };
  const int64_t share = heads / groups;
  std::vector<at::Tensor> outputs, lses;
  for (int64_t b = 0; b < batch; b += batch_step) {
    std::vector<at::Tensor> group_outputs, group_lses;
    for (int64_t g = 0; g < groups; g += group_step) {
      const at::Tensor qs = slice(q, b, batch_step, g * share, group_step * share);
      const at::Tensor ks = slice(k, b, batch_step, g, group_step),
                       vs = slice(v, b, batch_step, g, group_step);
      std::vector<at::Tensor> row_outputs, row_lses;
      for (int64_t t = 0; t < rows; t += row_step) {
        EIGSVC_RETURN_IF_ERROR(stopped());
        const int64_t step = std::min(row_step, rows - t), seen = keys - rows + t + step;
        const at::Tensor qt = qs.narrow(2, t, step), kt = ks.narrow(2, 0, seen), vt = vs.narrow(2, 0, seen);
        AttentionOutput piece =
            fused != nullptr ? FusedBehindPrefix(*fused, qt, kt, vt, scale) : PlainRows(qt, kt, vt, scale);
        row_outputs.push_back(std::move(piece.output));
        row_lses.push_back(std::move(piece.lse));
      }
      group_outputs.push_back(row_outputs.size() == 1 ? row_outputs[0] : at::cat(row_outputs, 2));
      group_lses.push_back(row_lses.size() == 1 ? row_lses[0] : at::cat(row_lses, 2));
    }
    outputs.push_back(group_outputs.size() == 1 ? group_outputs[0] : at::cat(group_outputs, 1));
    lses.push_back(group_lses.size() == 1 ? group_lses[0] : at::cat(group_lses, 1));
  }
  return AttentionOutput{outputs.size() == 1 ? outputs[0] : at::cat(outputs, 0),
                         lses.size() == 1 ? lses[0] : at::cat(lses, 0)};
}

namespace {

// Empty when `fused` agrees with the plain form in float64 on the same rounded inputs; else what was wrong.
// Odd length and head sizes, grouped heads, unequal q and v, and a prefix: every trap of the operators at
// once.
std::string Disagreement(const FusedOperator& fused, c10::ScalarType type, const c10::Device& device) {
  constexpr int64_t kHeads = 4, kGroups = 2, kRows = 37, kKeys = 61, kHeadSize = 12, kValueSize = 20;
  const auto wave = [&](int64_t heads, int64_t length, int64_t size, double pace) {
    const at::Tensor index = at::arange(2 * heads * length * size, at::TensorOptions().dtype(c10::kDouble));
    return (at::sin(index * pace) * 3).view({2, heads, length, size}).to(device, type);
  };
  const at::Tensor q = wave(kHeads, kRows, kHeadSize, 0.7), k = wave(kGroups, kKeys, kHeadSize, 1.3),
                   v = wave(kGroups, kKeys, kValueSize, 0.3);
  const double scale = 0.37;
  const AttentionOutput exact = PlainRows(q.to(c10::kDouble), k.to(c10::kDouble), v.to(c10::kDouble), scale);
  const AttentionOutput found = FusedBehindPrefix(fused, q, k, v, scale);
  if (found.lse.sizes() != exact.lse.sizes()) return "a log-sum-exp of another shape";
  const double lse_error = (found.lse.to(c10::kDouble) - exact.lse).abs().max().item<double>();
  const double error = (found.output.to(c10::kDouble) - exact.output).abs().max().item<double>();
  // Scores reach 40: four units in the last place of a float32 are 1.5e-5.
  const double tolerance = type == c10::kDouble ? 1e-12 : type == c10::kFloat ? 2e-5 : 2e-4;
  // Outputs are of size 3: two roundings of the type.
  const double output_tolerance = type == c10::kBFloat16 ? 0.05 : type == c10::kHalf ? 0.01 : tolerance;
  if (lse_error <= tolerance && error <= output_tolerance) return "";
  return absl::StrCat("log-sum-exp off by ", lse_error, ", output by ", error);
}

}  // namespace

absl::StatusOr<std::string> SelfTestAttention() {
  std::vector<std::string> verdicts;
  const at::NoGradGuard no_grad;
  for (const FusedOperator& fused : kOperators) {
    if (fused.device == c10::DeviceType::CUDA &&
        (!at::detail::getCUDAHooks().hasCUDA() || at::detail::getCUDAHooks().getNumGPUs() == 0)) {
      continue;
    }
    std::string trouble;
    for (const c10::ScalarType type : {c10::kFloat, c10::kDouble, c10::kHalf, c10::kBFloat16}) {
      if (HeadMultiple(fused, type) == 0 || !trouble.empty()) continue;
      const absl::StatusOr<std::string> result = CallTorch(fused.name, [&]() -> absl::StatusOr<std::string> {
        return Disagreement(fused, type, c10::Device(fused.device));
      });
      if (!result.ok() && result.status().GetPayload(kStickyCudaErrorUrl).has_value()) return result.status();
      const std::string found = result.ok() ? *result : std::string(result.status().message());
      if (!found.empty()) trouble = absl::StrCat(c10::toString(type), ": ", found);
    }
    switched_off[static_cast<int>(fused.kind)] = !trouble.empty();
    verdicts.push_back(trouble.empty() ? absl::StrCat(fused.name, ": good")
                                       : absl::StrCat(fused.name, ": off (", trouble, ")"));
  }
  return absl::StrJoin(verdicts, "; ");
}

}  // namespace eigsvc
