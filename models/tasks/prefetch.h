// Prefetch: batches drawn ahead of their use on threads of its own, so that no device waits for data. A batch
// is a pure function of the task and its range, so how many threads there are, and whether a guess was right,
// changes nothing but the time.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "models/tasks/task.h"

namespace eigsvc {

// Used by one thread. `task` must outlive it.
class Prefetch {
 public:
  struct Range {
    int64_t first = 0, count = 0;
    bool operator==(const Range&) const = default;
  };
  static constexpr size_t kDepth = 4;  // ranges held at most, drawn or waiting

  // A few threads, as the machine has cores.
  Prefetch(const Task& task, Split split);
  Prefetch(const Task& task, Split split, int threads);
  ~Prefetch();  // waits for the draws under way
  Prefetch(const Prefetch&) = delete;
  Prefetch& operator=(const Prefetch&) = delete;

  // The range will be asked for, after those expected before it. Ignored beyond kDepth and for one already
  // held.
  void Expect(Range range);
  // What task.Draw gives, waiting for it where it is being drawn. A range that was not expected is drawn
  // here, and all that was expected before is forgotten.
  absl::StatusOr<Batch> Take(Range range);

 private:
  struct Slot {
    Range range;
    bool started = false, done = false;
    absl::StatusOr<Batch> batch;
  };
  void Work();
  absl::StatusOr<Batch> Draw(Range range) const;

  const Task& task_;
  const Split split_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::shared_ptr<Slot>> slots_;  // in the order in which they will be asked for
  bool ending_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace eigsvc
