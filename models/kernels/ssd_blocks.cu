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

// `tiles` blocks of threads share a block of time.
template <int kSize>
__device__ __forceinline__ bool PlaceOfThread(const SsdShape& s, unsigned tiles, SsdPlace& place) {
  const unsigned index = (blockIdx.x % tiles * kThreads + threadIdx.x) * kSize;
  if (index >= static_cast<unsigned>(s.block * s.heads * s.width)) return false;
  place = SsdPlace::Of(s, blockIdx.x / tiles, index);
  return true;
}

template <typename T, int kSize>
__global__ void __launch_bounds__(kThreads) SplitKernel(const SsdBlocks blocks, unsigned tiles) {
  const SsdShape& s = blocks.shape;
  SsdPlace place;
  if (!PlaceOfThread<kSize>(s, tiles, place)) return;
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
  const int64_t head = blockIdx.x, h = head % s.heads;
  const unsigned width = static_cast<unsigned>(s.block), size = width * width;
  for (int64_t q = threadIdx.x; q < s.block; q += kThreads) {
    running[q] = blocks.running[head * s.block + q];
    const SsdPlace place{head / s.heads / s.blocks, head / s.heads % s.blocks, q, h, 0};
    dt[q] = place.Step(s) >= s.steps ? 0.0f : blocks.dt == nullptr ? 1.0f : blocks.dt[place.Dt(blocks)];
  }
  __syncthreads();
  const float* __restrict__ const scores =
      blocks.scores + (head / s.heads * s.groups + h / (s.heads / s.groups)) * size;
  T* __restrict__ const mixing = static_cast<T*>(blocks.mixing) + head * size;
  // A thread keeps to its columns, whose steps it has in registers: neighbours would ask shared memory for
  // the same banks in every row.
  const unsigned columns = width / kSize, lanes = columns < kThreads ? columns : kThreads,
                 rows_at_once = kThreads / lanes, first_row = threadIdx.x / lanes;
  if (first_row >= rows_at_once) return;
  for (unsigned column = threadIdx.x % lanes; column < columns; column += lanes) {
    const unsigned first = column * kSize;
    double from[kSize];
    float step[kSize];
#pragma unroll
    for (int i = 0; i < kSize; ++i) from[i] = running[first + i], step[i] = dt[first + i];
#pragma unroll 2
    for (unsigned l = first_row; l < width; l += rows_at_once) {
      Pack<T, kSize> out;
      if (first <= l) {
        const Pack<float, kSize> score = Pack<float, kSize>::Load(scores + l * width + first);
        const double to = running[l];
#pragma unroll
        for (int i = 0; i < kSize; ++i) {
          // Of later steps the difference is positive and may be large: not to be looked at.
          const bool seen = first + i <= l;
          const float decay = seen ? expf(static_cast<float>(to - from[i])) * step[i] : 0.0f;
          out.values[i] = kernels::Narrow<T>(seen ? decay * score.values[i] : 0.0f);
        }
      } else {
#pragma unroll
        for (int i = 0; i < kSize; ++i) out.values[i] = kernels::Narrow<T>(0);
      }
      out.Store(mixing + l * width + first);
    }
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
__global__ void __launch_bounds__(kThreads) JoinKernel(const SsdBlocks blocks, unsigned tiles) {
  const SsdShape& s = blocks.shape;
  SsdPlace place;
  if (!PlaceOfThread<kSize>(s, tiles, place)) return;
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

// Vectors of 16 bytes where sizes and addresses allow them.
template <typename T>
constexpr int kMany = 16 / sizeof(T);

bool Aligned(const void* data) { return reinterpret_cast<uintptr_t>(data) % 16 == 0; }

template <typename T>
bool ChannelsPack(const SsdBlocks& blocks) {
  return blocks.shape.width % kMany<T> == 0 && blocks.x_batch_stride % kMany<T> == 0 &&
         blocks.x_step_stride % kMany<T> == 0 && Aligned(blocks.x);
}

absl::Status CheckSizes(const SsdShape& s) {
  if (s.batch * s.blocks * s.heads <= 0x7fffffff && s.batch * s.heads <= 65535) return absl::OkStatus();
  return absl::InvalidArgumentError("state-space dual form: too many rows or heads for one call");
}

// Of the blocks of threads that share a block of time, how many; 0: more of one or the other than a launch
// has.
template <int kSize>
unsigned Tiles(const SsdShape& s) {
  const int64_t places = s.block * s.heads * s.width;
  const unsigned tiles = Blocks(places / kSize);
  return places < 0x7fffffff && s.batch * s.blocks * tiles < 0x7fffffff ? tiles : 0;
}

template <typename T, int kSize, typename Kernel>
absl::Status LaunchPlaces(Kernel kernel, const SsdBlocks& blocks, cudaStream_t stream, const char* what) {
  const unsigned tiles = Tiles<kSize>(blocks.shape);
  if (tiles == 0) return absl::InvalidArgumentError(absl::StrCat(what, ": too many values for one call"));
  const auto grid = static_cast<unsigned>(blocks.shape.batch * blocks.shape.blocks) * tiles;
  kernel<<<grid, kThreads, 0, stream>>>(blocks, tiles);
  return kernels::LaunchStatus(what);
}

}  // namespace

absl::Status SplitInputsOnCuda(const SsdBlocks& blocks, void* stream) {
  const auto queue = static_cast<cudaStream_t>(stream);
  return kernels::WithElement(blocks.shape.element, [&](auto element) {
    using T = decltype(element);
    const char* const what = "state-space dual form: inputs";
    return ChannelsPack<T>(blocks) ? LaunchPlaces<T, kMany<T>>(SplitKernel<T, kMany<T>>, blocks, queue, what)
                                   : LaunchPlaces<T, 1>(SplitKernel<T, 1>, blocks, queue, what);
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
    if (s.block % kMany<T> == 0) {
      MixKernel<T, kMany<T>><<<heads, kThreads, shared, queue>>>(blocks);
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
    constexpr int kStates = 4;
    if (size % kStates == 0 && Aligned(blocks.initial)) {
      StatesKernel<T, kStates><<<dim3(Blocks(size / kStates), rows), kThreads, 0, queue>>>(blocks);
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
    const char* const what = "state-space dual form: outputs";
    return ChannelsPack<T>(blocks) ? LaunchPlaces<T, kMany<T>>(JoinKernel<T, kMany<T>>, blocks, queue, what)
                                   : LaunchPlaces<T, 1>(JoinKernel<T, 1>, blocks, queue, what);
  });
}

}  // namespace eigsvc
