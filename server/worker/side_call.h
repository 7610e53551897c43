// SideCall: the server's end of an inspection or a load, which waits for its turn and may be told to stop
// meanwhile. Deletes itself when the call is over.
#pragma once

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "grpcpp/support/server_callback.h"
#include "models/base/stop_token.h"

namespace eigsvc {

class SideCall final : public grpc::ServerUnaryReactor {
 public:
  explicit SideCall(absl::Time deadline) : deadline_(deadline), stop_(deadline) {}

  // Told when the caller cancels, leaves, or its deadline passes. Not to be used after Finish.
  const StopToken& stop() const { return stop_; }

 private:
  // A passed deadline is left to the token, which says so; anything else is a cancel.
  void OnCancel() override {
    if (absl::Now() < deadline_) stop_.Cancel();
  }
  void OnDone() override { delete this; }

  const absl::Time deadline_;
  StopToken stop_;
};

}  // namespace eigsvc
