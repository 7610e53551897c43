// Opening a name below a directory and nowhere else.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "server/store/files.h"

namespace eigsvc {

// kKernel: openat2 with RESOLVE_BENEATH; links that stay inside are followed. kWalk: one component after
// another, no links at all, for kernels and sandboxes without openat2. OpenBeneath changes from the first to
// the second by itself.
enum class Lookup { kKernel, kWalk };

// An O_PATH descriptor of a regular file or a directory. `name` has passed CheckRelativeName.
// NOT_FOUND; INVALID_ARGUMENT for a link that leaves the directory and for fifos, devices and sockets;
// PERMISSION_DENIED where the daemon may not look.
absl::StatusOr<Fd> OpenBeneath(int directory, const std::string& name, Lookup lookup = Lookup::kKernel);

// The path that /proc knows for a descriptor.
absl::StatusOr<std::string> PathOf(int fd);

}  // namespace eigsvc
