#include "models/tasks/prefetch.h"

#include <algorithm>
#include <new>
#include <utility>

#include "absl/strings/str_cat.h"

namespace eigsvc {
namespace {

constexpr unsigned kMostThreads = 4;

// Half of the cores: the other half computes.
int UsualThreads() {
  return static_cast<int>(std::clamp(std::thread::hardware_concurrency() / 2, 1u, kMostThreads));
}

}  // namespace

Prefetch::Prefetch(const Task& task, Split split) : Prefetch(task, split, UsualThreads()) {}

Prefetch::Prefetch(const Task& task, Split split, int threads) : task_(task), split_(split) {
  for (int i = 0; i < threads; ++i) threads_.emplace_back([this] { Work(); });
}

Prefetch::~Prefetch() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  changed_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void Prefetch::Expect(Range range) {
  {
    const std::lock_guard lock(mutex_);
    const bool held =
        std::any_of(slots_.begin(), slots_.end(), [&](const auto& slot) { return slot->range == range; });
    if (held || slots_.size() >= kDepth) return;
    slots_.push_back(std::make_shared<Slot>());
    slots_.back()->range = range;
  }
  changed_.notify_all();
}

absl::StatusOr<Batch> Prefetch::Take(Range range) {
  std::shared_ptr<Slot> slot;
  {
    std::unique_lock lock(mutex_);
    const auto found =
        std::find_if(slots_.begin(), slots_.end(), [&](const auto& held) { return held->range == range; });
    if (found == slots_.end()) {
      slots_.clear();
    } else {
      slot = *found;
      slots_.erase(slots_.begin(), found + 1);  // what was expected before it is not wanted any more
      if (slot->started) {
        changed_.wait(lock, [&] { return slot->done; });
        return std::move(slot->batch);
      }
    }
  }
  return Draw(range);  // unexpected, or still waiting for a thread
}

void Prefetch::Work() {
  std::unique_lock lock(mutex_);
  while (true) {
    std::shared_ptr<Slot> slot;
    changed_.wait(lock, [&] {
      const auto waiting =
          std::find_if(slots_.begin(), slots_.end(), [](const auto& held) { return !held->started; });
      if (waiting != slots_.end()) slot = *waiting;
      return ending_ || slot != nullptr;
    });
    if (ending_) return;
    slot->started = true;
    lock.unlock();
    absl::StatusOr<Batch> batch = Draw(slot->range);
    lock.lock();
    slot->batch = std::move(batch);
    slot->done = true;
    changed_.notify_all();
  }
}

absl::StatusOr<Batch> Prefetch::Draw(Range range) const {
  try {
    return task_.Draw(split_, range.first, range.count);
  } catch (const std::bad_alloc&) {  // would end the process where no one above this thread catches it
    return absl::ResourceExhaustedError(
        absl::StrCat("task ", task_.name(), ": no memory for a batch of ", range.count, " examples"));
  }
}

}  // namespace eigsvc
