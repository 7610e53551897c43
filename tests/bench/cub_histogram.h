// CUB's histograms, which kernels_bench races; CUB is part of the CUDA toolkit.
#pragma once

#include <cstdint>

namespace eigsvc {

// Counts `count` float32 values on the device into `bins` of 32 bits, between levels of equal distance in
// [low, high], or between `bins` + 1 rising ones on the device. Queues its work on `stream` (a cudaStream_t);
// scratch memory is allocated once. False: CUDA reported an error.
bool CubHistogramEven(const float* values, int64_t count, int bins, float low, float high, uint32_t* counts,
                      void* stream);
bool CubHistogramRange(const float* values, int64_t count, int bins, const float* levels, uint32_t* counts,
                       void* stream);

}  // namespace eigsvc
