#include "client/cli/terminal.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "client/cli/exit_code.h"

namespace eigsvc::cli {
namespace {

// Returns errno of the failure, 0 when all was written.
int WriteAll(int fd, absl::string_view text) {
  while (!text.empty()) {
    const ssize_t written = write(fd, text.data(), text.size());
    if (written < 0 && errno != EINTR) return errno;
    if (written > 0) text.remove_prefix(static_cast<size_t>(written));
  }
  return 0;
}

int TerminalColumns() {
  int columns = 0;
  if (const char* text = std::getenv("COLUMNS");
      text != nullptr && absl::SimpleAtoi(text, &columns) && columns > 0) {
    return columns;
  }
  for (const int fd : {STDOUT_FILENO, STDERR_FILENO}) {
    winsize size{};
    if (ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  }
  return 100;
}

}  // namespace

Terminal Terminal::OfProcess() {
  Terminal terminal;
  terminal.write_out = [](absl::string_view text) {
    const int error = WriteAll(STDOUT_FILENO, text);
    if (error == 0) return absl::OkStatus();
    if (error == EPIPE) return SignalError(SIGPIPE, "the reader of stdout left");
    return LocalError(absl::StrCat("cannot write to stdout: ", std::strerror(error)));
  };
  terminal.write_err = [](absl::string_view text) { WriteAll(STDERR_FILENO, text); };
  terminal.env = [](const std::string& name) {
    const char* value = std::getenv(name.c_str());
    return std::string(value == nullptr ? "" : value);
  };
  terminal.out_is_terminal = isatty(STDOUT_FILENO) == 1;
  terminal.err_is_terminal = isatty(STDERR_FILENO) == 1;
  terminal.utf8 = LocaleIsUtf8(terminal.env);
  terminal.columns = std::clamp(TerminalColumns(), 60, 400);
  return terminal;
}

bool Terminal::ColorByDefault() const {
  return out_is_terminal && env("NO_COLOR").empty() && env("TERM") != "dumb";
}

bool LocaleIsUtf8(const std::function<std::string(const std::string&)>& env) {
  for (const char* name : {"LC_ALL", "LC_CTYPE", "LANG"}) {
    const std::string value = absl::AsciiStrToLower(env(name));
    if (!value.empty()) return absl::StrContains(value, "utf-8") || absl::StrContains(value, "utf8");
  }
  return false;
}

}  // namespace eigsvc::cli
