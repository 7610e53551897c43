// Shares of the tests of CUDA kernels.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <utility>
#include <vector>

#include "c10/core/Device.h"
#include "c10/core/impl/VirtualGuardImpl.h"

namespace eigsvc::testing {

inline const c10::Device kCuda(c10::kCUDA, 0);

// Under a checker, which makes a kernel up to a hundred times slower, the same paths on less.
inline const bool kSmall = std::getenv("EIGSVC_SMALL_KERNELS") != nullptr;
inline int64_t Size(int64_t usual, int64_t small) { return kSmall ? small : usual; }
using Orders = std::vector<int64_t>;
inline Orders OrdersOf(Orders usual, Orders small) { return kSmall ? std::move(small) : std::move(usual); }

inline void* CurrentStream() {
  return c10::impl::VirtualGuardImpl(c10::kCUDA).getStream(kCuda).native_handle();
}

}  // namespace eigsvc::testing
