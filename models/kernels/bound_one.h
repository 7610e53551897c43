// From the largest squared norms of the heads to a noise floor, on a host or a device.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "models/kernels/score_bound.h"

#if defined(__CUDACC__)
#define EIGSVC_BOUND __host__ __device__ __forceinline__
#else
#define EIGSVC_BOUND inline
#endif

namespace eigsvc::kernels {

// |score|² of query head i of all is at most this times the scale's square; `squared_norms`
// [B,query_heads+key_heads].
EIGSVC_BOUND double SquaredBound(const double* squared_norms, int64_t query_heads, int64_t key_heads,
                                 int64_t i) {
  const int64_t row = i / query_heads, head = i % query_heads;
  const double* const norms = squared_norms + row * (query_heads + key_heads);
  return norms[head] * norms[query_heads + head / (query_heads / key_heads)];
}

EIGSVC_BOUND double NoiseFloorOf(const ScoreBoundProblem& problem, double squared_bound) {
  double bound = sqrt(squared_bound) * (problem.scale < 0 ? -problem.scale : problem.scale);
  if (problem.cap > 0 && bound > problem.cap) bound = problem.cap;
  if (!(bound > 0 && bound < HUGE_VAL)) return problem.least;
  uint64_t bits;
  memcpy(&bits, &bound, sizeof bits);
  bits &= uint64_t{0x7ff} << 52;  // the power of two
  double power;
  memcpy(&power, &bits, sizeof power);
  return power * problem.ulps > problem.least ? power * problem.ulps : problem.least;
}

}  // namespace eigsvc::kernels
