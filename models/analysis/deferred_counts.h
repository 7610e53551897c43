// DeferredCounts: eigenvalues counted where they lie, many layers in one pass, with nothing waited for until
// the counts are asked for. The passes are models/kernels/spectrum_counts: CUDA's on a CUDA device, beside
// the forward pass on a stream of their own, the plain form on a CPU.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "ATen/core/Tensor.h"
#include "absl/status/status.h"
#include "absl/types/span.h"
#include "c10/core/Device.h"
#include "c10/core/Event.h"
#include "c10/core/Stream.h"
#include "models/kernels/spectrum_counts.h"
#include "models/spectrum/spectrum.h"

namespace eigsvc {

// Eigenvalues of one chunk of time of a (layer, mixer).
struct CountedChunk {
  at::Tensor log_magnitude;       // [B,T,U,K] float32 or float64, on the device
  at::Tensor factors;             // [U,K] of its dtype where log_magnitude is [B,T,U,1], to be times these
  at::Tensor previous;            // [B,1,U,1] of its dtype where it is log η (Eigenvalues::previous)
  at::Tensor phase;               // float64 likewise; undefined: positive real
  at::Tensor noise_floor;         // [] float64, on the device
  at::Tensor lengths;             // [B] int64, on the device: of the sequences
  int64_t first_step = 0;         // of the chunk
  int64_t begin = 0;              // of the chunk's steps, the first that counts
  std::vector<uint64_t> weights;  // [K], how often each counts
};

// Thread rule: one thread, whose current stream of the device is what makes the chunks. Errors: as CallTorch
// says them.
class DeferredCounts {
 public:
  using SiteName = std::pair<int, std::string>;
  // Takes what a unit of a site was counted to; adds up to all of it over the calls.
  using Sink = std::function<void(const SiteName&, int64_t unit, Spectrum)>;

  // Whether this build counts on the device.
  static bool Supports(c10::Device device);
  // REQUIRES Supports(device).
  DeferredCounts(c10::Device device, Sink sink) : device_(device), sink_(std::move(sink)) {}
  DeferredCounts(const DeferredCounts&) = delete;
  DeferredCounts& operator=(const DeferredCounts&) = delete;
  ~DeferredCounts();

  // Once it is OK, the chunk will be counted; its tensors are held until it is.
  absl::Status Add(const SiteName& site, CountedChunk chunk);
  // Queues the count of every chunk that was added, behind what the current stream was given.
  absl::Status Launch();
  // Launch, where much is held.
  absl::Status LaunchIfFull();
  // Launch, wait, and give what was counted since the last Collect to the sink.
  absl::Status Collect();

 private:
  // Tables of 64-bit slots, a row a unit; sites that are seen one after the other lie one behind the other.
  struct Table {
    at::Tensor slots;        // [rows, kSlots]
    at::Tensor phase_slots;  // [rows, kPhaseSlots]; undefined before a phase is seen
    int64_t used = 0;        // rows
  };
  struct Place {
    size_t table = 0;
    int64_t row = 0, units = 0;
  };
  struct Waiting {
    Place place;
    CountedChunk chunk;
  };

  // Chunks that the side stream was given, held for it: the current stream's memory is free for what is
  // queued there next.
  struct Counting {
    c10::Event end;
    std::vector<Waiting> chunks;
    int64_t bytes = 0;
  };

  absl::Status FindPlace(const SiteName& site, int64_t units, bool phase, Place& place);
  // Launches what waits, from the first on; how many of them it was. What is left after an error still waits.
  size_t LaunchWaiting(void* stream, absl::Status& status) const;
  absl::Status LaunchTogether(absl::Span<const Waiting> chunks, void* stream) const;
  template <typename T>
  absl::Status LaunchAs(absl::Span<const Waiting> chunks, void* stream) const;
  // Lets go of chunks that are counted, and of more, behind which the current stream then waits, where those
  // left hold more than this.
  void LetGo(int64_t most_bytes);

  const c10::Device device_;
  const Sink sink_;
  std::map<SiteName, Place> places_;
  std::vector<Table> tables_;
  int64_t table_bytes_ = 0;
  std::vector<Waiting> waiting_;
  int64_t waiting_bytes_ = 0;
  std::optional<c10::Stream> side_;  // of a CUDA device, once there was something to count
  std::deque<Counting> counting_;    // in order
  int64_t counting_bytes_ = 0;
};

}  // namespace eigsvc
