// A thread holds the states of a channel. Time is cut into stretches that go side by side: what each adds to
// a state of zero, then the states at their starts one after the other, then each from its start. The first
// of these looks at no output, and is left out where channels alone fill the device.
#include <algorithm>
#include <cfloat>

#include "models/kernels/device_element.h"
#include "models/kernels/selective_scan.h"

namespace eigsvc {
namespace {

constexpr int kThreads = 128;
// Steps whose B and C a block holds, and whose inputs a thread has in hand.
constexpr int kTile = 8;

struct Launched {
  SelectiveScanProblem problem;
  int64_t stretches, steps;  // steps of one
  float* states;             // [B,stretches,N,C]: of the ends, then of the starts
  float* lengths;            // [B,stretches,C]: ΣΔ, which a whole stretch decays by
};

// exp(Δ·a): exp2 is one instruction and a look at denormal numbers.
__device__ __forceinline__ float Decay(float dt, float a_log2) { return exp2f(dt * a_log2); }
// Finite, so that a step of Δ = 0 keeps the state of a = -inf as well.
__device__ __forceinline__ float Log2Of(float a) {
  const float scaled = a * 1.4426950408889634f;
  return scaled < -FLT_MAX ? -FLT_MAX : scaled;
}

// States beyond the order are of a = 0 and B = C = 0, and stay 0.
template <int kOrder, bool kOutput>
__global__ void __launch_bounds__(kThreads) ScanKernel(const Launched launched) {
  const SelectiveScanProblem& p = launched.problem;
  __shared__ float4 tile[2][kTile][kOrder / 4];  // B, C
  const int64_t channel = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t stretch = blockIdx.y, row = blockIdx.z;
  const bool live = channel < p.channels;
  const int64_t own = live ? channel : 0, order = p.order;
  const int64_t first = stretch * launched.steps,
                end = first + launched.steps < p.steps ? first + launched.steps : p.steps;
  float* const states =
      launched.states == nullptr
          ? nullptr
          : launched.states + (row * launched.stretches + stretch) * order * p.channels + own;

  float a[kOrder], state[kOrder];
#pragma unroll
  for (int n = 0; n < kOrder; ++n) {
    a[n] = n < order ? Log2Of(p.a[own * order + n]) : 0.0f;
    state[n] = 0;
    if (kOutput && n < order) {
      if (states != nullptr) {
        state[n] = states[n * p.channels];
      } else if (p.initial != nullptr) {
        state[n] = p.initial[(row * p.channels + own) * order + n];
      }
    }
  }
  const float skip = kOutput ? p.d[own] : 0;
  const float* const x = p.x + row * p.x_row_stride + own;
  const float* const dt = p.dt + row * p.dt_row_stride + own;
  float* const y = p.y + row * p.steps * p.channels + own;
  float length = 0;
  for (int64_t begin = first; begin < end; begin += kTile) {
    const int count = static_cast<int>(end - begin < kTile ? end - begin : kTile);
    float xs[kTile], dts[kTile];
#pragma unroll
    for (int i = 0; i < kTile; ++i) {  // a step beyond the end has Δ = 0 and changes nothing
      xs[i] = i < count ? x[(begin + i) * p.x_step_stride] : 0.0f;
      dts[i] = i < count ? dt[(begin + i) * p.dt_step_stride] : 0.0f;
    }
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < (kOutput ? 2 : 1) * kTile * kOrder; i += kThreads) {
      const int n = i % kOrder, step = i / kOrder % kTile;
      const bool of_c = i >= kTile * kOrder;
      const float* const from = of_c ? p.c + row * p.c_row_stride + (begin + step) * p.c_step_stride
                                     : p.b + row * p.b_row_stride + (begin + step) * p.b_step_stride;
      reinterpret_cast<float*>(tile)[i] = n < order && step < count ? from[n] : 0.0f;
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kTile; ++i) {
      const float drive = dts[i] * xs[i];
      float sum = skip * xs[i];
      length += dts[i];
#pragma unroll
      for (int q = 0; q < kOrder / 4; ++q) {
        const float4 b = tile[0][i][q], c = tile[kOutput ? 1 : 0][i][q];
        const float bs[4] = {b.x, b.y, b.z, b.w}, cs[4] = {c.x, c.y, c.z, c.w};
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const int n = 4 * q + j;
          state[n] = fmaf(Decay(dts[i], a[n]), state[n], drive * bs[j]);
          if (kOutput) sum = fmaf(cs[j], state[n], sum);
        }
      }
      if (kOutput && live && i < count) y[(begin + i) * p.channels] = sum;
    }
  }
  if (!live) return;
  if (!kOutput) {
    launched.lengths[(row * launched.stretches + stretch) * p.channels + own] = length;
#pragma unroll
    for (int n = 0; n < kOrder; ++n) {
      if (n < order) states[n * p.channels] = state[n];
    }
  } else if (stretch + 1 == launched.stretches) {
#pragma unroll
    for (int n = 0; n < kOrder; ++n) {
      if (n < order) p.final_state[(row * p.channels + own) * order + n] = state[n];
    }
  }
}

