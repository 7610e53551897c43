#include "client/cli/session.h"

#include <algorithm>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/cli/exit_code.h"
#include "client/cli/servers.h"
#include "models/base/status_macros.h"

namespace eigsvc::cli {

Session::Session(Terminal terminal, GlobalOptions globals)
    : terminal_(std::move(terminal)), globals_(std::move(globals)) {
  style_.color = globals_.color == "always" || (globals_.color == "auto" && terminal_.ColorByDefault());
  style_.utf8 = terminal_.utf8;
  style_.columns = terminal_.columns;
  if (globals_.format == "json") format_ = Format::kJson;
  if (globals_.format == "ndjson") format_ = Format::kNdjson;
  if (globals_.format == "csv") format_ = Format::kCsv;
}

absl::Status Session::Start() {
  if (globals_.timeout.empty()) return absl::OkStatus();
  absl::Duration timeout;
  if (!absl::ParseDuration(globals_.timeout, &timeout) || timeout <= absl::ZeroDuration()) {
    return UsageError(
        absl::StrCat("--timeout must be a time such as 30s, 5m or 1h30m, not \"", globals_.timeout, "\""));
  }
  deadline_ = absl::Now() + timeout;
  return absl::OkStatus();
}

absl::StatusOr<Connection*> Session::Connect() {
  if (connection_ == nullptr) {
    EIGSVC_ASSIGN_OR_RETURN(connection_,
                            Connection::Open({.server = globals_.server,
                                              .servers = !named_server() ? std::vector<std::string>()
                                                         : used_.empty() ? Servers()
                                                                         : used_,
                                              .daemon_binary = DaemonBinary(terminal_.env("EIGSVC_DAEMON")),
                                              .show_daemon_log = globals_.verbose > 0,
                                              .deadline = deadline_}));
  }
  return connection_.get();
}

const std::vector<std::string>& Session::Servers() {
  if (servers_.empty()) {
    servers_ = ServersOf(globals_.server);
    if (servers_.size() > 1) {
      std::rotate(servers_.begin(), servers_.begin() + std::random_device()() % servers_.size(),
                  servers_.end());
    }
  }
  return servers_;
}

void Session::Use(const std::string& server) {
  used_ = {server};
  connection_ = nullptr;
}

absl::Status Session::RequireNamedServer(absl::string_view what) const {
  if (named_server()) return absl::OkStatus();
  return UsageError(absl::StrCat(what, ": name one with --server HOST:PORT or EIGSVC_SERVER"));
}

void Session::Say(absl::string_view line) const {
  if (!globals_.quiet) terminal_.write_err(absl::StrCat(line, "\n"));
}

Progress Session::NewProgress() const {
  ProgressMode mode = ProgressMode::kNone;
  if (globals_.progress == "bar") mode = ProgressMode::kBar;
  if (globals_.progress == "plain") mode = ProgressMode::kPlain;
  if (globals_.progress == "json") mode = ProgressMode::kJson;
  if (globals_.progress == "auto" && !globals_.quiet) {
    mode = terminal_.err_is_terminal ? ProgressMode::kBar : ProgressMode::kPlain;
  }
  return Progress(mode, terminal_.write_err, style_);
}

}  // namespace eigsvc::cli
