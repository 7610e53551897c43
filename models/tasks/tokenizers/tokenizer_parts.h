// What the readers of tokenizer files share.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "models/tasks/tokenizers/bpe_tokenizer.h"

namespace eigsvc {

// An object, nested at most 32 deep. INVALID_ARGUMENT names the byte where JSON ends.
absl::StatusOr<nlohmann::json> ParseTokenizerJson(absl::string_view text, absl::string_view name);

// {"token": id, ...} into the parts. `as_bytes`: tokens are in GPT-2's spelling of bytes; those that are not
// (special tokens) are passed over. Ids lie in [0, 2^30) and are distinct.
absl::Status AddVocabulary(const nlohmann::json& vocabulary, absl::string_view name, bool as_bytes,
                           BpeParts* parts);

// INVALID_ARGUMENT unless both halves and the whole are in the vocabulary.
absl::Status AddMerge(absl::string_view left, absl::string_view right, int32_t rank, bool as_bytes,
                      BpeParts* parts);

// The ids of <0x00> to <0xFF>, where all are in the vocabulary.
std::optional<std::array<int32_t, 256>> ByteTokens(const BpeParts& parts);

}  // namespace eigsvc
