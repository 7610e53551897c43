// Limits of time, which hold for what is shipped.
#pragma once

#include "absl/time/time.h"

namespace eigsvc::testing {

// `limit`; what a sanitizer instruments takes several times as long.
inline absl::Duration AsBuilt(absl::Duration limit) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  return limit * 8;
#else
  return limit;
#endif
}

}  // namespace eigsvc::testing
