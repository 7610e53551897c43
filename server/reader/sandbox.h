// What a worker and the keeper of its readers give up before a client's file is opened, so that a flaw finds
// little to call.
#pragma once

#include "absl/status/status.h"

namespace eigsvc {

// A seccomp(2) filter on every thread of this process, for good. EPERM for sockets other than Unix ones, for
// starting programs, for tracing other processes, for namespaces, and for what changes or opens up the
// kernel. Signals, files and Unix sockets stay as the user's rights have them. A list of what is refused, not
// of what is allowed: CUDA's driver calls what it likes. It is to be entered behind the first use of a
// device, which may start the driver's own helper. Memory and files are no part of it: a driver reserves
// terabytes of addresses, so that RLIMIT_AS would end it, and checkpoints lie where the daemon says.
// UNAVAILABLE where the kernel takes no filter, as inside some other sandboxes.
absl::Status EnterSandbox();

}  // namespace eigsvc
