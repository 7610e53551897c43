// How soon work that is told to stop returns.
#pragma once

#include <thread>

#include "absl/status/status.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "models/base/stop_token.h"

namespace eigsvc::testing {

// What a cancel may take to reach the work, by the outside clock. A sanitizer makes the pieces of work between
// two looks several times as long.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr absl::Duration kStopLimit = absl::Seconds(2);
#else
inline constexpr absl::Duration kStopLimit = absl::Milliseconds(250);
#endif

struct Stopped {
  absl::Status status;
  absl::Duration took;  // from the cancel to the return
};

// Runs `work(token)`, which returns a status, and cancels it after `delay` from another thread.
template <typename Work>
Stopped CancelAfter(absl::Duration delay, const Work& work) {
  StopToken stop;
  absl::Time cancelled;
  std::thread canceller([&] {
    absl::SleepFor(delay);
    cancelled = absl::Now();
    stop.Cancel();
  });
  absl::Status status = work(stop);
  const absl::Time returned = absl::Now();
  canceller.join();
  return {std::move(status), returned - cancelled};
}

}  // namespace eigsvc::testing
