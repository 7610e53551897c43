#include <utility>

#include "server/workers/worker.h"

namespace eigsvc {

void CallControl::Cancel() {
  std::function<void()> hook;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (cancelled_) return;
    cancelled_ = true;
    hook.swap(hook_);
    if (!hook) return;
    hook_running_ = true;
  }
  hook();  // without the lock: it may take others
  std::lock_guard<std::mutex> lock(mutex_);
  hook_running_ = false;
  hook_done_.notify_all();
}

bool CallControl::cancelled() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return cancelled_;
}

void CallControl::OnCancel(std::function<void()> hook) {
  {
    std::unique_lock<std::mutex> lock(mutex_);
    hook_done_.wait(lock, [this] { return !hook_running_; });
    if (!cancelled_) {
      hook_.swap(hook);
      return;
    }
  }
  if (hook) hook();
}

}  // namespace eigsvc
