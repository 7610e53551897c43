// The process that takes one file apart. Internal to this room.
#pragma once

#include <cstdint>
#include <string>

#include "server/reader/reader.h"

namespace eigsvc {

struct ReadRequest {
  std::string name;
  int64_t file_bytes = 0;
  int bytes = -1, answer = -1;  // descriptors
};

// An answer comes in one stream: the size of a message (int64_t), the message, and how the reader ended (int,
// as waitpid(2) has it), written by the keeper. Whole answers alone are heeded.

// In a fresh child of the keeper's: drops every other descriptor, maps the bytes, goes to jail, answers,
// ends.
[[noreturn]] void BeReader(ReadRequest request, const ConfinedReader::TakeApart& take_apart);

// Whether all of it went to a socket whose other end is still open.
bool SendAll(int socket, const void* data, size_t size);

}  // namespace eigsvc
