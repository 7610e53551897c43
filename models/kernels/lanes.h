// The lanes that solve one problem together: a thread alone, or a part of a warp.
#pragma once

#if defined(__CUDACC__)
#include <cooperative_groups.h>
#include <cooperative_groups/reduce.h>
#define EIGSVC_LANES __host__ __device__ __forceinline__
#else
#define EIGSVC_LANES inline
#endif

namespace eigsvc::kernels {

struct OneLane {
  static int rank() { return 0; }
  static int size() { return 1; }
  static void Sync() {}
  template <typename T>
  static T Sum(T x) {
    return x;
  }
  template <typename T>
  static T Max(T x) {
    return x;
  }
  static bool Any(bool x) { return x; }
};

#if defined(__CUDACC__)
template <int kSize>
struct TileLanes {
  cooperative_groups::thread_block_tile<kSize> tile;
  __device__ int rank() const { return tile.thread_rank(); }
  static constexpr __device__ int size() { return kSize; }
  __device__ void Sync() const { tile.sync(); }
  template <typename T>
  __device__ T Sum(T x) const {
    return cooperative_groups::reduce(tile, x, cooperative_groups::plus<T>());
  }
  template <typename T>
  __device__ T Max(T x) const {
    return cooperative_groups::reduce(tile, x, cooperative_groups::greater<T>());
  }
  __device__ bool Any(bool x) const { return tile.any(x); }
};
#endif

}  // namespace eigsvc::kernels
