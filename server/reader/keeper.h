// The keeper's side of a ConfinedReader. Internal to this room.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>

#include "server/reader/reader.h"

namespace eigsvc {

// One message to the keeper: what is to be read, and two descriptors, of the bytes and of the answer's
// socket. 0, or an errno; EPIPE: the keeper is gone.
int SendRequest(int control, const std::string& name, int64_t file_bytes, int bytes, int answer);

// Serves requests until the other end of `control` is closed, then ends the process. To be called in a fresh
// child of `owner`. It enters the sandbox of workers (sandbox.h), forgets the environment, cannot be traced,
// and keeps no descriptors but `control` and the standard ones.
[[noreturn]] void Keep(int control, pid_t owner, const ConfinedReader::TakeApart& take_apart);

}  // namespace eigsvc
