// Interrupt: Ctrl-C, SIGTERM and SIGHUP as a count that waiting loops look at every few milliseconds.
// Handlers only count: what a first and a second signal mean is the waiting loop's business.
#pragma once

#include "absl/status/status.h"

namespace eigsvc::cli {

class Interrupt {
 public:
  // Installs the handlers and ignores SIGPIPE (a broken stdout is an error of write()).
  static void Install();
  // Signals since Install or Reset.
  static int count();
  // Signals that somebody has acted upon. Calls begin behind these: one that came between two calls is the
  // next one's, and what is called because of a signal is not cut short by it.
  static int acknowledged();
  static void Acknowledge(int count);
  // For tests: as if no signal had come.
  static void Reset();
  // OK, or the exit status of the newest signal.
  static absl::Status Check();
};

}  // namespace eigsvc::cli
