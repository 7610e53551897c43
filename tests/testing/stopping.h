// How soon work that is told to stop returns.
#pragma once

#include <thread>

#include "absl/status/status.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "models/base/stop_token.h"
#include "tests/testing/as_built.h"

namespace eigsvc::testing {

// What a cancel may take to reach the work, by the outside clock.
inline const absl::Duration kStopLimit = AsBuilt(absl::Milliseconds(250));

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
