// Listening addresses: their syntax, and whether only this machine reaches them.
#pragma once

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace eigsvc {

// "HOST:PORT", "[IPv6]:PORT" or, when `unix_socket`, "unix:/absolute/path". INVALID_ARGUMENT for anything
// else, and for an address that other machines reach unless `allow_remote`.
absl::Status CheckListenAddress(absl::string_view address, bool unix_socket, bool allow_remote);

}  // namespace eigsvc
