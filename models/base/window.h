// Window: whose eigenvalues an analysis takes: those of Φ = Λ_t…Λ_{t-W+1}, the product over W consecutive
// steps, every S steps. W = S = 1 is every step by itself.
//
// The first window of a sequence begins at its first step that counts, each further one S steps later; what
// is left at the end and shorter than W steps is left out.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"

namespace eigsvc {

inline constexpr int64_t kMaxWindowLength = 65'536;
inline constexpr int64_t kMaxWindowStride = (int64_t{1} << 31) - 1;

struct Window {
  int64_t length = 1;  // W
  int64_t stride = 1;  // S

  constexpr bool IsStep() const { return length == 1 && stride == 1; }
  // Windows inside a number of steps.
  constexpr int64_t Count(int64_t steps) const { return steps < length ? 0 : (steps - length) / stride + 1; }
  // Windows are numbered from `origin`, the first step that counts, so that where W = S = 1 a window's number
  // is its step. The number after the last window inside the first `steps` steps of a sequence.
  int64_t End(int64_t steps, int64_t origin) const { return origin + Count(steps - origin); }
  bool operator==(const Window&) const = default;
};

// INVALID_ARGUMENT unless both are in range; a stride of 0 is the length's.
inline absl::StatusOr<Window> MakeWindow(int64_t length, int64_t stride) {
  if (length < 1 || length > kMaxWindowLength) {
    return absl::InvalidArgumentError(
        absl::StrCat("window.length ", length, " is not in [1, ", kMaxWindowLength, "]"));
  }
  if (stride < 0 || stride > kMaxWindowStride) {
    return absl::InvalidArgumentError(absl::StrCat("window.stride ", stride, " is not in [1, ",
                                                   kMaxWindowStride, "], nor 0 (as many as window.length)"));
  }
  return Window{length, stride > 0 ? stride : length};
}

}  // namespace eigsvc
