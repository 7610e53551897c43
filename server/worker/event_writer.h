// EventWriter: the server's end of a job's event stream. One message is in flight; a snapshot that still
// waits gives way to whatever comes after it, so a slow reader skips snapshots and at most a model, a
// snapshot and a result wait. Post and End are called by the job's thread, the rest by gRPC's. Deletes itself
// when the call is over.
#pragma once

#include <deque>
#include <optional>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "grpcpp/support/server_callback.h"
#include "models/base/stop_token.h"

namespace eigsvc {

template <typename Response>
class EventWriter final : public grpc::ServerWriteReactor<Response> {
 public:
  explicit EventWriter(absl::Time deadline) : deadline_(deadline), stop_(deadline) {}

  // Told when the caller cancels, leaves, or its deadline passes.
  const StopToken& stop() const { return stop_; }

  void Post(Response event, bool snapshot) {
    absl::MutexLock lock(&mutex_);
    if (broken_) return;
    if (!waiting_.empty() && newest_is_snapshot_) waiting_.pop_back();
    waiting_.push_back(std::move(event));
    newest_is_snapshot_ = snapshot;
    Advance();
  }

  // Ends the call once what waits is written. The object must not be used afterwards.
  void End(grpc::Status status) {
    {
      absl::MutexLock lock(&mutex_);
      if (in_flight_) {  // OnWriteDone ends the call
        end_ = std::move(status);
        return;
      }
    }
    // Outside the lock: the call may be over, and this object gone, before Finish returns.
    this->Finish(std::move(status));
  }

 private:
  // gRPC never runs a reaction inside StartWrite or Finish, so they may be called under the lock; from a
  // reaction also Finish, as OnDone waits for the reaction to return.
  void Advance() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (in_flight_) return;
    if (!waiting_.empty()) {
      in_flight_ = std::move(waiting_.front());
      waiting_.pop_front();
      this->StartWrite(&*in_flight_);
    } else if (end_) {
      this->Finish(*end_);
    }
  }

  void OnWriteDone(bool ok) override {
    absl::MutexLock lock(&mutex_);
    in_flight_.reset();
    if (!ok) {  // nobody reads any more; only the end is left to say
      broken_ = true;
      waiting_.clear();
    }
    Advance();
  }

  // A passed deadline is left to the token, which says so; anything else is a cancel.
  void OnCancel() override {
    if (absl::Now() < deadline_) stop_.Cancel();
  }

  void OnDone() override { delete this; }

  const absl::Time deadline_;
  StopToken stop_;
  absl::Mutex mutex_;
  std::deque<Response> waiting_ ABSL_GUARDED_BY(mutex_);
  bool newest_is_snapshot_ ABSL_GUARDED_BY(mutex_) = false;
  bool broken_ ABSL_GUARDED_BY(mutex_) = false;
  std::optional<Response> in_flight_ ABSL_GUARDED_BY(mutex_);
  std::optional<grpc::Status> end_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace eigsvc
