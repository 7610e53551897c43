#include "server/rpc/grpc_status.h"

#include <array>

#include "models/base/utf8.h"

namespace eigsvc {
namespace {

constexpr size_t kMaxMessageBytes = 1024;

constexpr bool Agree(absl::StatusCode a, grpc::StatusCode b) {
  return static_cast<int>(a) == static_cast<int>(b);
}
static_assert(Agree(absl::StatusCode::kOk, grpc::OK));
static_assert(Agree(absl::StatusCode::kCancelled, grpc::CANCELLED));
static_assert(Agree(absl::StatusCode::kUnknown, grpc::UNKNOWN));
static_assert(Agree(absl::StatusCode::kInvalidArgument, grpc::INVALID_ARGUMENT));
static_assert(Agree(absl::StatusCode::kDeadlineExceeded, grpc::DEADLINE_EXCEEDED));
static_assert(Agree(absl::StatusCode::kNotFound, grpc::NOT_FOUND));
static_assert(Agree(absl::StatusCode::kAlreadyExists, grpc::ALREADY_EXISTS));
static_assert(Agree(absl::StatusCode::kPermissionDenied, grpc::PERMISSION_DENIED));
static_assert(Agree(absl::StatusCode::kResourceExhausted, grpc::RESOURCE_EXHAUSTED));
static_assert(Agree(absl::StatusCode::kFailedPrecondition, grpc::FAILED_PRECONDITION));
static_assert(Agree(absl::StatusCode::kAborted, grpc::ABORTED));
static_assert(Agree(absl::StatusCode::kOutOfRange, grpc::OUT_OF_RANGE));
static_assert(Agree(absl::StatusCode::kUnimplemented, grpc::UNIMPLEMENTED));
static_assert(Agree(absl::StatusCode::kInternal, grpc::INTERNAL));
static_assert(Agree(absl::StatusCode::kUnavailable, grpc::UNAVAILABLE));
static_assert(Agree(absl::StatusCode::kDataLoss, grpc::DATA_LOSS));
static_assert(Agree(absl::StatusCode::kUnauthenticated, grpc::UNAUTHENTICATED));

constexpr std::array<absl::string_view, 17> kStatusNames = {
    "OK",        "CANCELLED",      "UNKNOWN",           "INVALID_ARGUMENT",   "DEADLINE_EXCEEDED",
    "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION",
    "ABORTED",   "OUT_OF_RANGE",   "UNIMPLEMENTED",     "INTERNAL",           "UNAVAILABLE",
    "DATA_LOSS", "UNAUTHENTICATED"};

}  // namespace

grpc::Status ToGrpcStatus(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()),
                      ToUtf8(status.message(), kMaxMessageBytes));
}

absl::string_view CodeName(grpc::StatusCode code) {
  const auto index = static_cast<size_t>(code);
  return index < kStatusNames.size() ? kStatusNames[index] : "UNKNOWN";
}

}  // namespace eigsvc
