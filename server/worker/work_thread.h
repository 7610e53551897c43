// WorkThread: one thread that runs what it is given, in order. Jobs share one for their whole life because
// OpenMP keeps a team of threads for each thread that computes. Behind each its memory is the machine's
// again.
#pragma once

#include <deque>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "absl/synchronization/mutex.h"

namespace eigsvc {

// Thread-safe.
class WorkThread {
 public:
  WorkThread();
  ~WorkThread();  // runs what was posted, then ends
  void Post(absl::AnyInvocable<void()> work);

 private:
  void Run();
  absl::Mutex mutex_;
  std::deque<absl::AnyInvocable<void()>> queue_ ABSL_GUARDED_BY(mutex_);
  bool closing_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;  // last: it uses the members above
};

}  // namespace eigsvc
