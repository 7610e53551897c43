// Text that ends in a proto string or a gRPC message must be UTF-8; file names and tensor keys need not be.
#pragma once

#include <cstddef>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace eigsvc {

// Bytes of the well-formed character at the start of `text`; 0 when there is none.
size_t CharacterBytes(absl::string_view text);

// INVALID_ARGUMENT, "byte 2: 0xff is no UTF-8", where the first ill-formed character begins.
absl::Status CheckUtf8(absl::string_view text);

// `text` with every ill-formed byte replaced by U+FFFD, cut between characters to at most `max_bytes`, "..."
// included.
std::string ToUtf8(absl::string_view text, size_t max_bytes);

}  // namespace eigsvc
