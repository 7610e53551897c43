#include "models/tensor/device_queue.h"

#include <cstddef>
#include <utility>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "c10/core/impl/VirtualGuardImpl.h"
#include "models/tensor/torch_call.h"

namespace eigsvc {
namespace {

constexpr size_t kAhead = 2;
// A device pauses some 50 us when it is waited for.
constexpr absl::Duration kLong = absl::Milliseconds(20);

}  // namespace

absl::Status DeviceQueue::PieceQueued() {
  if (device_.is_cpu()) return absl::OkStatus();
  return CallTorchStatus("device", [&] {
    c10::Event end(device_.type());
    end.record(c10::impl::VirtualGuardImpl(device_.type()).getStream(device_));
    ends_.push_back(std::move(end));
    const absl::Time start = absl::Now();
    for (; ends_.size() > (long_pieces_ ? 0 : kAhead); ends_.pop_front()) ends_.front().synchronize();
    long_pieces_ = absl::Now() - start >= kLong;
    return absl::OkStatus();
  });
}

}  // namespace eigsvc
