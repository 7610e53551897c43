// StopToken: how a cancel or a deadline reaches a running computation. The computation calls Check() between
// pieces of work of at most 100 ms. Thread-safe.
#pragma once

#include <atomic>

#include "absl/status/status.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace eigsvc {

class StopToken {
 public:
  explicit StopToken(absl::Time deadline = absl::InfiniteFuture()) : deadline_(deadline) {}

  // Of a computation that nobody stops.
  static const StopToken& Never() {
    static const StopToken never;
    return never;
  }

  void Cancel() { cancelled_.store(true, std::memory_order_relaxed); }

  // OK, CANCELLED after Cancel(), or DEADLINE_EXCEEDED after the deadline.
  absl::Status Check() const {
    if (cancelled_.load(std::memory_order_relaxed)) return absl::CancelledError("cancelled by the caller");
    if (deadline_ != absl::InfiniteFuture() && absl::Now() >= deadline_) {
      return absl::DeadlineExceededError(
          "the deadline passed while the job ran; give it more time or less work");
    }
    return absl::OkStatus();
  }

 private:
  std::atomic<bool> cancelled_{false};
  const absl::Time deadline_;
};

}  // namespace eigsvc
