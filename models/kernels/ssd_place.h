// Where the arrays of ssd_blocks.h have their elements, for the device and its twin.
#pragma once

#include "models/kernels/ssd_blocks.h"

#if defined(__CUDACC__)
#define EIGSVC_PLACE __host__ __device__ __forceinline__
#else
#define EIGSVC_PLACE inline
#endif

namespace eigsvc::kernels {

// Channel c = h·P + p of step q of block k of row b. The block's step of time is k·Q + q.
struct SsdPlace {
  int64_t b, k, q, h, p;

  // Of `index` in [Q,H,P] of block b·K + k.
  EIGSVC_PLACE static SsdPlace Of(const SsdShape& s, int64_t block, uint32_t index) {
    const auto width = static_cast<uint32_t>(s.width), heads = static_cast<uint32_t>(s.heads);
    const uint32_t row = index / width;
    return {block / s.blocks, block % s.blocks, row / heads, row % heads, index % width};
  }
  EIGSVC_PLACE int64_t Step(const SsdShape& s) const { return k * s.block + q; }
  EIGSVC_PLACE int64_t Running(const SsdShape& s) const {
    return ((b * s.blocks + k) * s.heads + h) * s.block + q;
  }
  EIGSVC_PLACE int64_t RunningAtEnd(const SsdShape& s) const { return Running(s) - q + s.block - 1; }
  EIGSVC_PLACE int64_t ByHead(const SsdShape& s) const { return Running(s) * s.width + p; }
  EIGSVC_PLACE int64_t ByGroup(const SsdShape& s) const {
    const int64_t shared = s.heads / s.groups, g = h / shared;
    return ((((b * s.blocks + k) * s.groups + g) * s.block + q) * shared + h % shared) * s.width + p;
  }
  EIGSVC_PLACE int64_t Dt(const SsdBlocks& blocks) const {
    return b * blocks.dt_batch_stride + Step(blocks.shape) * blocks.dt_step_stride +
           h * blocks.dt_head_stride;
  }
  EIGSVC_PLACE int64_t X(const SsdBlocks& blocks) const {
    return b * blocks.x_batch_stride + Step(blocks.shape) * blocks.x_step_stride + h * blocks.shape.width + p;
  }
  EIGSVC_PLACE int64_t Y(const SsdShape& s) const {
    return ((b * s.steps + Step(s)) * s.heads + h) * s.width + p;
  }
};

}  // namespace eigsvc::kernels
