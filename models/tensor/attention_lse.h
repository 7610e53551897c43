// Causal softmax attention that also returns the log-sum-exp of each row of scores, exactly those that the
// softmax saw. LibTorch's private attention operators do it where they can (SelfTestAttention measures each
// against float64 at start), and a blocked plain form covers the rest. Never an L×L matrix: memory is
// O(B·H·T·(D + block)), work O(T·W) under a window W.
#pragma once

#include <cstdint>
#include <string>

#include "ATen/core/Tensor.h"
#include "absl/status/statusor.h"
#include "models/base/stop_token.h"

namespace eigsvc {

struct AttentionOutput {
  at::Tensor output;  // [B,H,T,Dv], the inputs' dtype
  at::Tensor lse;  // [B,H,T] float32, or float64 for float64 inputs; natural logarithm; carries no gradient
};

struct AttentionOptions {
  double scale = 0;    // scores are scale·⟨q,k⟩; 0 means 1/√Dqk
  int64_t window = 0;  // position i sees the keys of i-window < j <= i; 0: all j <= i
  double cap = 0;      // scores s become cap·tanh(s/cap); 0: they stay
  // [H]: a score beside those of the keys in every row's softmax, whose value is zero (attention sinks);
  // undefined: none.
  at::Tensor sinks;
  bool use_fused = true;            // false: always the blocked plain form (tests, cross-checks)
  int64_t query_block = 512;        // most rows at a time in the blocked form
  const StopToken* stop = nullptr;  // checked between pieces of at most about 100 ms
};

// q [B,H,T,Dqk], k [B,Hkv,S,Dqk], v [B,Hkv,S,Dv]; H a multiple of Hkv (grouped queries); S >= T. Row t of q
// is position S-T+t: causal with the last query aligned to the last key, so a chunk of queries may follow a
// cache of keys, of which a window needs no more than the last window - 1. Unequal q and v head sizes are
// zero-padded for the fused operators with the scale kept. Autograd-compatible; with a window, a cap or sinks
// gradients take the plain form, which keeps every row's scores. Throws like LibTorch (callers run inside
// CallTorch); CANCELLED or DEADLINE_EXCEEDED from `stop`.
absl::StatusOr<AttentionOutput> CausalAttention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                                const AttentionOptions& options = {});

// Compares every fused operator of the device with a float64 reference on small inputs. Operators that throw
// or differ are switched off for the process. Returns one line of operators and verdicts, for the log. Called
// once by the worker.
absl::StatusOr<std::string> SelfTestAttention(c10::Device device);

}  // namespace eigsvc
