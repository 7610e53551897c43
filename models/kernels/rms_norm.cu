// A block a group of values: it sums their squares, keeps its threads' first ones, and goes over the others
// again, which by then the caches hold.
#include <algorithm>

#include "models/kernels/device_element.h"
#include "models/kernels/rms_norm.h"

namespace eigsvc {
namespace {

constexpr int kMostThreads = 256, kWarp = 32;

__device__ float SumOfBlock(float x) {
  __shared__ float sums[kMostThreads / kWarp];
  for (int offset = kWarp / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffu, x, offset);
  if (threadIdx.x % kWarp == 0) sums[threadIdx.x / kWarp] = x;
  __syncthreads();
  float sum = 0;
  for (unsigned i = 0; i < blockDim.x / kWarp; ++i) sum += sums[i];
  return sum;
}

template <typename X, typename T, int kSize, RmsNormProblem::Gate kGate>
__global__ void __launch_bounds__(kMostThreads) NormKernel(const RmsNormProblem p) {
  using Gate = RmsNormProblem::Gate;
  using Values = kernels::Pack<X, kSize>;
  using Pack = kernels::Pack<T, kSize>;
  const int64_t row = blockIdx.x / p.groups, first = static_cast<int64_t>(blockIdx.x % p.groups) * p.size;
  const X* const x = static_cast<const X*>(p.x) + row * p.x_stride + first;
  const T* const z = static_cast<const T*>(p.z) + row * p.z_stride + first;
  const T* const weight = static_cast<const T*>(p.weight) + first;
  T* const y = static_cast<T*>(p.y) + static_cast<int64_t>(blockIdx.x) * p.size;
  const int64_t begin = threadIdx.x * kSize, stride = blockDim.x * kSize;
  // v and silu(z) of the values from `i` on.
  const auto load = [&](int64_t i, float* v, float* gates) {
    const Values a = Values::Load(x + i);
    Pack gate;
    if constexpr (kGate != Gate::kNone) gate = Pack::Load(z + i);
#pragma unroll
    for (int k = 0; k < kSize; ++k) {
      v[k] = kernels::Wide(a.values[k]);
      if constexpr (kGate != Gate::kNone) {
        const float wide = kernels::Wide(gate.values[k]);
        gates[k] = wide / (1 + expf(-wide));
        if (kGate == Gate::kBeforeNorm) v[k] *= gates[k];
      }
    }
  };
  float sum = 0, first_v[kSize], first_gates[kSize], v[kSize], gates[kSize];
  for (int64_t i = begin; i < p.size; i += stride) {
    load(i, v, gates);
#pragma unroll
    for (int k = 0; k < kSize; ++k) {
      sum = fmaf(v[k], v[k], sum);
      if (i == begin) {
        first_v[k] = v[k];
        first_gates[k] = gates[k];
      }
    }
  }
  const float scale = rsqrtf(SumOfBlock(sum) / static_cast<float>(p.size) + static_cast<float>(p.eps));
  for (int64_t i = begin; i < p.size; i += stride) {
    if (i != begin) load(i, v, gates);
    const Pack w = Pack::Load(weight + i);
    Pack out;
#pragma unroll
    for (int k = 0; k < kSize; ++k) {
      float normed = (i == begin ? first_v[k] : v[k]) * scale * kernels::Wide(w.values[k]);
      if (kGate == Gate::kAfterNorm) normed *= i == begin ? first_gates[k] : gates[k];
      out.values[k] = kernels::Narrow<T>(normed);
    }
    out.Store(y + i);
  }
}

template <typename X, typename T, int kSize>
absl::Status Launch(const RmsNormProblem& p, cudaStream_t stream) {
  using Gate = RmsNormProblem::Gate;
  const int64_t blocks = p.rows * p.groups;
  if (blocks > 0x7fffffff) return absl::InvalidArgumentError("RMS norm: too many rows in one call");
  const int64_t wanted = (p.size + kSize * kWarp - 1) / (kSize * kWarp) * kWarp;
  const int threads = static_cast<int>(std::min<int64_t>(wanted, kMostThreads));
  const auto grid = static_cast<unsigned>(blocks);
  switch (p.gate) {
    case Gate::kNone:
      NormKernel<X, T, kSize, Gate::kNone><<<grid, threads, 0, stream>>>(p);
      break;
    case Gate::kBeforeNorm:
      NormKernel<X, T, kSize, Gate::kBeforeNorm><<<grid, threads, 0, stream>>>(p);
      break;
    case Gate::kAfterNorm:
      NormKernel<X, T, kSize, Gate::kAfterNorm><<<grid, threads, 0, stream>>>(p);
      break;
  }
  return kernels::LaunchStatus("RMS norm");
}

}  // namespace

absl::Status RmsNormOnCuda(const RmsNormProblem& p, void* stream) {
  if (p.rows == 0 || p.groups == 0 || p.size == 0) return absl::OkStatus();
  const auto queue = static_cast<cudaStream_t>(stream);
  if (p.x_element != Element::kFloat32 && p.x_element != p.element)
    return absl::InvalidArgumentError("RMS norm: x is neither float32 nor of the weight's type");
  return kernels::WithElement(p.element, [&](auto element) {
    using T = decltype(element);
    constexpr int kMany = 16 / sizeof(T);
    const auto aligned = [&](const void* data, int64_t stride, size_t bytes) {
      return reinterpret_cast<uintptr_t>(data) % (kMany * bytes) == 0 && stride % kMany == 0;
    };
    const bool wide = p.x_element != p.element;
    const bool packs = p.size % kMany == 0 && aligned(p.x, p.x_stride, wide ? sizeof(float) : sizeof(T)) &&
                       aligned(p.weight, 0, sizeof(T)) &&
                       (p.gate == RmsNormProblem::Gate::kNone || aligned(p.z, p.z_stride, sizeof(T)));
    if (wide) return packs ? Launch<float, T, kMany>(p, queue) : Launch<float, T, 1>(p, queue);
    return packs ? Launch<T, T, kMany>(p, queue) : Launch<T, T, 1>(p, queue);
  });
}

}  // namespace eigsvc
