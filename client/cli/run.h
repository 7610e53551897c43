// The program behind main: the command line in, the exit code out.
#pragma once

#include <string>
#include <vector>

#include "client/cli/terminal.h"

namespace eigsvc::cli {

// `arguments`: without the program's name.
int RunCommandLine(const std::vector<std::string>& arguments, const Terminal& terminal);

}  // namespace eigsvc::cli
