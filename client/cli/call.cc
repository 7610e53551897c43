#include "client/cli/call.h"

#include <chrono>

#include "absl/time/clock.h"

namespace eigsvc::cli {
namespace {

constexpr absl::Duration kTick = absl::Milliseconds(50);
constexpr absl::Duration kCancelGrace = absl::Seconds(3);

}  // namespace

absl::Status FromGrpc(const grpc::Status& status) {
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
}

Call::Call(const CallOptions& options) : options_(options), interrupts_before_(Interrupt::acknowledged()) {
  if (options.deadline != absl::InfiniteFuture()) context_.set_deadline(absl::ToChronoTime(options.deadline));
}

Call::~Call() {
  queue_.Shutdown();
  void* tag = nullptr;
  bool ok = false;
  while (queue_.Next(&tag, &ok)) {
  }
}

bool Call::Step() {
  while (true) {
    void* tag = nullptr;
    bool ok = false;
    switch (queue_.AsyncNext(&tag, &ok, absl::ToChronoTime(absl::Now() + kTick))) {
      case grpc::CompletionQueue::GOT_EVENT:
        Tick();
        return ok;
      case grpc::CompletionQueue::TIMEOUT:
        Tick();
        break;
      case grpc::CompletionQueue::SHUTDOWN:
        return false;
    }
  }
}

void Call::Tick() {
  if (options_.tick) options_.tick();
  const int interrupts = Interrupt::count() - interrupts_before_;
  if (interrupts > interrupts_seen_) {
    const bool first = interrupts_seen_ == 0 && interrupts == 1;
    interrupts_seen_ = interrupts;
    Interrupt::Acknowledge(interrupts_before_ + interrupts);
    if (first && options_.on_interrupt && options_.on_interrupt()) {
      give_up_ = absl::Now() + kCancelGrace;
    } else {
      context_.TryCancel();
    }
  } else if (absl::Now() >= give_up_) {
    give_up_ = absl::InfiniteFuture();
    context_.TryCancel();
  }
}

absl::Status Call::Outcome(const grpc::Status& status) const {
  // A job may have ended well before its cancel; of another call nobody wants what follows it.
  if (interrupts_seen_ > 0 && (!status.ok() || !options_.on_interrupt)) return Interrupt::Check();
  return FromGrpc(status);
}

}  // namespace eigsvc::cli
