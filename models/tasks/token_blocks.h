// TokenBlocks: token sequences cut into blocks that do not overlap, the examples of a language model. A
// block's first token is not scored (nothing precedes it), and the model sees nothing of the block before. A
// rest of one token is left out. Thread rule: immutable; share it freely.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "models/tasks/readers/token_file.h"
#include "models/tasks/task.h"

namespace eigsvc {

class TokenBlocks {
 public:
  TokenBlocks() = default;
  // REQUIRES block_length >= 2.
  TokenBlocks(TokenSequences sequences, int64_t block_length);
  TokenBlocks(TokenBlocks&&) = default;
  TokenBlocks& operator=(TokenBlocks&&) = default;

  int64_t size() const { return static_cast<int64_t>(blocks_.size()); }
  // One row a block; the target of a step is the token after it. REQUIRES: each index lies in [0, size()).
  Batch Draw(absl::Span<const int64_t> indices) const;

 private:
  TokenSequences sequences_;
  std::vector<absl::Span<const int32_t>>
      blocks_;  // of sequences_, whose buffers a move leaves where they are
};

}  // namespace eigsvc
