// A call that submits a job and streams its events: the job's id is known only once it is submitted, on an
// I/O thread, and the client may leave before, meanwhile or after.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "server/rpc/event_call.h"

namespace eigsvc {

// `submit(deadline)` returns the id, `watch(id, on_ready)` its stream, `cancel(id)` passes a cancel on.
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
  auto leave = [=] {
    // At the deadline the job ends by its own, with the status that says so.
    if (!detach && absl::Now() < deadline) cancel(*id).IgnoreError();
  };
  return EventCall::Start(state, method, context, std::move(open), std::move(leave));
}

}  // namespace eigsvc
