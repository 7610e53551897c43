// FileCall: a file to one client, in chunks of 256 KiB. The next chunk is read, on an I/O thread, when gRPC
// has taken the one before: a reader that stops costs one chunk.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "server/rpc/call.h"

namespace eigsvc {

class FileCall : public grpc::ServerWriteReactor<grpc::ByteBuffer> {
 public:
  struct Source {
    std::string path;
    int64_t offset = 0;
  };
  // On an I/O thread.
  using Find = std::function<absl::StatusOr<Source>()>;

  static FileCall* Start(RpcState& state, absl::string_view method, grpc::CallbackServerContext* context,
                         Find find);

  void OnWriteDone(bool ok) override;
  void OnDone() override { delete this; }

 private:
  FileCall(RpcState& state, absl::string_view method, const grpc::CallbackServerContext& context)
      : state_(state), record_(state, method, context) {}
  absl::Status Open(const Find& find);
  void SendNext();

  RpcState& state_;
  CallRecord record_;
  // One piece of work at a time, handed from thread to thread: no mutex.
  std::unique_ptr<StoredFile> file_;
  int64_t offset_ = 0;
  grpc::ByteBuffer in_flight_;
};

}  // namespace eigsvc
