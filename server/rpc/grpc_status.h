// The one place where an absl::Status becomes a gRPC status.
#pragma once

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "grpcpp/support/status.h"

namespace eigsvc {

// The same code; the message as UTF-8, at most 1 KiB, because it travels in a header.
grpc::Status ToGrpcStatus(const absl::Status& status);

// "OK", "NOT_FOUND": for logs and metrics.
absl::string_view CodeName(grpc::StatusCode code);

}  // namespace eigsvc
