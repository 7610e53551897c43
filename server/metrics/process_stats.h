// What /proc tells of a process.
#pragma once

#include <cstdint>
#include <optional>

namespace eigsvc {

struct ProcessStats {
  double cpu_seconds = 0, start_time_seconds = 0;  // user and system; since the Unix epoch
  double resident_bytes = 0, virtual_bytes = 0;
  double open_fds = 0, max_fds = 0;
};

// Of this process. Values that cannot be read stay 0.
ProcessStats ReadOwnProcess();

// Resident memory of another process; nothing when it is gone.
std::optional<double> ReadResidentBytes(int64_t pid);

}  // namespace eigsvc
