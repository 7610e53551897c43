// What the process that takes a hostile file apart gives up first.
#pragma once

#include <cstdint>

#include "absl/status/status.h"

namespace eigsvc {

// For good, on this thread, which must be the process's only one. In this order: root becomes nobody (uid and
// gid 65534, no groups); it ends with its parent; no new descriptors; at most `more_bytes` of addresses
// beyond those taken now; and of all system calls those alone that memory, reading and writing open
// descriptors, and ending take (seccomp(2), an allow-list: any other ends the process by SIGSYS). Memory
// cannot be made executable. Every step is tried; UNAVAILABLE names those that the kernel refused. Under a
// sanitizer addresses are not limited, and calls that are not allowed fail, so that it can report.
absl::Status EnterJail(int64_t more_bytes);

}  // namespace eigsvc
