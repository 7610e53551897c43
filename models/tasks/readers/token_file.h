// Token ids from a file, told apart by its bytes: a .npy array, a JSON list, or whitespace-separated text.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace eigsvc {

// One sequence of ids a document: a list of lists or a 2-D array has one a row, every other file a single
// one.
using TokenSequences = std::vector<std::vector<int32_t>>;

inline constexpr int64_t kMaxTokenFileBytes = int64_t{1} << 30;

// NOT_FOUND no such file · INVALID_ARGUMENT not a regular file, or its contents are not non-negative integers
// below 2^31 (the message names line and column, or the element) · DATA_LOSS a truncated array ·
// RESOURCE_EXHAUSTED above kMaxTokenFileBytes.
absl::StatusOr<TokenSequences> ReadTokenFile(const std::string& path);

// The same of bytes in memory; `name` stands in the messages.
absl::StatusOr<TokenSequences> ParseTokens(absl::string_view bytes, absl::string_view name);

// npy_tokens.cc: format versions 1 to 3, 1-D or 2-D, little-endian integers, C order. (numpy.lib.format)
absl::StatusOr<TokenSequences> ParseNpyTokens(absl::string_view bytes, absl::string_view name);
inline constexpr absl::string_view kNpyMagic = "\x93NUMPY";

}  // namespace eigsvc
