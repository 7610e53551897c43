// How exactly the log-sum-exps of attention scores are known: from a bound on |score|, scale·max‖q‖·max‖k‖
// over the heads. One pass over q and k, of which one number and the norms of the heads come out. They stay
// on the device.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "models/kernels/element.h"

namespace eigsvc {

// q or k [B,heads,rows,size], strides in elements; a row's values lie side by side.
struct HeadRows {
  const void* data = nullptr;
  int64_t heads = 0, rows = 0;
  int64_t batch_stride = 0, head_stride = 0, row_stride = 0;
};

struct ScoreBoundProblem {
  Element element = Element::kFloat32;
  int64_t batch = 0, size = 0;
  HeadRows q, k;                  // q.heads a multiple of k.heads
  double scale = 1;               // of the scores; its sign does not matter
  double cap = 0;                 // |score| stays below it; 0: none
  double least = 0;               // what the noise floor is at least
  double ulps = 0;                // times the largest power of two that is not above the bound
  double* norms = nullptr;        // NormRoom() numbers, the first columns() of them for good
  double* noise_floor = nullptr;  // one number; `least` where the bound is 0 or not finite

  // Largest squared norms are found, [B,q.heads+k.heads].
  int64_t columns() const { return batch * (q.heads + k.heads); }
  int64_t NormRoom() const { return columns() > 4096 ? columns() : 4096; }
};

// The plain form, which defines the answer but for the rounding of sums of squares: in float64 here, in
// float32 on a device unless the elements are float64.
void BoundPlainly(const ScoreBoundProblem& problem);
// Pointers are of the current device; queued on `stream` (a cudaStream_t). INTERNAL naming the CUDA error.
// Where EIGSVC_CUDA_KERNELS is defined.
absl::Status BoundOnCuda(const ScoreBoundProblem& problem, void* stream);

}  // namespace eigsvc
