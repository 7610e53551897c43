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

// |score|² of query head i of all is at most this over the scale's square.
EIGSVC_BOUND double SquaredBound(const ScoreBoundProblem& problem, int64_t i) {
  const int64_t width = problem.q.heads + problem.k.heads, row = i / problem.q.heads,
                head = i % problem.q.heads;
  const double* const norms = problem.norms + row * width;
  return norms[head] * norms[problem.q.heads + head / (problem.q.heads / problem.k.heads)];
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
