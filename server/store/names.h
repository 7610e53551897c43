// Which names may become paths.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace eigsvc {

// The name in quotes, escaped and cut, for messages.
std::string Quoted(absl::string_view name);

// A single component: letters, digits, '.', '_' and '-', at most 255 bytes, no leading '.'. INVALID_ARGUMENT.
absl::Status CheckBareName(absl::string_view name);

// A relative path of at most 1024 bytes of UTF-8 without control characters, empty, "." or ".." components
// and backslashes.
absl::Status CheckRelativeName(absl::string_view name);

// 64 lower-case hexadecimal digits.
absl::Status CheckDigest(absl::string_view sha256);

}  // namespace eigsvc
