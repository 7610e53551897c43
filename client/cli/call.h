// Calls on the server, driven from one thread: while a call waits, every tick looks for Ctrl-C and lets the
// progress display move. The asynchronous stubs are used because a blocking read could do neither.
#pragma once

#include <grpcpp/client_context.h>
#include <grpcpp/completion_queue.h>
#include <grpcpp/support/async_stream.h>
#include <grpcpp/support/async_unary_call.h>

#include <functional>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/cli/interrupt.h"

namespace eigsvc::cli {

// How a call waits.
struct CallOptions {
  absl::Time deadline = absl::InfiniteFuture();
  std::function<void()> tick;  // called about every 50 ms; may be empty
  // What the first signal does. True: the call gets 3 s to end by itself. False, or no function: it is
  // cancelled.
  std::function<bool()> on_interrupt;
};

// The same code and message.
absl::Status FromGrpc(const grpc::Status& status);

// One call: its context, its queue and the wait for each step.
class Call {
 public:
  explicit Call(const CallOptions& options);
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;
  ~Call();

  grpc::ClientContext* context() { return &context_; }
  grpc::CompletionQueue* queue() { return &queue_; }
  // A tag for the next step; one step may be pending at a time.
  void* tag() { return this; }
  // Waits for the pending step. Whether it succeeded.
  bool Step();
  // The call's outcome once Finish has stepped: SignalError when a signal came.
  absl::Status Outcome(const grpc::Status& status) const;

 private:
  void Tick();

  const CallOptions options_;
  const int interrupts_before_;
  grpc::ClientContext context_;
  grpc::CompletionQueue queue_;
  int interrupts_seen_ = 0;
  absl::Time give_up_ = absl::InfiniteFuture();
};

// `prepare`: (ClientContext*, CompletionQueue*) -> PrepareAsyncX(context, request, queue) of a unary method.
template <typename Response, typename Prepare>
absl::StatusOr<Response> CallUnary(const CallOptions& options, Prepare prepare) {
  Call call(options);
  auto reader = prepare(call.context(), call.queue());
  reader->StartCall();
  Response response;
  grpc::Status status;
  reader->Finish(&response, &status, call.tag());
  call.Step();
  if (absl::Status outcome = call.Outcome(status); !outcome.ok()) return outcome;
  return response;
}

// Reads a server stream to its end. A failing `on_message` cancels the call and is the outcome.
template <typename Response, typename Prepare>
absl::Status ReadStream(const CallOptions& options, Prepare prepare,
                        const std::function<absl::Status(const Response&)>& on_message) {
  Call call(options);
  auto reader = prepare(call.context(), call.queue());
  reader->StartCall(call.tag());
  bool more = call.Step();
  absl::Status failure;
  while (more && failure.ok()) {
    Response response;
    reader->Read(&response, call.tag());
    more = call.Step();
    if (more) failure = on_message(response);
  }
  if (!failure.ok()) call.context()->TryCancel();
  grpc::Status status;
  reader->Finish(&status, call.tag());
  call.Step();
  return failure.ok() ? call.Outcome(status) : failure;
}

// Writes a client stream: `next` fills a request and returns whether there is one. Ends early, without an
// error, when the server has its answer before the last request.
template <typename Response, typename Request, typename Prepare>
absl::StatusOr<Response> WriteStream(const CallOptions& options, Prepare prepare,
                                     const std::function<absl::StatusOr<bool>(Request*)>& next) {
  Call call(options);
  Response response;
  auto writer = prepare(call.context(), &response, call.queue());
  writer->StartCall(call.tag());
  bool open = call.Step();
  absl::Status failure;
  while (open) {
    Request request;
    absl::StatusOr<bool> more = next(&request);
    if (!more.ok()) {
      failure = more.status();
      call.context()->TryCancel();
      break;
    }
    if (!*more) {
      writer->WritesDone(call.tag());
      call.Step();
      break;
    }
    writer->Write(request, call.tag());
    open = call.Step();
  }
  grpc::Status status;
  writer->Finish(&status, call.tag());
  call.Step();
  if (!failure.ok()) return failure;
  if (absl::Status outcome = call.Outcome(status); !outcome.ok()) return outcome;
  return response;
}

}  // namespace eigsvc::cli
