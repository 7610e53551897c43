// A block a group of values: it sums their squares, then goes over them again, which by then the caches hold.
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

template <typename T, int kSize, RmsNormProblem::Gate kGate>
__global__ void __launch_bounds__(kMostThreads) NormKernel(const RmsNormProblem p) {
  using Gate = RmsNormProblem::Gate;
  using Pack = kernels::Pack<T, kSize>;
  const int64_t row = blockIdx.x / p.groups, first = static_cast<int64_t>(blockIdx.x % p.groups) * p.size;
  const T* const x = static_cast<const T*>(p.x) + row * p.x_stride + first;
  const T* const z = static_cast<const T*>(p.z) + row * p.z_stride + first;
  const T* const weight = static_cast<const T*>(p.weight) + first;
  T* const y = static_cast<T*>(p.y) + static_cast<int64_t>(blockIdx.x) * p.size;
  const auto silu = [](float v) { return v / (1 + expf(-v)); };
  const auto value = [&](const Pack& a, const Pack& gate, int i) {
    const float wide = kernels::Wide(a.values[i]);
    return kGate == Gate::kBeforeNorm ? wide * silu(kernels::Wide(gate.values[i])) : wide;
  };
  float sum = 0;
  for (int64_t i = threadIdx.x * kSize; i < p.size; i += blockDim.x * kSize) {
    const Pack a = Pack::Load(x + i);
    Pack gate = a;
    if constexpr (kGate == Gate::kBeforeNorm) gate = Pack::Load(z + i);
#pragma unroll
    for (int k = 0; k < kSize; ++k) {
      const float v = value(a, gate, k);
      sum = fmaf(v, v, sum);
    }
  }
  const float scale = rsqrtf(SumOfBlock(sum) / static_cast<float>(p.size) + static_cast<float>(p.eps));
  for (int64_t i = threadIdx.x * kSize; i < p.size; i += blockDim.x * kSize) {
    const Pack a = Pack::Load(x + i), w = Pack::Load(weight + i);
    Pack gate = a, out;
    if constexpr (kGate != Gate::kNone) gate = Pack::Load(z + i);
#pragma unroll
    for (int k = 0; k < kSize; ++k) {
      const float normed = value(a, gate, k) * scale * kernels::Wide(w.values[k]);
      out.values[k] = kernels::Narrow<T>(
          kGate == Gate::kAfterNorm ? normed * silu(kernels::Wide(gate.values[k])) : normed);
    }
    out.Store(y + i);
  }
}

template <typename T, int kSize>
absl::Status Launch(const RmsNormProblem& p, cudaStream_t stream) {
  using Gate = RmsNormProblem::Gate;
  const int64_t blocks = p.rows * p.groups;
  if (blocks > 0x7fffffff) return absl::InvalidArgumentError("RMS norm: too many rows in one call");
  int threads = kWarp;
  while (threads < kMostThreads && threads * kSize < p.size) threads *= 2;
  const auto grid = static_cast<unsigned>(blocks);
  switch (p.gate) {
    case Gate::kNone:
      NormKernel<T, kSize, Gate::kNone><<<grid, threads, 0, stream>>>(p);
      break;
    case Gate::kBeforeNorm:
      NormKernel<T, kSize, Gate::kBeforeNorm><<<grid, threads, 0, stream>>>(p);
      break;
    case Gate::kAfterNorm:
      NormKernel<T, kSize, Gate::kAfterNorm><<<grid, threads, 0, stream>>>(p);
      break;
  }
  return kernels::LaunchStatus("RMS norm");
}

}  // namespace

absl::Status RmsNormOnCuda(const RmsNormProblem& p, void* stream) {
  if (p.rows == 0 || p.groups == 0 || p.size == 0) return absl::OkStatus();
  const auto queue = static_cast<cudaStream_t>(stream);
  return kernels::WithElement(p.element, [&](auto element) {
    using T = decltype(element);
    constexpr int kMany = 16 / sizeof(T);
    const auto aligned = [&](const void* data, int64_t stride) {
      return reinterpret_cast<uintptr_t>(data) % 16 == 0 && stride % kMany == 0;
    };
    const bool packs = p.size % kMany == 0 && aligned(p.x, p.x_stride) && aligned(p.weight, 0) &&
                       (p.gate == RmsNormProblem::Gate::kNone || aligned(p.z, p.z_stride));
    return packs ? Launch<T, kMany>(p, queue) : Launch<T, 1>(p, queue);
  });
}

}  // namespace eigsvc
