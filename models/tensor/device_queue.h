// DeviceQueue: keeps a host from running far ahead of a device, so that what it is told (stop) and what it
// measures (how long a piece of work takes) hold for the device, too, without a wait for its last result.
#pragma once

#include <deque>

#include "absl/status/status.h"
#include "c10/core/Device.h"
#include "c10/core/Event.h"

namespace eigsvc {

// Thread rule: one thread, the one whose current stream the work is queued on.
class DeviceQueue {
 public:
  explicit DeviceQueue(c10::Device device) : device_(device) {}

  // After a piece of work was queued: waits until two pieces at most are still to be done; none, where they
  // are so long that a pause between them does not matter. Errors of the device, as CallTorch says them. Does
  // nothing on a CPU.
  absl::Status PieceQueued();

 private:
  const c10::Device device_;
  std::deque<c10::Event> ends_;  // of the pieces that may still be running
  bool long_pieces_ = false;
};

}  // namespace eigsvc
