// TokenRows: the token sequences of a split, end to end in one block, and batches of them. Thread rule:
// immutable once filled; share it freely.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "models/tasks/task.h"

namespace eigsvc {

// `Id`: the smallest unsigned type that holds the ids.
template <typename Id>
class TokenRows {
 public:
  void Append(absl::Span<const Id> row) {
    ids_.insert(ids_.end(), row.begin(), row.end());
    ends_.push_back(static_cast<int64_t>(ids_.size()));
  }
  int64_t size() const { return static_cast<int64_t>(ends_.size()); }
  absl::Span<const Id> operator[](int64_t row) const {
    const int64_t begin = row == 0 ? 0 : ends_[row - 1];
    return absl::MakeConstSpan(ids_).subspan(begin, ends_[row] - begin);
  }
  int64_t bytes() const {
    return static_cast<int64_t>(ids_.size() * sizeof(Id) + ends_.size() * sizeof(int64_t));
  }

 private:
  std::vector<Id> ids_;
  std::vector<int64_t> ends_;
};

// The rows, none of them empty, padded to the longest; targets are left to the caller.
inline Batch PadTokens(const std::vector<std::vector<int64_t>>& rows) {
  Batch batch;
  batch.rows = static_cast<int64_t>(rows.size());
  for (const std::vector<int64_t>& row : rows) {
    batch.lengths.push_back(static_cast<int64_t>(row.size()));
    batch.steps = std::max(batch.steps, batch.lengths.back());
  }
  batch.tokens.assign(batch.rows * batch.steps, 0);
  for (int64_t row = 0; row < batch.rows; ++row) {
    std::copy(rows[row].begin(), rows[row].end(), batch.tokens.begin() + row * batch.steps);
  }
  return batch;
}

}  // namespace eigsvc
