// The lanes that solve one problem together: a thread alone, a part of a warp, or a block of several.
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
  static bool leads() { return true; }
  static OneLane group() { return {}; }
  static int worker() { return 0; }
  static int workers() { return 1; }
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

// All of a block of one dimension: a first warp that leads, and as workers the others.
struct BlockLanes {
  static constexpr int kWarp = 32, kMostWarps = 8;
  double* partial;  // [kMostWarps], shared by the block

  __device__ static int rank() { return threadIdx.x; }
  __device__ static int size() { return blockDim.x; }
  __device__ static void Sync() { __syncthreads(); }
  template <typename T>
  __device__ T Sum(T x) const {
    return Reduce(group().Sum(x), [](T a, T b) { return a + b; });
  }
  template <typename T>
  __device__ T Max(T x) const {
    return Reduce(group().Max(x), [](T a, T b) { return a > b ? a : b; });
  }
  __device__ static bool Any(bool x) { return __syncthreads_or(x); }
  __device__ static bool leads() { return threadIdx.x < kWarp; }
  __device__ static TileLanes<kWarp> group() {
    return {cooperative_groups::tiled_partition<kWarp>(cooperative_groups::this_thread_block())};
  }
  __device__ static int worker() { return static_cast<int>(threadIdx.x) - kWarp; }
  __device__ static int workers() { return static_cast<int>(blockDim.x) - kWarp; }

 private:
  // Every lane adds the warps' parts in one order, lest they decide differently.
  template <typename T, typename Join>
  __device__ T Reduce(T of_warp, const Join& join) const {
    T* const parts = reinterpret_cast<T*>(partial);
    if (threadIdx.x % kWarp == 0) parts[threadIdx.x / kWarp] = of_warp;
    Sync();
    T all = parts[0];
    for (int i = 1; i < blockDim.x / kWarp; ++i) all = join(all, parts[i]);
    Sync();
    return all;
  }
};
#endif

}  // namespace eigsvc::kernels
