// Floors: which room may include what, as ARCHITECTURE.md draws it, checked on the #include lines themselves.
#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace eigsvc::testing {

// Violations in one file as "FILE:LINE: #include \"X\": RULE". `path` is relative to the root of the tree.
std::vector<std::string> CheckIncludes(absl::string_view path, absl::string_view text);

// The rooms that the table of floors knows.
std::vector<std::string> KnownRooms();

// What `room` may include of other rooms, itself not listed.
std::vector<std::string> FloorsBelow(absl::string_view room);

}  // namespace eigsvc::testing
