// eigsvc: the command line client. Start at run.cc; a command is one file, NAME_command.cc.
#include <grpc/support/log.h>

#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include "client/cli/exit_code.h"
#include "client/cli/interrupt.h"
#include "client/cli/run.h"

int main(int argc, char** argv) {
  using namespace eigsvc::cli;
  Interrupt::Install();
  // gRPC's own log would land between our lines; its failures reach the user as statuses.
  gpr_set_log_function([](gpr_log_func_args*) {});
  try {
    return RunCommandLine(std::vector<std::string>(argv + 1, argv + argc), Terminal::OfProcess());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "eigsvc: error: internal: %s; this is a bug\n", error.what());
    return kExitLocalFailure;
  }
}
