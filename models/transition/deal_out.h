// Work on a host dealt out over as many threads as LibTorch uses. at::parallel_for is serial in code that is
// not compiled with OpenMP, and a second OpenMP runtime beside LibTorch's own is worse; a block must take far
// longer than starting a thread.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "ATen/Parallel.h"
#include "absl/functional/function_ref.h"

namespace eigsvc {

// Calls body(first, length) for blocks of `block` that make up [0, count), on several threads at once.
inline void DealOut(int64_t count, int64_t block,
                    absl::FunctionRef<void(int64_t first, int64_t length)> body) {
  const int64_t blocks = (count + block - 1) / block;
  std::atomic<int64_t> next = 0;
  const auto work = [&] {
    for (int64_t i = next++; i < blocks; i = next++) body(i * block, std::min(block, count - i * block));
  };
  std::vector<std::jthread> helpers;
  while (static_cast<int64_t>(helpers.size()) + 1 < std::min<int64_t>(blocks, at::get_num_threads())) {
    helpers.emplace_back(work);
  }
  work();
}

}  // namespace eigsvc
