// What the exit status of `eigsvc` says. One rule: an operation that failed with a gRPC status code N ends
// with 64 + N, whether the server or this program found the failure; the few other codes are below.
// docs/cli.md has the table.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace eigsvc::cli {

inline constexpr int kExitOk = 0;
inline constexpr int kExitLocalFailure =
    1;                                   // this program or this machine: no daemon binary, disk full, a bug
inline constexpr int kExitUsage = 2;     // the command line is wrong; nothing was sent
inline constexpr int kExitRpcBase = 64;  // plus the gRPC code, 65 to 80
inline constexpr int kExitSignalBase = 128;  // plus the signal: 130 for Ctrl-C, 141 when stdout's reader left

// Statuses that carry an exit code of their own.
absl::Status UsageError(absl::string_view message);
absl::Status LocalError(absl::string_view message);
// Ended by `signal`: SIGINT, SIGTERM, SIGHUP, or SIGPIPE for a reader of stdout that left (silent).
absl::Status SignalError(int signal, absl::string_view message);

int ExitCode(const absl::Status& status);
// "NOT_FOUND: no such checkpoint": what follows "eigsvc: error: ". Empty when nothing is to be printed.
std::string ErrorText(const absl::Status& status);
// The table of exit codes, for --help.
std::string ExitCodeHelp();

}  // namespace eigsvc::cli
