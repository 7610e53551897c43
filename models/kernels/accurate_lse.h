// The log-sum-exps of causal attention again, closer than the operators that attend give them. Those add all
// products of a score one after the other in float32, so that scores of 32 to 42 are off by up to 8 ulp; here
// a score is off by about one. Only the heads whose scores can be that large are computed again. Never an L×L
// matrix.
#pragma once

#include <cstdint>
#include <limits>

#include "absl/status/status.h"
#include "models/kernels/score_bound.h"

namespace eigsvc {

struct LseProblem {
  static constexpr int64_t kMostSize = 256, kMostHeads = 65535;  // of all rows of the batch

  Element element = Element::kFloat32;  // of q and k
  int64_t batch = 0, size = 0;
  HeadRows q, k;  // q.heads a multiple of k.heads; row t of q is position k.rows - q.rows + t, at least t
  double scale = 1;
  int64_t window = 0;            // position i sees the keys of i-window < j <= i; 0: all j <= i
  const float* sinks = nullptr;  // [q.heads]: one more score of each row; null: none
  // [B,q.heads+k.heads]: the largest squared norms of the heads, as ScoreBoundProblem::norms has them.
  const double* squared_norms = nullptr;
  // A head whose bound on |score|, scale·max‖q‖·max‖k‖, is not above this or not finite keeps what it has.
  double least_bound = 0;
  // Nor does a row whose |lse| is not above this: its scores are not larger than that.
  float least_lse = -1;
  // [B,q.heads,q.rows], natural logarithms: an operator's before (not off by more than a few ones), the
  // answer afterwards. Where that is not finite, what was there stays.
  float* lse = nullptr;
  int64_t lse_batch_stride = 0, lse_head_stride = 0, lse_row_stride = 1;

  // `squared_norms`: the product of a query head's and its key head's.
  constexpr bool Takes(double squared_norms_of_head) const {
    const double squared = squared_norms_of_head * scale * scale;
    return squared > least_bound * least_bound && squared < std::numeric_limits<double>::infinity();
  }
  constexpr bool TakesRow(float row_lse) const { return !(row_lse <= least_lse && row_lse >= -least_lse); }
};

// The plain form, in float64.
void RefineLsePlainly(const LseProblem& problem);
// Within about 1 ulp of the largest score, and half an ulp of the answer for writing it in float32. Pointers
// are of the current device; queued on `stream` (a cudaStream_t). INVALID_ARGUMENT for float64, more of
// something than that, or heads that the device's shared memory does not hold; INTERNAL naming the CUDA
// error. Where EIGSVC_CUDA_KERNELS is defined.
absl::Status RefineLseOnCuda(const LseProblem& problem, void* stream);

}  // namespace eigsvc
