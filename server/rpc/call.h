// What every RPC shares: the backends, the I/O threads, and the record that each call leaves in log and
// metrics.
#pragma once

#include <atomic>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "google/protobuf/message_lite.h"
#include "grpcpp/server_context.h"
#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/server_callback.h"
#include "server/rpc/grpc_status.h"
#include "server/rpc/io_pool.h"
#include "server/rpc/rpc_server.h"

namespace eigsvc {

struct RpcState {
  RpcState(RpcOptions rpc_options, RpcBackends rpc_backends)
      : options(std::move(rpc_options)), backends(std::move(rpc_backends)) {}
  const RpcOptions options;
  const RpcBackends backends;
  const absl::Time start_time = absl::Now();
  std::atomic<bool> draining = false;
  // Two pools, so that calls which wait for a worker never hold up the files. Last: they end first.
  IoPool files{/*threads=*/4, /*capacity=*/256};
  IoPool calls{/*threads=*/8, /*capacity=*/64};
};

absl::Time Deadline(const grpc::CallbackServerContext& context);
absl::Status PoolIsFull();

// Lives as long as the call: counts it from its start, and logs it with the status it ended with.
class CallRecord {
 public:
  CallRecord(RpcState& state, absl::string_view method, const grpc::CallbackServerContext& context);
  ~CallRecord();
  CallRecord(const CallRecord&) = delete;
  CallRecord& operator=(const CallRecord&) = delete;
  // Call once, with what Finish gets.
  grpc::Status End(const absl::Status& status);

 private:
  RpcState& state_;
  const absl::string_view method_;
  const std::string peer_;
  const absl::Time start_ = absl::Now();
  grpc::Status status_;
};

// A unary call: `handle` runs on a pool and fills the response. The control is cancelled when the client
// leaves.
using UnaryHandler = std::function<absl::Status(CallControl& control)>;
grpc::ServerUnaryReactor* StartUnary(RpcState& state, absl::string_view method,
                                     grpc::CallbackServerContext* context, IoPool& pool, UnaryHandler handle);

// Decodes the request of a raw method. INVALID_ARGUMENT.
absl::Status Decode(const grpc::ByteBuffer& bytes, google::protobuf::MessageLite* message);
// A buffer that shares the bytes: nothing is copied until the socket.
grpc::ByteBuffer Share(const WireEvent& bytes);

}  // namespace eigsvc
