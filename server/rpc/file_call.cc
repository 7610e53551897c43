#include "server/rpc/file_call.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "eigsvc/v1/analysis_service.pb.h"
#include "eigsvc/v1/catalog_service.pb.h"
#include "models/base/status_macros.h"

namespace eigsvc {
namespace {

constexpr int64_t kChunkBytes = 256 << 10;

// ReadEigenvaluesResponse and DownloadCheckpointResponse are the same message under two names.
static_assert(int{v1::ReadEigenvaluesResponse::kChunkFieldNumber} ==
              int{v1::DownloadCheckpointResponse::kChunkFieldNumber});
static_assert(int{v1::ReadEigenvaluesResponse::kTotalBytesFieldNumber} ==
              int{v1::DownloadCheckpointResponse::kTotalBytesFieldNumber});

}  // namespace

FileCall* FileCall::Start(RpcState& state, absl::string_view method, grpc::CallbackServerContext* context,
                          Find find) {
  auto* call = new FileCall(state, method, *context);  // deletes itself in OnDone
  const bool added = state.files.TryAdd([call, find = std::move(find)] {
    if (absl::Status status = call->Open(find); !status.ok()) {
      call->Finish(call->record_.End(status));
    } else {
      call->SendNext();
    }
  });
  if (!added) call->Finish(call->record_.End(PoolIsFull()));
  return call;
}

absl::Status FileCall::Open(const Find& find) {
  EIGSVC_ASSIGN_OR_RETURN(const Source source, find());
  EIGSVC_ASSIGN_OR_RETURN(file_, StoredFile::Open(source.path));
  if (source.offset < 0) {
    return absl::InvalidArgumentError(absl::StrCat("offset_bytes ", source.offset, " is negative"));
  }
  if (source.offset > file_->size()) {
    return absl::OutOfRangeError(absl::StrCat("offset_bytes ", source.offset,
                                              " is beyond the end: the file has ", file_->size(), " bytes"));
  }
  offset_ = source.offset;
  return absl::OkStatus();
}

void FileCall::SendNext() {
  if (offset_ == file_->size()) {
    Finish(record_.End(absl::OkStatus()));
    return;
  }
  absl::StatusOr<std::string> chunk = file_->Read(offset_, std::min(kChunkBytes, file_->size() - offset_));
  if (!chunk.ok()) {
    Finish(record_.End(chunk.status()));
    return;
  }
  offset_ += static_cast<int64_t>(chunk->size());
  state_.backends.metrics->AddStreamBytes("sent", static_cast<int64_t>(chunk->size()));
  v1::ReadEigenvaluesResponse response;
  response.set_chunk(*std::move(chunk));
  response.set_total_bytes(file_->size());
  in_flight_ = Share(std::make_shared<const std::string>(response.SerializeAsString()));
  StartWrite(&in_flight_);
}

void FileCall::OnWriteDone(bool ok) {
  in_flight_.Clear();
  if (!ok) {
    Finish(record_.End(absl::CancelledError("the client left")));
    return;
  }
  state_.files.Add([this] { SendNext(); });
}

}  // namespace eigsvc
