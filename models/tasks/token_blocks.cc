#include "models/tasks/token_blocks.h"

#include <algorithm>

namespace eigsvc {

TokenBlocks::TokenBlocks(TokenSequences sequences, int64_t block_length) : sequences_(std::move(sequences)) {
  for (const std::vector<int32_t>& sequence : sequences_) {
    for (absl::Span<const int32_t> rest = sequence; rest.size() >= 2;) {
      blocks_.push_back(rest.subspan(0, block_length));
      rest.remove_prefix(blocks_.back().size());
    }
  }
}

Batch TokenBlocks::Draw(absl::Span<const int64_t> indices) const {
  Batch batch;
  batch.rows = static_cast<int64_t>(indices.size());
  for (const int64_t index : indices) {
    batch.lengths.push_back(static_cast<int64_t>(blocks_[index].size()));
    batch.steps = std::max(batch.steps, batch.lengths.back());
  }
  batch.tokens.assign(batch.rows * batch.steps, 0);
  batch.targets.assign(batch.rows * batch.steps, kIgnoredTarget);
  for (int64_t row = 0; row < batch.rows; ++row) {
    const absl::Span<const int32_t> block = blocks_[indices[row]];
    std::copy(block.begin(), block.end(), batch.tokens.begin() + row * batch.steps);
    std::copy(block.begin() + 1, block.end(), batch.targets.begin() + row * batch.steps);
  }
  return batch;
}

}  // namespace eigsvc
