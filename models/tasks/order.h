// In which order the examples of a file are served. Files often hold one class after the other, and training
// takes batches of neighbours.
#pragma once

#include <cstdint>
#include <numeric>
#include <utility>
#include <vector>

#include "models/base/random.h"
#include "models/tasks/task.h"

namespace eigsvc {

// A permutation of [0, count) that depends on (seed, split, count) alone.
inline std::vector<int64_t> SeededOrder(uint64_t seed, Split split, int64_t count) {
  constexpr uint64_t kStream = 0x66696c65206f72;  // "file or"
  Random random({kStream, seed, static_cast<uint64_t>(split)});
  std::vector<int64_t> order(count);
  std::iota(order.begin(), order.end(), int64_t{0});
  for (int64_t i = count - 1; i > 0; --i)
    std::swap(order[i], order[random.Below(static_cast<uint64_t>(i) + 1)]);
  return order;
}

}  // namespace eigsvc
