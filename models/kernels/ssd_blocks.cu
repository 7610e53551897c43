// Each pass at the speed of memory: a thread takes a few neighbours, so that reads and writes are wide.
#include "models/kernels/device_element.h"
#include "models/kernels/ssd_blocks.h"
#include "models/kernels/ssd_place.h"

namespace eigsvc {
namespace {

using kernels::Pack;
using kernels::SsdPlace;

constexpr int kThreads = 256;

unsigned Blocks(int64_t threads) { return static_cast<unsigned>((threads + kThreads - 1) / kThreads); }

template <typename T, int kSize>
__global__ void __launch_bounds__(kThreads) SplitKernel(const SsdBlocks blocks, int64_t places) {
  const SsdShape& s = blocks.shape;
  const int64_t index = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kSize;
  if (index >= places) return;
  const SsdPlace place = SsdPlace::Of(s, index);
  Pack<T, kSize> x, weighted;
  if (place.Step(s) < s.steps) {
    x = Pack<T, kSize>::Load(static_cast<const T*>(blocks.x) + place.X(blocks));
    float weight =
        expf(static_cast<float>(blocks.running[place.RunningAtEnd(s)] - blocks.running[place.Running(s)]));
    if (blocks.dt != nullptr) weight *= blocks.dt[place.Dt(blocks)];
#pragma unroll
    for (int i = 0; i < kSize; ++i)
      weighted.values[i] = kernels::Narrow<T>(kernels::Wide(x.values[i]) * weight);
  } else {
#pragma unroll
    for (int i = 0; i < kSize; ++i) x.values[i] = weighted.values[i] = kernels::Narrow<T>(0);
  }
  x.Store(static_cast<T*>(blocks.by_head) + place.ByHead(s));
  weighted.Store(static_cast<T*>(blocks.weighted) + place.ByGroup(s));
}

// A block a head's matrix of a block of time.
template <typename T, int kSize>
__global__ void __launch_bounds__(kThreads) MixKernel(const SsdBlocks blocks) {
  extern __shared__ double running[];  // [Q], then Δ [Q]
  const SsdShape& s = blocks.shape;
  auto* const dt = reinterpret_cast<float*>(running + s.block);
  const int64_t head = blockIdx.x, h = head % s.heads, size = s.block * s.block;
  for (int64_t q = threadIdx.x; q < s.block; q += kThreads) {
    running[q] = blocks.running[head * s.block + q];
    const SsdPlace place{head / s.heads / s.blocks, head / s.heads % s.blocks, q, h, 0};
    dt[q] = place.Step(s) >= s.steps ? 0.0f : blocks.dt == nullptr ? 1.0f : blocks.dt[place.Dt(blocks)];
  }
  __syncthreads();
  const float* const scores = blocks.scores + (head / s.heads * s.groups + h / (s.heads / s.groups)) * size;
  T* const mixing = static_cast<T*>(blocks.mixing) + head * size;
  for (int64_t index = threadIdx.x * kSize; index < size; index += kThreads * kSize) {
    const int l = static_cast<int>(index / s.block), first = static_cast<int>(index % s.block);
    Pack<T, kSize> out;
    if (first <= l) {
      const Pack<float, kSize> score = Pack<float, kSize>::Load(scores + index);
#pragma unroll
      for (int i = 0; i < kSize; ++i) {
        const int k = first + i;
        // Of later steps the difference is positive and may be large: not to be looked at.
        const float decay = k <= l ? expf(static_cast<float>(running[l] - running[k])) * dt[k] : 0.0f;
        out.values[i] = kernels::Narrow<T>(k <= l ? decay * score.values[i] : 0.0f);
      }
    } else {
#pragma unroll
      for (int i = 0; i < kSize; ++i) out.values[i] = kernels::Narrow<T>(0);
    }
    out.Store(mixing + index);
  }
}

// Column y of the grid: a head of a row; a thread takes elements of its state through all blocks of time.
template <typename T, int kSize>
__global__ void __launch_bounds__(kThreads) StatesKernel(const SsdBlocks blocks) {
  const SsdShape& s = blocks.shape;
  const int64_t size = s.width * s.order, row = blockIdx.y, b = row / s.heads, h = row % s.heads;
  const int64_t element = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kSize;
  if (element >= size) return;
  using State = Pack<float, kSize>;
  State state;
  if (blocks.initial != nullptr) {
    state = State::Load(blocks.initial + row * size + element);
  } else {
#pragma unroll
    for (int i = 0; i < kSize; ++i) state.values[i] = 0;
  }
  // Not of the same memory, so that reads may go ahead of writes.
  const float* __restrict__ const from = blocks.added + element;
  T* __restrict__ const to = static_cast<T*>(blocks.starts) + element;
#pragma unroll 4
  for (int64_t k = 0; k < s.blocks; ++k) {
    const int64_t at = (b * s.blocks + k) * s.heads + h;
    const State added = State::Load(from + at * size);
    const float decay = static_cast<float>(exp(blocks.running[at * s.block + s.block - 1]));
    Pack<T, kSize> start;
#pragma unroll
    for (int i = 0; i < kSize; ++i) {
      start.values[i] = kernels::Narrow<T>(state.values[i]);
      state.values[i] = fmaf(state.values[i], decay, added.values[i]);
    }
    start.Store(to + at * size);
  }
  state.Store(blocks.final_state + row * size + element);
}

template <typename T, int kSize>
__global__ void __launch_bounds__(kThreads) JoinKernel(const SsdBlocks blocks, int64_t places) {
  const SsdShape& s = blocks.shape;
  const int64_t index = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kSize;
  if (index >= places) return;
  const SsdPlace place = SsdPlace::Of(s, index);
  if (place.Step(s) >= s.steps) return;
  using Values = Pack<T, kSize>;
  const Values inside = Values::Load(static_cast<const T*>(blocks.inside) + place.ByHead(s)),
               carried = Values::Load(static_cast<const T*>(blocks.carried) + place.ByGroup(s));
  Values x = inside, y;
  if (blocks.skip != nullptr) x = Values::Load(static_cast<const T*>(blocks.x) + place.X(blocks));
  const auto decay = static_cast<float>(exp(blocks.running[place.Running(s)]));
#pragma unroll
  for (int i = 0; i < kSize; ++i) {
    float sum = fmaf(kernels::Wide(carried.values[i]), decay, kernels::Wide(inside.values[i]));
    if (blocks.skip != nullptr) {
      const float skip = blocks.skip[blocks.skip_per_channel ? place.h * s.width + place.p + i : place.h];
      sum = fmaf(skip, kernels::Wide(x.values[i]), sum);
    }
    y.values[i] = kernels::Narrow<T>(sum);
  }
  y.Store(static_cast<T*>(blocks.y) + place.Y(s));
}

constexpr int kMany = 4;

bool Aligned(const void* data, size_t bytes) { return reinterpret_cast<uintptr_t>(data) % bytes == 0; }

template <typename T>
bool ChannelsPack(const SsdBlocks& blocks) {
  return blocks.shape.width % kMany == 0 && blocks.x_batch_stride % kMany == 0 &&
         blocks.x_step_stride % kMany == 0 && Aligned(blocks.x, kMany * sizeof(T));
}

int64_t Places(const SsdShape& s) { return s.batch * s.blocks * s.block * s.heads * s.width; }

absl::Status CheckSizes(const SsdShape& s) {
  if (s.batch * s.blocks * s.heads <= 0x7fffffff && s.batch * s.heads <= 65535) return absl::OkStatus();
  return absl::InvalidArgumentError("state-space dual form: too many rows or heads for one call");
}

}  // namespace

absl::Status SplitInputsOnCuda(const SsdBlocks& blocks, void* stream) {
  const auto queue = static_cast<cudaStream_t>(stream);
  return kernels::WithElement(blocks.shape.element, [&](auto element) {
    using T = decltype(element);
    const int64_t places = Places(blocks.shape);
    if (ChannelsPack<T>(blocks)) {
      SplitKernel<T, kMany><<<Blocks(places / kMany), kThreads, 0, queue>>>(blocks, places);
    } else {
      SplitKernel<T, 1><<<Blocks(places), kThreads, 0, queue>>>(blocks, places);
    }
    return kernels::LaunchStatus("state-space dual form: inputs");
  });
}

absl::Status MixStepsOnCuda(const SsdBlocks& blocks, void* stream) {
  const SsdShape& s = blocks.shape;
  if (absl::Status status = CheckSizes(s); !status.ok()) return status;
  const auto queue = static_cast<cudaStream_t>(stream);
  return kernels::WithElement(s.element, [&](auto element) {
    using T = decltype(element);
    const auto heads = static_cast<unsigned>(s.batch * s.blocks * s.heads);
    const size_t shared = static_cast<size_t>(s.block) * (sizeof(double) + sizeof(float));
    if (s.block % kMany == 0) {
      MixKernel<T, kMany><<<heads, kThreads, shared, queue>>>(blocks);
    } else {
      MixKernel<T, 1><<<heads, kThreads, shared, queue>>>(blocks);
    }
    return kernels::LaunchStatus("state-space dual form: mixing");
  });
}

absl::Status PassStatesOnCuda(const SsdBlocks& blocks, void* stream) {
  const SsdShape& s = blocks.shape;
  if (absl::Status status = CheckSizes(s); !status.ok()) return status;
  const auto queue = static_cast<cudaStream_t>(stream);
  return kernels::WithElement(s.element, [&](auto element) {
    using T = decltype(element);
    const int64_t size = s.width * s.order;
    const auto rows = static_cast<unsigned>(s.batch * s.heads);
    if (size % kMany == 0 && Aligned(blocks.initial, kMany * sizeof(float))) {
      StatesKernel<T, kMany><<<dim3(Blocks(size / kMany), rows), kThreads, 0, queue>>>(blocks);
    } else {
      StatesKernel<T, 1><<<dim3(Blocks(size), rows), kThreads, 0, queue>>>(blocks);
    }
    return kernels::LaunchStatus("state-space dual form: states");
  });
}

absl::Status JoinOutputsOnCuda(const SsdBlocks& blocks, void* stream) {
  const auto queue = static_cast<cudaStream_t>(stream);
  return kernels::WithElement(blocks.shape.element, [&](auto element) {
    using T = decltype(element);
    const int64_t places = Places(blocks.shape);
    if (ChannelsPack<T>(blocks)) {
      JoinKernel<T, kMany><<<Blocks(places / kMany), kThreads, 0, queue>>>(blocks, places);
    } else {
      JoinKernel<T, 1><<<Blocks(places), kThreads, 0, queue>>>(blocks, places);
    }
    return kernels::LaunchStatus("state-space dual form: outputs");
  });
}

}  // namespace eigsvc
