// A file of text as token ids, line by line, on several threads; the ids do not depend on how many.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "models/base/stop_token.h"
#include "models/tasks/readers/byte_stream.h"
#include "models/tasks/tokenizers/tokenizer.h"

namespace eigsvc {

// How lines become text.
struct LineRule {
  // Set: a line is its words, then this id; blank lines are that id alone. Unset: a line is its text with the
  // line feed, and lines of white space are left out, as Hugging Face's copy of WikiText has them.
  std::optional<int32_t> end_of_line;
};

struct EncodedText {
  std::vector<int32_t> ids;
  int64_t words = 0;  // separated by white space, and one a line for its end: how WikiText is counted
};

// Memory: the ids and a few MiB. INVALID_ARGUMENT names the line of a text that cannot be encoded;
// RESOURCE_EXHAUSTED beyond kMaxEncodedTokens; CANCELLED, DEADLINE_EXCEEDED from `stop`, which may be null.
absl::StatusOr<EncodedText> EncodeText(ByteStream& stream, const Tokenizer& tokenizer, const LineRule& rule,
                                       int threads, const StopToken* stop);
inline constexpr int64_t kMaxEncodedTokens = int64_t{1} << 30;

}  // namespace eigsvc
