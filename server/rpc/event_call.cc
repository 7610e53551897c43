#include "server/rpc/event_call.h"

#include <utility>

namespace eigsvc {

EventCall* EventCall::Start(RpcState& state, absl::string_view method, grpc::CallbackServerContext* context,
                            Open open, Leave leave) {
  auto* call = new EventCall(state, method, *context, std::move(leave));  // deletes itself in OnDone
  const bool added =
      state.files.TryAdd([call, open = std::move(open)] { call->Opened(open([call] { call->Pump(); })); });
  if (!added) call->Finish(call->record_.End(PoolIsFull()));
  return call;
}

void EventCall::Opened(absl::StatusOr<std::unique_ptr<EventStream>> stream) {
  if (!stream.ok()) {
    Finish(record_.End(stream.status()));
    return;
  }
  bool gone;
  {
    const std::lock_guard lock(mutex_);
    stream_ = *std::move(stream);
    gone = gone_;
    if (!gone) busy_ = false;
  }
  if (gone) {
    leave_();
    Finish(record_.End(absl::CancelledError("the client left")));
    return;
  }
  Pump();
}

void EventCall::Pump() {
  bool ended = false;
  absl::Status status;
  {
    const std::lock_guard lock(mutex_);
    if (busy_) return;
    const WireEvent event = gone_ ? nullptr : stream_->Next(&ended, &status);
    if (gone_) {
      ended = true;
      status = absl::CancelledError("the client left");
    }
    if (event == nullptr && !ended) return;
    busy_ = true;
    if (event != nullptr) {
      state_.backends.metrics->AddStreamBytes("sent", static_cast<int64_t>(event->size()));
      in_flight_ = Share(event);
    }
  }
  if (ended) {
    Finish(record_.End(status));  // nothing of this object may be touched after it
  } else {
    StartWrite(&in_flight_);
  }
}

void EventCall::OnWriteDone(bool ok) {
  {
    const std::lock_guard lock(mutex_);
    in_flight_.Clear();
    if (!ok) gone_ = true;
    busy_ = false;
  }
  Pump();
}

void EventCall::OnCancel() {
  {
    const std::lock_guard lock(mutex_);
    gone_ = true;
    if (stream_ == nullptr) return;  // Opened will see it
  }
  leave_();
  Pump();
}

}  // namespace eigsvc
