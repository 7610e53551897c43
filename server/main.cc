// eigsvcd: reads the configuration, starts the Server and waits for a reason to end it. Signals are read from
// a descriptor, never handled; stdout carries one line, when the daemon listens.
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <string>
#include <system_error>
#include <thread>

#include "absl/strings/str_cat.h"
#include "server/config/config.h"
#include "server/log.h"
#include "server/server.h"
#include "spdlog/spdlog.h"

namespace eigsvc {
namespace {

constexpr int kExitStartFailed = 1, kExitBadConfig = 2;

// Blocked in every thread, since threads inherit the mask; the descriptor is the only receiver.
int OpenSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);
  return signalfd(-1, &signals, SFD_CLOEXEC);
}

// A private daemon ends with the client that started it, even when that is killed: by a signal from the
// kernel, and, for parents that keep the other end, by the end of stdin. Returns the descriptor to watch, or
// -1.
int FollowParent(pid_t parent) {
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  // It may have died before the line above; then someone else is the parent now.
  if (getppid() != parent) kill(getpid(), SIGTERM);
  struct stat info {};
  const bool tied = fstat(STDIN_FILENO, &info) == 0 && (S_ISFIFO(info.st_mode) || S_ISSOCK(info.st_mode));
  return tied ? STDIN_FILENO : -1;
}

// Blocks until a signal comes (its name) or `other` can be read (empty).
std::string WaitForSignal(int signals, int other) {
  while (true) {
    pollfd waits[] = {{signals, POLLIN, 0}, {other, POLLIN, 0}};
    if (poll(waits, 2, -1) < 0 && errno != EINTR) return absl::StrCat("poll failed: ", strerror(errno));
    signalfd_siginfo info = {};
    if (waits[0].revents != 0 && read(signals, &info, sizeof(info)) == sizeof(info)) {
      return strsignal(static_cast<int>(info.ssi_signo));
    }
    if (waits[1].revents != 0) return "";
  }
}

std::string WaitForReason(int signals, int parent) {
  while (true) {
    const std::string signal = WaitForSignal(signals, parent);
    if (!signal.empty()) return signal;
    char ignored[256];
    if (read(parent, ignored, sizeof(ignored)) <= 0) return "stdin was closed";
  }
}

// Drains; a second signal ends it at once.
void ShutDown(Server& server, int signals) {
  const int drained = eventfd(0, EFD_CLOEXEC);
  std::thread drain([&] {
    server.Shutdown();
    eventfd_write(drained, 1);
  });
  if (const std::string signal = WaitForSignal(signals, drained); !signal.empty()) {
    spdlog::info("ending now: {}", signal);
    server.Hurry();
  }
  drain.join();
  close(drained);
}

int Main(int argc, char** argv) {
  const pid_t parent = getppid();
  const absl::StatusOr<ParsedConfig> parsed = ParseServerConfig(argc, argv);
  if (!parsed.ok()) {
    fprintf(stderr, "eigsvcd: %s\n", std::string(parsed.status().message()).c_str());
    return kExitBadConfig;
  }
  if (!parsed->exit_text.empty() || parsed->config.print_config) {
    const std::string text = parsed->exit_text.empty() ? ConfigToJson(parsed->config) : parsed->exit_text;
    printf("%s%s", text.c_str(), !text.empty() && text.back() == '\n' ? "" : "\n");
    return fflush(stdout) == 0 ? 0 : kExitStartFailed;
  }
  const ServerConfig& config = parsed->config;
  const int signals = OpenSignals();
  const int parent_end = config.private_server ? FollowParent(parent) : -1;
  InitLog(config);

  absl::StatusOr<std::unique_ptr<Server>> server = Server::Start(config, {.launcher = {}, .on_rpc = LogRpc});
  if (!server.ok()) {
    spdlog::error("eigsvcd cannot start: {}", std::string(server.status().message()));
    return kExitStartFailed;
  }
  spdlog::info("listening on {}{}", (*server)->address(),
               (*server)->http_port() == 0 ? "" : absl::StrCat(", HTTP on port ", (*server)->http_port()));
  printf("listening %s\n", (*server)->address().c_str());
  fflush(stdout);

  spdlog::info("shutting down: {}", WaitForReason(signals, parent_end));
  if (config.private_server) (*server)->Hurry();
  ShutDown(**server, signals);
  server->reset();
  spdlog::info("ended");
  // Its client does so, too, unless it was killed.
  std::error_code ignored;
  if (!config.scratch_dir.empty()) std::filesystem::remove_all(config.scratch_dir, ignored);
  return 0;
}

}  // namespace
}  // namespace eigsvc

int main(int argc, char** argv) { return eigsvc::Main(argc, argv); }
