// LibTorch's private attention operators, behind one call. The only file that includes them; nothing but
// attention_lse.cc and its self-test uses this.
#pragma once

#include <cstdint>

#include "ATen/core/Tensor.h"
#include "absl/types/span.h"
#include "models/tensor/attention_lse.h"

namespace eigsvc {

enum class Fused { kCpuFlash, kCudaFlash, kCudaCudnn, kCudaEfficient };
struct FusedOperator {
  Fused kind;
  const char* name;
  c10::DeviceType device;
  int64_t max_head_size;       // 0: any
  int64_t half_head_multiple;  // head sizes are padded to a multiple of this; 0: not for 16-bit types
  int64_t full_head_multiple;  // the same for float32
  int64_t min_rows;            // of fewer queries another is faster
  bool gradients;              // its backward pass is right
  bool doubles;
  bool grouped_queries;  // takes fewer key heads than query heads

  // What it pads head sizes of `type` to; 0: it does not take the type.
  int64_t HeadMultiple(c10::ScalarType type) const;
};

absl::Span<const FusedOperator> FusedOperators();
// For the process, once one was found to be wrong.
void SwitchOff(const FusedOperator& fused, bool off);
// The first that takes these inputs and is not switched off; null for none.
const FusedOperator* ChooseOperator(const at::Tensor& q, const at::Tensor& v);

// q [B,H,T,Dqk], k [B,Hkv,S,Dqk], v [B,Hkv,S,Dv]; T = S when causal: the operators align unequal lengths
// differently. Unequal head sizes are zero-padded. The log-sum-exp carries no gradient.
AttentionOutput CallFused(const FusedOperator& fused, at::Tensor q, at::Tensor k, at::Tensor v, bool causal,
                          double scale);

}  // namespace eigsvc
