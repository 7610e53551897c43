// A thread takes a few channels over a run of steps and keeps the last taps in registers, so that each input
// is read once but at the seams.
#include "models/kernels/device_element.h"
#include "models/kernels/short_convolution.h"

namespace eigsvc {
namespace {

constexpr int kThreads = 128;
// Steps of a run: more where enough threads are left, as each begins by fetching its channels' weights.
constexpr int kShortestRun = 16, kLongestRun = 64, kBlocksWanted = 2048;
static_assert(ShortConvolutionProblem::kMostSteps == 65535 * kShortestRun);

// A channel's weights are fetched as one where that is what a vector takes.
template <int kTaps, int kSize>
using Taps = kernels::Pack<float, (kSize > 1 && (kTaps & (kTaps - 1)) == 0) ? kTaps : 1>;

template <typename T, int kTaps, int kSize>
__global__ void __launch_bounds__(kThreads) ConvolutionKernel(const ShortConvolutionProblem p, int run) {
  using Pack = kernels::Pack<T, kSize>;
  const int64_t channel = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kSize;
  if (channel >= p.channels) return;
  const int64_t row = blockIdx.z, begin = static_cast<int64_t>(blockIdx.y) * run;
  const int64_t end = begin + run < p.steps ? begin + run : p.steps;
  // Not of the same memory, so that reads may go ahead of writes.
  const T* __restrict__ const x = static_cast<const T*>(p.x) + row * p.row_stride + channel;
  T* __restrict__ const y = static_cast<T*>(p.y) + row * p.steps * p.channels + channel;
  float weight[kTaps][kSize], bias[kSize], window[kTaps][kSize];
  using Taken = Taps<kTaps, kSize>;
#pragma unroll
  for (int i = 0; i < kSize; ++i) {
    bias[i] = p.bias == nullptr ? 0.0f : p.bias[channel + i];
    constexpr int kAtOnce = sizeof(Taken) / sizeof(float);
#pragma unroll
    for (int j = 0; j < kTaps; j += kAtOnce) {
      const Taken taps = Taken::Load(p.weight + (channel + i) * kTaps + j);
#pragma unroll
      for (int t = 0; t < kAtOnce; ++t) weight[j + t][i] = taps.values[t];
    }
  }
  const auto load = [&](int64_t step, float* to) {
    const Pack pack = Pack::Load(x + step * p.step_stride);
#pragma unroll
    for (int i = 0; i < kSize; ++i) to[i] = kernels::Wide(pack.values[i]);
  };
#pragma unroll
  for (int j = 0; j < kTaps - 1; ++j) {
    const int64_t step = begin - kTaps + 1 + j;
    if (step >= 0) {
      load(step, window[j]);
      continue;
    }
#pragma unroll
    for (int i = 0; i < kSize; ++i)
      window[j][i] = p.before == nullptr
                         ? 0.0f
                         : p.before[(row * (kTaps - 1) + kTaps - 1 + step) * p.channels + channel + i];
  }
#pragma unroll 4
  for (int64_t step = begin; step < end; ++step) {
    load(step, window[kTaps - 1]);
    Pack out;
#pragma unroll
    for (int i = 0; i < kSize; ++i) {
      float sum = bias[i];
#pragma unroll
      for (int j = 0; j < kTaps; ++j) sum = fmaf(weight[j][i], window[j][i], sum);
      out.values[i] = kernels::Narrow<T>(p.silu ? sum / (1 + expf(-sum)) : sum);
#pragma unroll
      for (int j = 0; j + 1 < kTaps; ++j) window[j][i] = window[j + 1][i];
    }
    out.Store(y + step * p.channels);
  }
}

template <typename T, int kTaps>
absl::Status Launch(const ShortConvolutionProblem& p, cudaStream_t stream) {
  constexpr int kMany = 16 / sizeof(T);
  const bool packs = p.channels % kMany == 0 && p.row_stride % kMany == 0 && p.step_stride % kMany == 0 &&
                     reinterpret_cast<uintptr_t>(p.x) % (kMany * sizeof(T)) == 0 &&
                     reinterpret_cast<uintptr_t>(p.weight) % sizeof(Taps<kTaps, kMany>) == 0;
  const int64_t size = packs ? kMany : 1;
  if (p.steps > ShortConvolutionProblem::kMostSteps || p.rows > ShortConvolutionProblem::kMostRows)
    return absl::InvalidArgumentError(absl::StrCat("short convolution: ", p.rows, " rows of ", p.steps,
                                                   " steps are too many for one call"));
  const int64_t across = (p.channels / size + kThreads - 1) / kThreads;
  int run = kShortestRun;
  while (run < kLongestRun && across * p.rows * (p.steps / (2 * run)) >= kBlocksWanted) run *= 2;
  const dim3 grid(static_cast<unsigned>(across), static_cast<unsigned>((p.steps + run - 1) / run),
                  static_cast<unsigned>(p.rows));
  if (packs) {
    ConvolutionKernel<T, kTaps, kMany><<<grid, kThreads, 0, stream>>>(p, run);
  } else {
    ConvolutionKernel<T, kTaps, 1><<<grid, kThreads, 0, stream>>>(p, run);
  }
  return kernels::LaunchStatus("short convolution");
}

}  // namespace

absl::Status ConvolveOnCuda(const ShortConvolutionProblem& p, void* stream) {
  if (p.rows == 0 || p.steps == 0 || p.channels == 0) return absl::OkStatus();
  const auto queue = static_cast<cudaStream_t>(stream);
  return kernels::WithElement(p.element, [&](auto element) -> absl::Status {
    using T = decltype(element);
    switch (p.taps) {
      case 1:
        return Launch<T, 1>(p, queue);
      case 2:
        return Launch<T, 2>(p, queue);
      case 3:
        return Launch<T, 3>(p, queue);
      case 4:
        return Launch<T, 4>(p, queue);
      default:
        return absl::InvalidArgumentError(absl::StrCat("short convolution: ", p.taps, " taps; 1 to ",
                                                       ShortConvolutionProblem::kMostTaps, " are taken"));
    }
  });
}

}  // namespace eigsvc
