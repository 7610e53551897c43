// Causal softmax attention that also returns the log-sum-exp of each row of scores. The only file that calls
// LibTorch's private attention operators; their schemas are checked at start and a blocked fallback covers the rest.
// Never an L×L matrix: memory is O(B·H·T·(D + block)).
#pragma once

#include <cstdint>

#include "ATen/core/Tensor.h"
#include "absl/status/statusor.h"
#include "models/base/stop_token.h"

namespace eigsvc {

struct AttentionOutput {
  at::Tensor output;  // [B,H,T,Dv], the inputs' dtype
  at::Tensor lse;     // [B,H,T] float32, or float64 for float64 inputs; natural logarithm
};

struct AttentionOptions {
  double scale = 0;                  // scores are scale·⟨q,k⟩; 0 means 1/√Dqk
  bool use_fused = true;             // false: always the blocked plain form (tests, cross-checks)
  int64_t query_block = 512;         // rows at a time in the blocked form and between cancellation checks
  const StopToken* stop = nullptr;   // checked between query blocks
};

// q [B,H,T,Dqk], k [B,Hkv,S,Dqk], v [B,Hkv,S,Dv]; H a multiple of Hkv (grouped queries). Row t of q is position
// S-T+t: causal with the last query aligned to the last key, so a chunk of queries may follow a cache of keys.
// Unequal q and v head sizes are zero-padded for the fused operators with the scale kept. Autograd-compatible.
// Throws like LibTorch (callers run inside CallTorch); CANCELLED or DEADLINE_EXCEEDED from `stop`.
absl::StatusOr<AttentionOutput> CausalAttention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                                const AttentionOptions& options = {});

// Compares every fused operator this build and device has with a float64 reference on a small input; operators that
// are missing, throw or differ are switched off for the process and named in the result. Called once by the worker.
absl::StatusOr<std::string> SelfTestAttention();

}  // namespace eigsvc
