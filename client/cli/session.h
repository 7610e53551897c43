// Session: what every command has: the terminal, the global options and, once asked for, a connection.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/cli/connection.h"
#include "client/cli/progress.h"
#include "client/cli/style.h"
#include "client/cli/terminal.h"

namespace eigsvc::cli {

enum class Format { kTable, kJson, kNdjson, kCsv };

struct GlobalOptions {
  std::string server;        // from --server or EIGSVC_SERVER; empty: private
  bool server_flag = false;  // --server was given on the command line
  std::string format = "table", color = "auto", progress = "auto", timeout;
  bool quiet = false;
  int verbose = 0;
};

class Session {
 public:
  Session(Terminal terminal, GlobalOptions globals);

  const GlobalOptions& globals() const { return globals_; }
  const Style& style() const { return style_; }
  Format format() const { return format_; }
  bool named_server() const { return !globals_.server.empty(); }

  // UsageError for a bad --timeout.
  absl::Status Start();
  // Opens it on the first call, to one of the servers that the name leads to.
  absl::StatusOr<Connection*> Connect();
  // Those servers, in the order in which they are tried: any of them is as likely the first, so that commands
  // spread. REQUIRES: named_server().
  const std::vector<std::string>& Servers();
  // From now on, this one of them.
  void Use(const std::string& server);
  // For commands that make no sense on a private daemon. `what`: "jobs live in a server".
  absl::Status RequireNamedServer(absl::string_view what) const;

  absl::Status Write(absl::string_view text) const { return terminal_.write_out(text); }
  std::string Env(const std::string& name) const { return terminal_.env(name); }
  // A remark to the user; nothing with --quiet.
  void Say(absl::string_view line) const;
  // One for this command.
  Progress NewProgress() const;

 private:
  const Terminal terminal_;
  const GlobalOptions globals_;
  Style style_;
  Format format_ = Format::kTable;
  absl::Time deadline_ = absl::InfiniteFuture();
  std::vector<std::string> servers_;
  std::vector<std::string> used_;  // empty: all of servers_
  std::unique_ptr<Connection> connection_;
};

}  // namespace eigsvc::cli
