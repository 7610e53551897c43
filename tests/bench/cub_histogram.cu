#include <cub/device/device_histogram.cuh>

#include "tests/bench/cub_histogram.h"

namespace eigsvc {
namespace {

// Asks `run` how much scratch memory it wants, and runs it with that.
template <typename Run>
bool WithScratch(const Run& run) {
  static void* scratch = nullptr;
  static size_t held = 0;
  size_t bytes = 0;
  if (run(nullptr, bytes) != cudaSuccess) return false;
  if (bytes > held) {
    cudaFree(scratch);
    held = bytes;
    if (cudaMalloc(&scratch, bytes) != cudaSuccess) return false;
  }
  return run(scratch, bytes) == cudaSuccess;
}

}  // namespace

bool CubHistogramEven(const float* values, int64_t count, int bins, float low, float high, uint32_t* counts,
                      void* stream) {
  return WithScratch([&](void* scratch, size_t& bytes) {
    return cub::DeviceHistogram::HistogramEven(scratch, bytes, values, counts, bins + 1, low, high, count,
                                               static_cast<cudaStream_t>(stream));
  });
}

bool CubHistogramRange(const float* values, int64_t count, int bins, const float* levels, uint32_t* counts,
                       void* stream) {
  return WithScratch([&](void* scratch, size_t& bytes) {
    return cub::DeviceHistogram::HistogramRange(scratch, bytes, values, counts, bins + 1, levels, count,
                                                static_cast<cudaStream_t>(stream));
  });
}

}  // namespace eigsvc
