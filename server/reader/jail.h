// What the process that takes a hostile file apart gives up first.
#pragma once

#include <cstdint>

#include "absl/status/status.h"

namespace eigsvc {

// Whether this is a sanitizer's build, which reserves terabytes of addresses and reports by calls of its own.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif

// For good, on this thread, which must be the process's only one. In this order: root becomes nobody (uid and
// gid 65534, no groups); it ends with its parent; no new descriptors; at most `more_bytes` of addresses
// beyond those taken now; processor time of two minutes and a second for each 64 MiB of `file_bytes`
// (SIGXCPU); and of all system calls those alone that memory, reading and writing open descriptors, and
// ending take (seccomp(2), an allow-list: any other ends the process by SIGSYS). Memory cannot be made
// executable. Every step is tried; UNAVAILABLE names those that the kernel refused. Under a sanitizer neither
// descriptors and addresses are limited nor calls filtered.
absl::Status EnterJail(int64_t more_bytes, int64_t file_bytes);

}  // namespace eigsvc
