// EventCall: the stream of one job's events to one client. One message is in flight; the next is asked of the
// EventStream only when gRPC has taken it, and the EventStream keeps the newest snapshot only. So a slow
// client skips snapshots and one that never reads costs one message.
#pragma once

#include <functional>
#include <memory>
#include <mutex>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/rpc/call.h"

namespace eigsvc {

class EventCall : public grpc::ServerWriteReactor<grpc::ByteBuffer> {
 public:
  // On an I/O thread: submits or finds the job and opens its stream.
  using Open = std::function<absl::StatusOr<std::unique_ptr<EventStream>>(std::function<void()> on_ready)>;
  // When the client has left: cancels the job, unless it is to go on.
  using Leave = std::function<void()>;

  static EventCall* Start(RpcState& state, absl::string_view method, grpc::CallbackServerContext* context,
                          Open open, Leave leave);

  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override { delete this; }

 private:
  EventCall(RpcState& state, absl::string_view method, const grpc::CallbackServerContext& context,
            Leave leave)
      : state_(state), leave_(std::move(leave)), record_(state, method, context) {}
  void Opened(absl::StatusOr<std::unique_ptr<EventStream>> stream);
  void Pump();

  RpcState& state_;
  const Leave leave_;
  CallRecord record_;
  grpc::ByteBuffer in_flight_;
  std::mutex mutex_;
  // Guarded by mutex_. `busy_`: an operation is in flight or the call has ended; whoever sets it calls gRPC
  // after letting go of the mutex.
  bool busy_ = true, gone_ = false;
  std::unique_ptr<EventStream> stream_;  // last: its end waits for a Pump that its on_ready is in
};

}  // namespace eigsvc
