#include "client/cli/private_daemon.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "client/cli/exit_code.h"
#include "client/cli/interrupt.h"
#include "models/base/status_macros.h"

extern char** environ;

namespace eigsvc::cli {
namespace {

constexpr absl::string_view kReadyPrefix = "listening ";
// sockaddr_un holds 108 bytes with the terminating one; "/socket" and the random suffix need room.
constexpr size_t kMaxSocketPath = 107;

struct Pipe {
  int read = -1, write = -1;
};

// Both ends close on exec: the daemon keeps only what Spawn hands it.
absl::StatusOr<Pipe> MakePipe() {
  std::array<int, 2> ends{};
  if (pipe2(ends.data(), O_CLOEXEC) != 0) {
    return LocalError(absl::StrCat("cannot start a private daemon: pipe: ", std::strerror(errno)));
  }
  return Pipe{ends[0], ends[1]};
}

}  // namespace

std::string DaemonBinary(const std::string& environment_value) {
  if (!environment_value.empty()) return environment_value;
  std::error_code error;
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe", error);
  return (self.parent_path() / "eigsvcd").string();
}

absl::StatusOr<std::unique_ptr<PrivateDaemon>> PrivateDaemon::Start(const Options& options) {
  if (access(options.binary.c_str(), X_OK) != 0) {
    return LocalError(
        absl::StrCat("no server was named and the program for a private one, ", options.binary,
                     ", is missing (", std::strerror(errno),
                     "); name a server with --server HOST:PORT or EIGSVC_SERVER, or the program with "
                     "EIGSVC_DAEMON=/path/to/eigsvcd"));
  }
  std::unique_ptr<PrivateDaemon> daemon(new PrivateDaemon);
  EIGSVC_RETURN_IF_ERROR(daemon->MakeDirectory());
  EIGSVC_RETURN_IF_ERROR(daemon->Spawn(options));
  EIGSVC_RETURN_IF_ERROR(daemon->AwaitReady(options));
  return daemon;
}

PrivateDaemon::~PrivateDaemon() {
  if (process_ > 0) {
    // A user who pressed Ctrl-C twice does not wait for anyone's good manners.
    const absl::Duration patience = Interrupt::count() >= 2 ? absl::Milliseconds(100) : absl::Seconds(2);
    close(stdin_fd_);
    if (!Exited(patience)) kill(process_, SIGTERM);
    if (!Exited(patience)) {
      kill(-process_, SIGKILL);  // its group; workers end with their parent
      Exited(absl::Seconds(5));
    }
  }
  if (stdout_fd_ >= 0) close(stdout_fd_);
  std::error_code ignored;
  if (!directory_.empty()) std::filesystem::remove_all(directory_, ignored);
}

absl::Status PrivateDaemon::MakeDirectory() {
  const char* base = std::getenv("TMPDIR");
  std::string pattern = absl::StrCat(base == nullptr || *base == '\0' ? "/tmp" : base, "/eigsvc.XXXXXX");
  if (pattern.size() + std::strlen("/socket") > kMaxSocketPath) pattern = "/tmp/eigsvc.XXXXXX";
  if (mkdtemp(pattern.data()) == nullptr) {  // mode 0700
    return LocalError(absl::StrCat("cannot make the private daemon's directory ", pattern, ": ",
                                   std::strerror(errno), "; set TMPDIR to a writable directory"));
  }
  directory_ = pattern;
  address_ = absl::StrCat("unix:", directory_, "/socket");
  return absl::OkStatus();
}

absl::Status PrivateDaemon::Spawn(const Options& options) {
  EIGSVC_ASSIGN_OR_RETURN(const Pipe input, MakePipe());
  EIGSVC_ASSIGN_OR_RETURN(const Pipe output, MakePipe());
  stdin_fd_ = input.write;
  stdout_fd_ = output.read;

  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, input.read, STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions, output.write, STDOUT_FILENO);
  const std::string log = absl::StrCat(directory_, "/log");
  if (!options.show_log) {
    posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, log.c_str(), O_CREAT | O_WRONLY | O_APPEND,
                                     0600);
  }
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  // A group of its own: Ctrl-C at the terminal must reach this program only, which then cancels the job in
  // order. Signals this program ignores or counts are default again in the daemon.
  sigset_t defaults;
  sigemptyset(&defaults);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGPIPE}) sigaddset(&defaults, signal);
  posix_spawnattr_setpgroup(&attributes, 0);
  posix_spawnattr_setsigdefault(&attributes, &defaults);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGDEF);

  std::vector<std::string> arguments = {options.binary,  "--private-server",
                                        "--listen",      address_,
                                        "--state-dir",   absl::StrCat(directory_, "/state"),
                                        "--scratch-dir", directory_};
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  const int error =
      posix_spawn(&process_, options.binary.c_str(), &actions, &attributes, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  close(input.read);
  close(output.write);
  if (error != 0) {
    process_ = -1;
    close(stdin_fd_);
    return LocalError(absl::StrCat("cannot start ", options.binary, ": ", std::strerror(error)));
  }
  return absl::OkStatus();
}

absl::Status PrivateDaemon::AwaitReady(const Options& options) {
  const absl::Time give_up = absl::Now() + options.start_timeout;
  std::string line;
  while (absl::Now() < give_up) {
    EIGSVC_RETURN_IF_ERROR(Interrupt::Check());
    pollfd ready{stdout_fd_, POLLIN, 0};
    if (poll(&ready, 1, 50) <= 0) continue;
    char byte = 0;
    const ssize_t got = read(stdout_fd_, &byte, 1);
    if (got == 0) {
      Exited(absl::Seconds(1));
      return LocalError(
          absl::StrCat("the private daemon ", options.binary, " ended before it listened", LogTail()));
    }
    if (got < 0) continue;
    if (byte != '\n') {
      line.push_back(byte);
      continue;
    }
    if (absl::StartsWith(line, kReadyPrefix)) {
      address_ = line.substr(kReadyPrefix.size());
      return absl::OkStatus();
    }
    return LocalError(absl::StrCat(options.binary, " printed \"", line.substr(0, 200),
                                   "\" where \"listening ADDRESS\" was due; is EIGSVC_DAEMON an eigsvcd?"));
  }
  return LocalError(absl::StrCat("the private daemon ", options.binary, " did not listen within ",
                                 absl::FormatDuration(options.start_timeout), LogTail()));
}

bool PrivateDaemon::Exited(absl::Duration within) {
  const absl::Time give_up = absl::Now() + within;
  while (process_ > 0) {
    const pid_t waited = waitpid(process_, &wait_status_, WNOHANG);
    if (waited == process_ || (waited < 0 && errno == ECHILD)) {
      process_ = -1;
      break;
    }
    if (absl::Now() >= give_up) return false;
    absl::SleepFor(absl::Milliseconds(5));
  }
  return true;
}

std::string PrivateDaemon::LogTail() const {
  std::ifstream file(absl::StrCat(directory_, "/log"));
  std::stringstream content;
  content << file.rdbuf();
  const std::string text = content.str();
  if (text.empty()) return "; run with -v to see its log";
  std::vector<absl::string_view> lines = absl::StrSplit(absl::StripSuffix(text, "\n"), '\n');
  std::string tail = "; its log ends:";
  for (size_t i = lines.size() > 5 ? lines.size() - 5 : 0; i < lines.size(); ++i) {
    absl::StrAppend(&tail, "\n  ", lines[i].substr(0, 500));
  }
  return tail;
}

}  // namespace eigsvc::cli
