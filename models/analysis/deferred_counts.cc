#include "models/analysis/deferred_counts.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "ATen/TensorOperators.h"
#include "ATen/ops/empty.h"
#include "ATen/ops/zeros.h"
#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "c10/core/DeviceGuard.h"
#include "c10/core/impl/VirtualGuardImpl.h"
#include "models/base/status_macros.h"
#include "models/tensor/torch_call.h"
#include "models/transition/deal_out.h"

namespace eigsvc {
namespace {

namespace slots = spectrum_slots;

// Eigenvalues that may wait for company: as many as keep a device busy for as long as a launch takes. More
// would only cost memory.
constexpr int64_t kMostWaitingBytes = int64_t{4} << 20;
// Of what the side stream still has to count. Beyond it the pass waits for the oldest, on the device: counts
// that take longer than the layers they are of (Mamba-1) would else hold all of a sequence's.
constexpr int64_t kMostCountingBytes = int64_t{64} << 20;
constexpr int64_t kTableRows = 128;  // 2.8 MB of slots; a launch goes to one table
// Beyond it, the tables are emptied and made anew: thousands of channels in each of many layers.
constexpr int64_t kMostTableBytes = int64_t{1} << 30;

bool SameStrides(const at::Tensor& a, const at::Tensor& b) {
  return a.defined() == b.defined() && (!a.defined() || a.strides() == b.strides());
}

bool CanShareALaunch(const CountedChunk& a, const CountedChunk& b) {
  return a.log_magnitude.scalar_type() == b.log_magnitude.scalar_type() &&
         a.log_magnitude.sizes() == b.log_magnitude.sizes() &&
         a.log_magnitude.strides() == b.log_magnitude.strides() && a.phase.defined() == b.phase.defined() &&
         a.factors.defined() == b.factors.defined() && SameStrides(a.previous, b.previous) &&
         a.lengths.is_same(b.lengths) && a.first_step == b.first_step && a.begin == b.begin &&
         a.weights == b.weights;
}

bool OneWeight(const std::vector<uint64_t>& weights) {
  return std::all_of(weights.begin(), weights.end(), [&](uint64_t w) { return w == weights[0]; });
}

// What a chunk keeps alive. log η are views of what the layer computed; of the step before perhaps a view of
// all of an earlier chunk.
int64_t HeldBytes(const CountedChunk& chunk) {
  const at::Tensor &values = chunk.log_magnitude, &previous = chunk.previous;
  const size_t phases = chunk.phase.defined() ? chunk.phase.nbytes() : 0;
  if (!previous.defined()) return static_cast<int64_t>(values.nbytes() + phases);
  size_t bytes = values.storage().nbytes() + phases;
  if (!previous.is_alias_of(values)) bytes += previous.storage().nbytes();
  return static_cast<int64_t>(bytes);
}

uint64_t* Slots(const at::Tensor& table, int64_t row) {
  return reinterpret_cast<uint64_t*>(table.mutable_data_ptr<int64_t>()) + row * table.size(1);
}

template <typename T>
absl::Status Count(const CountProblem<T>& problem, c10::Device device, void* stream) {
#ifdef EIGSVC_CUDA_KERNELS
  if (device.is_cuda()) {
    const c10::DeviceGuard guard(device);
    absl::Status status = CountOnCuda(problem, stream);
    if (absl::IsInternal(status)) status.SetPayload(kStickyCudaErrorUrl, absl::Cord(status.message()));
    return status;
  }
#endif
  (void)device, (void)stream;
  CountPlainly(problem);
  return absl::OkStatus();
}

}  // namespace

// The tables, and chunks after an error, are about to be the current stream's to use again.
DeferredCounts::~DeferredCounts() {
  CallTorchStatus("eigenvalue counts", [&] {
    LetGo(0);
    return absl::OkStatus();
  }).IgnoreError();
}

bool DeferredCounts::Supports(c10::Device device) {
#ifdef EIGSVC_CUDA_KERNELS
  if (device.is_cuda()) return true;
#endif
  return device.is_cpu();
}

absl::Status DeferredCounts::FindPlace(const SiteName& site, int64_t units, bool phase, Place& place) {
  const auto options = at::TensorOptions().dtype(at::kLong).device(device_);
  auto known = places_.find(site);
  if (known == places_.end()) {
    if (tables_.empty() || tables_.back().used + units > tables_.back().slots.size(0)) {
      Table table;
      table.slots = at::zeros({std::max(kTableRows, units), slots::kSlots}, options);
      table_bytes_ += static_cast<int64_t>(table.slots.nbytes());
      tables_.push_back(std::move(table));
    }
    known = places_.emplace(site, Place{tables_.size() - 1, tables_.back().used, units}).first;
    tables_.back().used += units;
  }
  place = known->second;
  if (place.units != units) {
    return absl::InternalError(absl::StrCat("layer ", site.first, ", ", site.second, " reported ", units,
                                            " units after ", place.units, " before"));
  }
  Table& table = tables_[place.table];
  if (phase && !table.phase_slots.defined()) {
    table.phase_slots = at::zeros({table.slots.size(0), slots::kPhaseSlots}, options);
    table_bytes_ += static_cast<int64_t>(table.phase_slots.nbytes());
  }
  return absl::OkStatus();
}

absl::Status DeferredCounts::Add(const SiteName& site, CountedChunk chunk) {
  return CallTorchStatus("eigenvalues to count", [&]() -> absl::Status {
    at::Tensor& values = chunk.log_magnitude;
    if (chunk.factors.defined()) {
      // The kernels multiply values of one weight, in the type they are counted in.
      if (OneWeight(chunk.weights) &&
          (values.scalar_type() == at::kDouble || values.scalar_type() == at::kFloat)) {
        chunk.factors = chunk.factors.contiguous();
      } else {
        values = values * std::exchange(chunk.factors, {});
      }
    }
    // A phase makes both float64; the kernels take one set of strides.
    if (chunk.phase.defined()) {
      values = values.to(at::kDouble).contiguous();
      chunk.phase = chunk.phase.to(at::kDouble).contiguous();
    } else if (values.scalar_type() != at::kDouble) {
      values = values.to(at::kFloat);
    }
    if (table_bytes_ > kMostTableBytes) {
      EIGSVC_RETURN_IF_ERROR(Collect());
      places_.clear();
      tables_.clear();
      table_bytes_ = 0;
    }
    LetGo(kMostCountingBytes);
    Place place;
    EIGSVC_RETURN_IF_ERROR(FindPlace(site, values.size(2), chunk.phase.defined(), place));
    waiting_bytes_ += HeldBytes(chunk);
    waiting_.push_back({place, std::move(chunk)});
    return absl::OkStatus();
  });
}

template <typename T>
absl::Status DeferredCounts::LaunchAs(absl::Span<const Waiting> chunks, void* stream) const {
  const CountedChunk& first = chunks[0].chunk;
  const Place& place = chunks[0].place;
  const at::Tensor& values = first.log_magnitude;
  CountProblem<T> problem;
  problem.part_count = static_cast<int>(chunks.size());
  problem.rows = values.size(0);
  problem.steps = values.size(1);
  problem.units = values.size(2);
  problem.row_stride = values.stride(0);
  problem.step_stride = values.stride(1);
  problem.unit_stride = values.stride(2);
  problem.value_stride = values.stride(3);
  if (first.previous.defined()) {
    problem.previous_row_stride = first.previous.stride(0);
    problem.previous_unit_stride = first.previous.stride(2);
  }
  problem.lengths = first.lengths.const_data_ptr<int64_t>();
  problem.offset = first.first_step;
  problem.first = first.begin;
  problem.slots = Slots(tables_[place.table].slots, place.row);
  if (first.phase.defined()) problem.phase_slots = Slots(tables_[place.table].phase_slots, place.row);
  // Values of one weight are counted at once, others one after the other.
  const std::vector<uint64_t>& weights = first.weights;
  const auto count = static_cast<int64_t>(weights.size());
  problem.per_unit = OneWeight(weights) ? count : 1;
  for (int64_t k = 0; k < count; k += problem.per_unit) {
    for (size_t i = 0; i < chunks.size(); ++i) {
      const CountedChunk& chunk = chunks[i].chunk;
      const int64_t offset = k * problem.value_stride;
      problem.parts[i] = {chunk.log_magnitude.const_data_ptr<T>() + offset,
                          chunk.phase.defined() ? chunk.phase.const_data_ptr<double>() + offset : nullptr,
                          chunk.noise_floor.const_data_ptr<double>(),
                          chunk.factors.defined() ? chunk.factors.const_data_ptr<T>() : nullptr,
                          chunk.previous.defined() ? chunk.previous.const_data_ptr<T>() : nullptr};
    }
    problem.weight = weights[k];
    EIGSVC_RETURN_IF_ERROR(Count(problem, device_, stream));
  }
  return absl::OkStatus();
}

absl::Status DeferredCounts::LaunchTogether(absl::Span<const Waiting> chunks, void* stream) const {
  const at::Tensor& values = chunks[0].chunk.log_magnitude;
  if (values.numel() == 0) return absl::OkStatus();
  return values.scalar_type() == at::kDouble ? LaunchAs<double>(chunks, stream)
                                             : LaunchAs<float>(chunks, stream);
}

size_t DeferredCounts::LaunchWaiting(void* stream, absl::Status& status) const {
  const absl::Span<const Waiting> all(waiting_);
  size_t begin = 0;
  while (begin < all.size()) {
    size_t end = begin + 1;
    while (end < all.size() && end - begin < CountProblem<float>::kMaxParts &&
           all[end].place.table == all[begin].place.table &&
           all[end].place.row == all[end - 1].place.row + all[end - 1].place.units &&
           CanShareALaunch(all[end].chunk, all[begin].chunk))
      ++end;
    status = LaunchTogether(all.subspan(begin, end - begin), stream);
    if (!status.ok()) break;
    begin = end;
  }
  return begin;
}

void DeferredCounts::LetGo(int64_t most_bytes) {
  while (!counting_.empty()) {
    const Counting& oldest = counting_.front();
    if (!oldest.end.query()) {
      if (counting_bytes_ <= most_bytes) return;
      oldest.end.block(c10::impl::VirtualGuardImpl(device_.type()).getStream(device_));
    }
    counting_bytes_ -= oldest.bytes;
    counting_.pop_front();
  }
}

absl::Status DeferredCounts::Launch() {
  return CallTorchStatus("eigenvalue counts", [&]() -> absl::Status {
    if (waiting_.empty()) return absl::OkStatus();
    absl::Status status;
    if (device_.is_cpu()) {
      const size_t launched = LaunchWaiting(nullptr, status);
      waiting_.erase(waiting_.begin(), waiting_.begin() + static_cast<int64_t>(launched));
    } else {
      const c10::impl::VirtualGuardImpl device(device_.type());
      if (!side_) side_ = device.getStreamFromGlobalPool(device_, /*isHighPriority=*/false);
      c10::Event made(device_.type());
      made.record(device.getStream(device_));
      made.block(*side_);
      const size_t launched = LaunchWaiting(side_->native_handle(), status);
      const auto end = waiting_.begin() + static_cast<int64_t>(launched);
      Counting counting{c10::Event(device_.type()), {}, waiting_bytes_};
      counting.chunks.assign(std::make_move_iterator(waiting_.begin()), std::make_move_iterator(end));
      waiting_.erase(waiting_.begin(), end);
      counting.end.record(*side_);
      counting_.push_back(std::move(counting));
      counting_bytes_ += waiting_bytes_;
      LetGo(kMostCountingBytes);
    }
    if (waiting_.empty()) waiting_bytes_ = 0;
    return status;
  });
}

absl::Status DeferredCounts::LaunchIfFull() {
  return waiting_bytes_ > kMostWaitingBytes ? Launch() : absl::OkStatus();
}

absl::Status DeferredCounts::Collect() {
  EIGSVC_RETURN_IF_ERROR(Launch());
  return CallTorchStatus("eigenvalue counts", [&]() -> absl::Status {
    LetGo(0);
    // A table after the other: pinned memory for one is enough.
    for (size_t index = 0; index < tables_.size(); ++index) {
      const Table& table = tables_[index];
      const auto fetch = [&](const at::Tensor& x) -> at::Tensor {
        if (!x.defined()) return {};
        const auto options = at::TensorOptions().dtype(at::kLong).pinned_memory(device_.is_cuda());
        const at::Tensor host = at::empty({table.used, x.size(1)}, options);
        host.copy_(x.narrow(0, 0, table.used));
        x.narrow(0, 0, table.used).zero_();
        return host;
      };
      const at::Tensor slots = fetch(table.slots), phase_slots = fetch(table.phase_slots);
      std::vector<Spectrum> spectra(table.used);
      constexpr int64_t kBlock = 64;  // of some ten microseconds each
      DealOut(table.used, kBlock, [&](int64_t begin, int64_t length) {
        for (int64_t row = begin; row < begin + length; ++row)
          spectra[row] =
              SpectrumOfSlots(Slots(slots, row), phase_slots.defined() ? Slots(phase_slots, row) : nullptr);
      });
      for (const auto& [site, place] : places_) {
        if (place.table != index) continue;
        for (int64_t unit = 0; unit < place.units; ++unit)
          sink_(site, unit, std::move(spectra[place.row + unit]));
      }
    }
    return absl::OkStatus();
  });
}

}  // namespace eigsvc
