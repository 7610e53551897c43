// A thread takes a few pairs of a head, or as many of the values that stay.
#include "models/kernels/device_element.h"
#include "models/kernels/rotary.h"

namespace eigsvc {
namespace {

using kernels::Pack;

constexpr int kThreads = 256;

template <typename T, int kSize, bool kInterleaved>
__global__ void __launch_bounds__(kThreads) RotaryKernel(const RotaryProblem p, int64_t units) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t i = index / units, unit = index % units;
  if (i >= p.rows * p.steps * p.heads) return;
  const int64_t head = i % p.heads, step = i / p.heads % p.steps, row = i / p.heads / p.steps;
  const T* const x =
      static_cast<const T*>(p.x) + row * p.row_stride + step * p.step_stride + head * p.head_stride;
  T* const y = static_cast<T*>(p.y) + i * p.size;
  const int64_t k = unit * kSize;
  if (k >= p.half) {
    const int64_t at = p.half + k;
    Pack<T, kSize>::Load(x + at).Store(y + at);
    return;
  }
  const auto cos = Pack<T, kSize>::Load(static_cast<const T*>(p.cos) + step * p.half + k),
             sin = Pack<T, kSize>::Load(static_cast<const T*>(p.sin) + step * p.half + k);
  const auto turn = [&](int j, T& first, T& second) {
    const float a = kernels::Wide(first), b = kernels::Wide(second);
    const float c = kernels::Wide(cos.values[j]), s = kernels::Wide(sin.values[j]);
    first = kernels::Narrow<T>(a * c - b * s);
    second = kernels::Narrow<T>(b * c + a * s);
  };
  if constexpr (kInterleaved) {
    if constexpr (kSize == 1) {  // of any alignment
      T first = x[2 * k], second = x[2 * k + 1];
      turn(0, first, second);
      y[2 * k] = first;
      y[2 * k + 1] = second;
    } else {
      auto pairs = Pack<T, 2 * kSize>::Load(x + 2 * k);
#pragma unroll
      for (int j = 0; j < kSize; ++j) turn(j, pairs.values[2 * j], pairs.values[2 * j + 1]);
      pairs.Store(y + 2 * k);
    }
  } else {
    auto first = Pack<T, kSize>::Load(x + k), second = Pack<T, kSize>::Load(x + k + p.half);
#pragma unroll
    for (int j = 0; j < kSize; ++j) turn(j, first.values[j], second.values[j]);
    first.Store(y + k);
    second.Store(y + k + p.half);
  }
}

template <typename T, int kSize>
absl::Status Launch(const RotaryProblem& p, cudaStream_t stream) {
  const int64_t units = (p.size - p.half) / kSize;  // of pairs, then of the rest
  const int64_t blocks = (p.rows * p.steps * p.heads * units + kThreads - 1) / kThreads;
  if (blocks > 0x7fffffff)
    return absl::InvalidArgumentError("rotary embedding: too many values for one call");
  const auto grid = static_cast<unsigned>(blocks);
  if (p.interleaved) {
    RotaryKernel<T, kSize, true><<<grid, kThreads, 0, stream>>>(p, units);
  } else {
    RotaryKernel<T, kSize, false><<<grid, kThreads, 0, stream>>>(p, units);
  }
  return kernels::LaunchStatus("rotary embedding");
}

}  // namespace

absl::Status RotateOnCuda(const RotaryProblem& p, void* stream) {
  if (p.rows * p.steps * p.heads * p.size == 0) return absl::OkStatus();
  const auto queue = static_cast<cudaStream_t>(stream);
  return kernels::WithElement(p.element, [&](auto element) {
    using T = decltype(element);
    constexpr int kMany = 4;
    // Neighbouring pairs are read at once: twice as wide.
    const size_t bytes = kMany * sizeof(T) * (p.interleaved ? 2 : 1);
    const auto whole = [&](int64_t count) { return count * sizeof(T) % bytes == 0; };
    const bool packs = p.half % kMany == 0 && whole(p.size) && whole(p.row_stride) && whole(p.step_stride) &&
                       whole(p.head_stride) && (p.size - 2 * p.half) % kMany == 0 &&
                       reinterpret_cast<uintptr_t>(p.x) % bytes == 0;
    return packs ? Launch<T, kMany>(p, queue) : Launch<T, 1>(p, queue);
  });
}

}  // namespace eigsvc
