#include "server/rpc/call.h"

#include <utility>
#include <vector>

#include "grpcpp/support/slice.h"

namespace eigsvc {
namespace {

class UnaryCall : public grpc::ServerUnaryReactor {
 public:
  UnaryCall(RpcState& state, absl::string_view method, const grpc::CallbackServerContext& context)
      : control_(Deadline(context)), record_(state, method, context) {}

  // Only here is Finish called, so the call outlives the handler.
  void Run(IoPool& pool, UnaryHandler handle) {
    if (!pool.TryAdd([this, handle = std::move(handle)] { Finish(record_.End(handle(control_))); })) {
      Finish(record_.End(PoolIsFull()));
    }
  }
  void OnCancel() override { control_.Cancel(); }
  void OnDone() override { delete this; }

 private:
  CallControl control_;
  CallRecord record_;
};

}  // namespace

absl::Time Deadline(const grpc::CallbackServerContext& context) {
  const auto deadline = context.deadline();
  if (deadline == std::chrono::system_clock::time_point::max()) return absl::InfiniteFuture();
  return absl::FromChrono(deadline);
}

absl::Status PoolIsFull() {
  return absl::ResourceExhaustedError("the server has too many calls in hand; retry later");
}

CallRecord::CallRecord(RpcState& state, absl::string_view method, const grpc::CallbackServerContext& context)
    : state_(state), method_(method), peer_(context.peer()) {
  state_.backends.metrics->RpcStarted(method_);
}

CallRecord::~CallRecord() {
  RpcRecord record;
  record.method = method_;
  record.code = CodeName(status_.error_code());
  record.message = status_.error_message();
  record.peer = peer_;
  record.duration = absl::Now() - start_;
  state_.backends.metrics->RpcFinished(record.method, record.code, record.duration);
  if (state_.options.on_rpc) state_.options.on_rpc(record);
}

grpc::Status CallRecord::End(const absl::Status& status) { return status_ = ToGrpcStatus(status); }

grpc::ServerUnaryReactor* StartUnary(RpcState& state, absl::string_view method,
                                     grpc::CallbackServerContext* context, IoPool& pool,
                                     UnaryHandler handle) {
  auto* call = new UnaryCall(state, method, *context);  // deletes itself in OnDone
  call->Run(pool, std::move(handle));
  return call;
}

absl::Status Decode(const grpc::ByteBuffer& bytes, google::protobuf::MessageLite* message) {
  std::vector<grpc::Slice> slices;
  if (!bytes.Dump(&slices).ok()) return absl::InvalidArgumentError("the request cannot be decompressed");
  std::string flat;
  for (const grpc::Slice& slice : slices)
    flat.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  if (message->ParseFromString(flat)) return absl::OkStatus();
  return absl::InvalidArgumentError("the request is no valid message of this method");
}

grpc::ByteBuffer Share(const WireEvent& bytes) {
  auto* owner = new WireEvent(bytes);
  const grpc::Slice slice(
      const_cast<char*>((*owner)->data()), (*owner)->size(),
      [](void* held) { delete static_cast<WireEvent*>(held); }, owner);
  return grpc::ByteBuffer(&slice, 1);
}

}  // namespace eigsvc
