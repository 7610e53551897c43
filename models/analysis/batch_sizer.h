// BatchSizer: how many examples to run at once, so that no piece of work between two looks at the stop token
// takes more than a fraction of the 100 ms a cancel may take.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>

#include "absl/time/time.h"

namespace eigsvc {

class BatchSizer {
 public:
  // `fixed` > 0: the caller's own choice, lowered only when memory runs out.
  explicit BatchSizer(int64_t fixed) : rows_(fixed > 0 ? fixed : 1), fixed_(fixed > 0) {}

  int64_t rows() const { return rows_; }

  // A batch of `rows` rows of `steps` steps went well; its longest piece took `longest`. Powers of two, so
  // that few sizes occur; fourfold growth at most, because one measurement may be off.
  void Succeeded(int64_t rows, int64_t steps, absl::Duration longest) {
    if (fixed_) return;
    const double room = kTarget / std::max(longest, absl::Microseconds(1));
    const double wanted = static_cast<double>(rows) * std::min(room, 4.0);
    const int64_t limit = std::min(ceiling_, std::max<int64_t>(1, kMaxTokens / std::max<int64_t>(1, steps)));
    rows_ = static_cast<int64_t>(
        std::bit_floor(static_cast<uint64_t>(std::clamp<int64_t>(static_cast<int64_t>(wanted), 1, limit))));
  }

  // `rows` rows did not fit in memory: never that many again.
  void RanOutOfMemory(int64_t rows) { rows_ = ceiling_ = std::max<int64_t>(1, rows / 2); }

 private:
  static constexpr absl::Duration kTarget = absl::Milliseconds(40);
  static constexpr int64_t kMaxTokens = int64_t{1} << 17;
  int64_t rows_;
  int64_t ceiling_ = 1024;
  const bool fixed_;
};

}  // namespace eigsvc
