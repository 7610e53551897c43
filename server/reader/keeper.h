// The keeper's side of a ConfinedReader. Internal to this room.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "server/reader/reader.h"

namespace eigsvc {

// What a reader may take beyond the addresses of the file it maps.
inline constexpr int64_t kReaderBytes = int64_t{256} << 20;

// An answer comes in one stream: the size of a message (int64_t), the message, and how the reader ended (int,
// as waitpid(2) has it), written by the keeper. Whole answers alone are heeded.

// One message: the file's name and two descriptors. False: the keeper is gone.
bool SendRequest(int control, const std::string& name, int file, int answer);

// Serves requests until the other end of `control` is closed, then ends the process. To be called in a fresh
// child whose parent is `owner`.
[[noreturn]] void Keep(int control, pid_t owner, const ConfinedReader::TakeApart& take_apart);

}  // namespace eigsvc
