#include "models/tensor/attention_operators.h"

#include <algorithm>
#include <atomic>
#include <iterator>
#include <optional>
#include <tuple>

#include "ATen/TensorOperators.h"
#include "ATen/core/grad_mode.h"
#include "ATen/ops/_scaled_dot_product_cudnn_attention.h"
#include "ATen/ops/_scaled_dot_product_efficient_attention.h"
#include "ATen/ops/_scaled_dot_product_flash_attention.h"
#include "ATen/ops/_scaled_dot_product_flash_attention_for_cpu.h"
#include "ATen/ops/constant_pad_nd.h"

namespace eigsvc {
namespace {

// In order of preference. cuDNN is almost twice as fast as flash on an H100 at 8192 steps, but makes a plan
// for each shape, and its backward gives NaN at some lengths (pytorch#196678). Efficient attention is the
// only one for float32 on CUDA: cuDNN's gives NaN there without a word.
constexpr FusedOperator kOperators[] = {
    {Fused::kCpuFlash, "cpu flash", c10::DeviceType::CPU, 0, 0, 1, 0, true, true, true},
    {Fused::kCudaCudnn, "cuda cudnn", c10::DeviceType::CUDA, 128, 8, 0, 2048, false, false, true},
    {Fused::kCudaFlash, "cuda flash", c10::DeviceType::CUDA, 256, 8, 0, 0, true, false, true},
    {Fused::kCudaEfficient, "cuda efficient", c10::DeviceType::CUDA, 0, 8, 4, 0, true, false, false},
};
std::atomic<bool> switched_off[std::size(kOperators)];

bool Takes(const FusedOperator& fused, const at::Tensor& q, const at::Tensor& v) {
  const bool recorded = at::GradMode::is_enabled() && (q.requires_grad() || v.requires_grad());
  return q.device().type() == fused.device && q.size(2) >= fused.min_rows && (fused.gradients || !recorded) &&
         fused.HeadMultiple(q.scalar_type()) != 0 &&
         (fused.max_head_size == 0 || std::max(q.size(-1), v.size(-1)) <= fused.max_head_size);
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

}  // namespace

int64_t FusedOperator::HeadMultiple(c10::ScalarType type) const {
  if (type == c10::kHalf || type == c10::kBFloat16) return half_head_multiple;
  if (type == c10::kFloat) return full_head_multiple;
  return type == c10::kDouble && doubles ? 1 : 0;
}

absl::Span<const FusedOperator> FusedOperators() { return kOperators; }

void SwitchOff(const FusedOperator& fused, bool off) { switched_off[static_cast<int>(fused.kind)] = off; }

const FusedOperator* ChooseOperator(const at::Tensor& q, const at::Tensor& v) {
  for (const FusedOperator& fused : kOperators) {
    if (Takes(fused, q, v) && !switched_off[static_cast<int>(fused.kind)].load(std::memory_order_relaxed)) {
      return &fused;
    }
  }
  return nullptr;
}

AttentionOutput CallFused(const FusedOperator& fused, at::Tensor q, at::Tensor k, at::Tensor v, bool causal,
                          double scale) {
  const int64_t value_size = v.size(-1);
  const int64_t multiple = fused.HeadMultiple(q.scalar_type());
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

}  // namespace eigsvc
