#include "client/cli/exit_code.h"

#include <csignal>

#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace eigsvc::cli {
namespace {

// Statuses travel as absl::Status everywhere; what sets these apart is a payload.
constexpr absl::string_view kExitCodeUrl = "eigsvc.v1/exit_code";

absl::Status WithExitCode(absl::Status status, int exit_code) {
  status.SetPayload(kExitCodeUrl, absl::Cord(absl::StrCat(exit_code)));
  return status;
}

int OwnExitCode(const absl::Status& status) {
  const auto payload = status.GetPayload(kExitCodeUrl);
  int code = 0;
  if (payload.has_value()) static_cast<void>(absl::SimpleAtoi(std::string(*payload), &code));
  return code;
}

}  // namespace

absl::Status UsageError(absl::string_view message) {
  return WithExitCode(absl::InvalidArgumentError(message), kExitUsage);
}

absl::Status LocalError(absl::string_view message) {
  return WithExitCode(absl::InternalError(message), kExitLocalFailure);
}

absl::Status SignalError(int signal, absl::string_view message) {
  return WithExitCode(absl::CancelledError(message), kExitSignalBase + signal);
}

int ExitCode(const absl::Status& status) {
  if (status.ok()) return kExitOk;
  if (const int own = OwnExitCode(status); own != 0) return own;
  return kExitRpcBase + static_cast<int>(status.code());
}

std::string ErrorText(const absl::Status& status) {
  if (const int own = OwnExitCode(status); own != 0) {
    return own == kExitSignalBase + SIGPIPE ? "" : std::string(status.message());
  }
  return absl::StrCat(absl::StatusCodeToString(status.code()), ": ", status.message());
}

std::string ExitCodeHelp() {
  return "Exit codes:\n"
         "  0    success\n"
         "  1    this program or machine failed: no daemon binary, output not writable, a bug\n"
         "  2    usage: the command line is wrong; nothing was sent\n"
         "  64+N the operation failed with gRPC code N, its name on stderr:\n"
         "       65 CANCELLED  66 UNKNOWN  67 INVALID_ARGUMENT  68 DEADLINE_EXCEEDED  69 NOT_FOUND\n"
         "       70 ALREADY_EXISTS  71 PERMISSION_DENIED  72 RESOURCE_EXHAUSTED  73 FAILED_PRECONDITION\n"
         "       74 ABORTED  75 OUT_OF_RANGE  76 UNIMPLEMENTED  77 INTERNAL  78 UNAVAILABLE\n"
         "       79 DATA_LOSS  80 UNAUTHENTICATED\n"
         "  130  interrupted (Ctrl-C); 143 terminated; 141 the reader of stdout left\n";
}

}  // namespace eigsvc::cli
