// Terminal: the standard streams, what is known of them, and the environment, in one place so that tests can
// stand in. stdout carries the result and nothing else; everything meant for eyes only goes to stderr.
#pragma once

#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace eigsvc::cli {

struct Terminal {
  std::function<absl::Status(absl::string_view)> write_out;  // SignalError(SIGPIPE) once the reader left
  std::function<void(absl::string_view)> write_err;
  std::function<std::string(const std::string&)> env;  // empty when unset
  bool out_is_terminal = false;
  bool err_is_terminal = false;
  bool utf8 = false;  // by LC_ALL, LC_CTYPE, LANG
  int columns = 100;  // of the terminal; 100 when there is none

  static Terminal OfProcess();
  // --color auto: a terminal, no NO_COLOR, TERM not "dumb".
  bool ColorByDefault() const;
};

// Whether the locale's variables, in their order of precedence, name UTF-8.
bool LocaleIsUtf8(const std::function<std::string(const std::string&)>& env);

}  // namespace eigsvc::cli