// A thread takes one state through the stretches and leaves each its start.
__global__ void __launch_bounds__(kThreads) StartsKernel(const Launched launched) {
  const SelectiveScanProblem& p = launched.problem;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x, row = blockIdx.y;
  if (index >= p.order * p.channels) return;
  const int64_t n = index / p.channels, channel = index % p.channels;
  const float a = Log2Of(p.a[channel * p.order + n]);
  float state = p.initial == nullptr ? 0.0f : p.initial[(row * p.channels + channel) * p.order + n];
  float* const places = launched.states + row * launched.stretches * p.order * p.channels + index;
  const float* const lengths = launched.lengths + row * launched.stretches * p.channels + channel;
  constexpr int kAtOnce = 8;  // read before any is written, so that one does not wait for the other
  for (int64_t first = 0; first < launched.stretches; first += kAtOnce) {
    float added[kAtOnce], decay[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const bool live = first + i < launched.stretches;
      added[i] = live ? places[(first + i) * p.order * p.channels] : 0.0f;
      decay[i] = live ? Decay(lengths[(first + i) * p.channels], a) : 1.0f;
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      if (first + i < launched.stretches) places[(first + i) * p.order * p.channels] = state;
      state = fmaf(decay[i], state, added[i]);
    }
  }
}

template <int kOrder>
void Launch(const Launched& launched, cudaStream_t stream) {
  const SelectiveScanProblem& p = launched.problem;
  const auto blocks = [](int64_t count) { return static_cast<unsigned>((count + kThreads - 1) / kThreads); };
  const auto rows = static_cast<unsigned>(p.rows), stretches = static_cast<unsigned>(launched.stretches);
  if (launched.stretches > 1) {
    ScanKernel<kOrder, false><<<dim3(blocks(p.channels), stretches, rows), kThreads, 0, stream>>>(launched);
    StartsKernel<<<dim3(blocks(p.channels * p.order), rows), kThreads, 0, stream>>>(launched);
  }
  ScanKernel<kOrder, true><<<dim3(blocks(p.channels), stretches, rows), kThreads, 0, stream>>>(launched);
}

}  // namespace

absl::Status SelectiveScanOnCuda(const SelectiveScanProblem& p, void* stream) {
  if (p.rows == 0 || p.channels == 0 || p.steps == 0) return absl::OkStatus();
  if (p.rows > SelectiveScanProblem::kMostRows || p.order < 1 || p.order > SelectiveScanProblem::kMostOrder) {
    return absl::InvalidArgumentError(absl::StrCat("selective scan: ", p.rows, " rows of order ", p.order,
                                                   "; at most ", SelectiveScanProblem::kMostRows, " of 1 to ",
                                                   SelectiveScanProblem::kMostOrder, " are taken"));
  }
  const int64_t wanted = p.Stretches();
  Launched launched{p, 1, p.steps, nullptr, nullptr};
  if (wanted > 1) {
    launched.steps = ((p.steps + wanted - 1) / wanted + kTile - 1) / kTile * kTile;
    launched.stretches = (p.steps + launched.steps - 1) / launched.steps;
    launched.states = p.room;
    launched.lengths = p.room + p.rows * launched.stretches * p.channels * p.order;
  }
  const auto queue = static_cast<cudaStream_t>(stream);
  if (p.order <= 4) {
    Launch<4>(launched, queue);
  } else if (p.order <= 8) {
    Launch<8>(launched, queue);
  } else if (p.order <= 16) {
    Launch<16>(launched, queue);
  } else {
    Launch<32>(launched, queue);
  }
  return kernels::LaunchStatus("selective scan");
}

}  // namespace eigsvc
