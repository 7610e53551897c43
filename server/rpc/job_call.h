// A call that submits a job and streams its events: the job's id is known only once it is submitted, on an
// I/O thread, and the client may leave before, meanwhile or after.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "server/rpc/event_call.h"

namespace eigsvc {

// Why a job is cancelled whose client has left at `now`. A client whose deadline passes leaves a little
// before ours does: on the wire a time-out is rounded up, by at most a hundredth.
inline absl::Status LeaveReason(absl::Time start, absl::Time now, absl::Time deadline) {
  const absl::Duration slack = (deadline - start) / 100 + absl::Milliseconds(20);
  if (deadline != absl::InfiniteFuture() && deadline - now <= slack) {
    return absl::DeadlineExceededError("the deadline of the call passed");
  }
  return absl::CancelledError("the client left");
}

// `submit(deadline)` returns the id, `watch(id, on_ready)` its stream, `cancel(id, reason)` passes a cancel
// on.
template <typename Submit, typename Watch, typename Cancel>
EventCall* StartJobCall(RpcState& state, absl::string_view method, grpc::CallbackServerContext* context,
                        bool detach, Submit submit, Watch watch, Cancel cancel) {
  // Set before the stream exists and read only after, which EventCall orders.
  auto id = std::make_shared<std::string>();
  const absl::Time deadline = Deadline(*context);
  auto open = [=](std::function<void()> on_ready) -> absl::StatusOr<std::unique_ptr<EventStream>> {
    absl::StatusOr<std::string> submitted = submit(detach ? absl::InfiniteFuture() : deadline);
    if (!submitted.ok()) return submitted.status();
    *id = *submitted;
    return watch(*id, std::move(on_ready));
  };
  auto leave = [=, start = absl::Now()] {
    if (!detach) cancel(*id, LeaveReason(start, absl::Now(), deadline)).IgnoreError();
  };
  return EventCall::Start(state, method, context, std::move(open), std::move(leave));
}

}  // namespace eigsvc
