// UploadCall: files from one client into the store. A message is read from the wire only when the one before
// is stored, which is what slows a client down to the disk's speed.
#pragma once

#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "eigsvc/v1/catalog_service.pb.h"
#include "server/rpc/call.h"

namespace eigsvc {

// The manifest in the store's words. INVALID_ARGUMENT for what the store cannot judge: emptiness and number.
absl::StatusOr<UploadPlan> ToPlan(const v1::UploadManifest& manifest);

inline constexpr size_t kMaxUploadChunkBytes = 1 << 20;

// Request is UploadCheckpointRequest or UploadDataRequest, which hold the same; Response likewise.
template <typename Request, typename Response>
class UploadCall : public grpc::ServerReadReactor<Request> {
 public:
  static UploadCall* Start(RpcState& state, absl::string_view method, grpc::CallbackServerContext* context,
                           StoreKind kind, Response* response) {
    auto* call = new UploadCall(state, method, *context, kind, response);  // deletes itself in OnDone
    if (state.draining) {
      call->End(absl::UnavailableError("the server is shutting down; upload again when it is back"));
    } else {
      call->StartRead(&call->request_);
    }
    return call;
  }

  void OnReadDone(bool ok) override {
    state_.files.Add([this, ok] { ok ? TakeMessage() : TakeEnd(); });
  }
  void OnDone() override { delete this; }

 private:
  UploadCall(RpcState& state, absl::string_view method, const grpc::CallbackServerContext& context,
             StoreKind kind, Response* response)
      : state_(state), kind_(kind), response_(response), record_(state, method, context) {}

  void End(const absl::Status& status) {
    upload_.reset();  // here, on an I/O thread: what is half written is removed
    this->Finish(record_.End(status));
  }

  void Stored(bool existed) {
    response_->set_sha256(upload_->sha256());
    response_->set_existed(existed);
    End(absl::OkStatus());
  }

  void TakeMessage() {
    const absl::Status status = request_.has_manifest() ? Begin() : Append();
    request_.Clear();
    if (!status.ok()) return End(status);
    if (upload_->existed()) return Stored(true);  // the rest need not be sent
    this->StartRead(&request_);
  }

  absl::Status Begin() {
    if (upload_ != nullptr)
      return absl::InvalidArgumentError("a second manifest; only the first message is one");
    absl::StatusOr<UploadPlan> plan = ToPlan(request_.manifest());
    if (!plan.ok()) return plan.status();
    absl::StatusOr<std::unique_ptr<Store::Upload>> upload = state_.backends.store->BeginUpload(kind_, *plan);
    if (!upload.ok()) return upload.status();
    upload_ = *std::move(upload);
    return absl::OkStatus();
  }

  absl::Status Append() {
    if (upload_ == nullptr) return absl::InvalidArgumentError("the first message must be the manifest");
    const std::string& chunk = request_.chunk();
    if (!request_.has_chunk()) return absl::InvalidArgumentError("a message with neither manifest nor chunk");
    if (chunk.size() > kMaxUploadChunkBytes) {
      return absl::InvalidArgumentError(
          absl::StrCat("a chunk of ", chunk.size(), " bytes; at most ", kMaxUploadChunkBytes, " a message"));
    }
    state_.backends.metrics->AddStreamBytes("received", static_cast<int64_t>(chunk.size()));
    return upload_->Append({reinterpret_cast<const std::byte*>(chunk.data()), chunk.size()});
  }

  // The client has closed its side, or is gone: then bytes are missing and the store refuses.
  void TakeEnd() {
    if (upload_ == nullptr) return End(absl::InvalidArgumentError("the upload ended before its manifest"));
    const absl::Status status = upload_->Finish();
    status.ok() ? Stored(false) : End(status);
  }

  RpcState& state_;
  const StoreKind kind_;
  Response* const response_;
  CallRecord record_;
  // One piece of work at a time, handed from thread to thread: no mutex.
  Request request_;
  std::unique_ptr<Store::Upload> upload_;
};

}  // namespace eigsvc
