// What is elementwise between the matrix products of the state-space dual form (models/layers/ssd.h), in one
// pass over memory each. Time is cut into blocks of `block` steps; `running` holds the sums of log λ from a
// block's first step to each of its steps. Plain pointers.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "models/kernels/element.h"

namespace eigsvc {

// Sizes shared by the passes: K blocks of Q steps, the last of which may reach beyond the T steps there are;
// H heads in G groups, head width P, state size N.
struct SsdShape {
  int64_t batch = 0, steps = 0, blocks = 0, block = 0;
  int64_t heads = 0, groups = 0, width = 0, order = 0;
  Element element = Element::kFloat32;  // of what goes into products and comes out of them
};

struct SsdBlocks {
  SsdShape shape;
  const double* running = nullptr;  // [B,K,H,Q]
  const float* dt = nullptr;        // [B,T,H], or null for ones
  int64_t dt_batch_stride = 0, dt_step_stride = 0, dt_head_stride = 0;
  // x [B,T,H,P], a head's values side by side, heads and their values dense.
  const void* x = nullptr;
  int64_t x_batch_stride = 0, x_step_stride = 0;

  // SplitInputs: x by heads, 0 beyond the last step, and x·Δ·exp(total - running), which decays to the
  // block's end, by groups. Their dtype is `element`.
  void* by_head = nullptr;   // [B,K,H,Q,P]
  void* weighted = nullptr;  // [B,K,G,Q,(H/G)·P]

  // MixSteps: exp(running_l - running_s)·Δ_s·(C_l·B_s) for s <= l, 0 for others.
  const float* scores = nullptr;  // [B,K,G,Q,Q]: C Bᵀ
  void* mixing = nullptr;         // [B,K,H,Q,Q]

  // PassStates: the states at the starts of blocks from what each block adds, and the one behind the last.
  const float* added = nullptr;    // [B,K,H,P,N]
  const float* initial = nullptr;  // [B,H,P,N], or null for zeros
  void* starts = nullptr;          // [B,K,H,P,N]; not `added`
  float* final_state = nullptr;    // [B,H,P,N]

  // JoinOutputs: inside + exp(running)·carried + D·x.
  const void* inside = nullptr;   // [B,K,H,Q,P]
  const void* carried = nullptr;  // [B,K,G,Q,(H/G)·P]
  const float* skip = nullptr;    // D: [H], [H,P] (skip_per_channel), or null for 0
  bool skip_per_channel = false;
  void* y = nullptr;  // [B,T,H,P]
};

// The plain forms, in float64; they write float32 whatever `element`, which stands for x, inside and carried.
void SplitInputsPlainly(const SsdBlocks& blocks);
void MixStepsPlainly(const SsdBlocks& blocks);
void PassStatesPlainly(const SsdBlocks& blocks);
void JoinOutputsPlainly(const SsdBlocks& blocks);
// Pointers are of the current device; queued on `stream` (a cudaStream_t). INVALID_ARGUMENT for float64;
// INTERNAL naming the CUDA error. Where EIGSVC_CUDA_KERNELS is defined.
absl::Status SplitInputsOnCuda(const SsdBlocks& blocks, void* stream);
absl::Status MixStepsOnCuda(const SsdBlocks& blocks, void* stream);
absl::Status PassStatesOnCuda(const SsdBlocks& blocks, void* stream);
absl::Status JoinOutputsOnCuda(const SsdBlocks& blocks, void* stream);

}  // namespace eigsvc
