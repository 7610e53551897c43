#include "server/rpc/io_pool.h"

#include <utility>

namespace eigsvc {

IoPool::IoPool(size_t threads, size_t capacity) : capacity_(capacity) {
  for (size_t i = 0; i < threads; ++i) threads_.emplace_back([this] { Loop(); });
}

IoPool::~IoPool() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

bool IoPool::TryAdd(std::function<void()> work) {
  {
    const std::lock_guard lock(mutex_);
    if (work_.size() >= capacity_) return false;
    work_.push_back(std::move(work));
  }
  changed_.notify_one();
  return true;
}

void IoPool::Add(std::function<void()> work) {
  {
    const std::lock_guard lock(mutex_);
    work_.push_back(std::move(work));
  }
  changed_.notify_one();
}

void IoPool::Loop() {
  while (true) {
    std::function<void()> work;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return stopping_ || !work_.empty(); });
      if (work_.empty()) return;
      work = std::move(work_.front());
      work_.pop_front();
    }
    work();
  }
}

}  // namespace eigsvc
