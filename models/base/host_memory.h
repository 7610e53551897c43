// The memory that this process may use: the machine's, or less where control groups bound it (containers).
#pragma once

#include <cstdint>
#include <string>

namespace eigsvc {

struct HostMemory {
  int64_t total_bytes = 0, free_bytes = 0;  // zeros where the kernel does not tell
};

// The least over the machine (MemTotal, MemAvailable of /proc/meminfo) and every control group around the
// process that has a limit, versions 1 and 2; pages of files do not count as used, since they are given up
// first. `root`: where /proc and /sys/fs/cgroup are looked for, for tests. Thread-safe; reads a few small
// files.
HostMemory ReadHostMemory(const std::string& root = "");

}  // namespace eigsvc
