// A few threads for what blocks: the store, files, hashing, calls of a worker. gRPC's own threads never do
// these.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace eigsvc {

// Thread-safe. Work still queued when it is destroyed runs first: a call waits for each piece.
class IoPool {
 public:
  IoPool(size_t threads, size_t capacity);
  ~IoPool();
  IoPool(const IoPool&) = delete;
  IoPool& operator=(const IoPool&) = delete;

  // New work, as a call begins. False, and not run, when `capacity` pieces wait.
  [[nodiscard]] bool TryAdd(std::function<void()> work);
  // The next piece of a call that was admitted: one at a time a call, so their number is bounded by that of
  // the calls.
  void Add(std::function<void()> work);

 private:
  void Loop();

  const size_t capacity_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> work_;  // guarded by mutex_, as is:
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace eigsvc
