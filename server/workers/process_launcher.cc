#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "models/base/status_macros.h"
#include "server/workers/child_process.h"
#include "server/workers/grpc_transport.h"
#include "server/workers/line_pump.h"
#include "server/workers/worker.h"
#include "spdlog/spdlog.h"

namespace eigsvc {
namespace {

// Who can open the socket can run jobs and name any path: the directory must be ours alone.
absl::Status MakePrivateDirectory(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(std::filesystem::path(path).parent_path(), error);
  if (!error && mkdir(path.c_str(), 0700) != 0 && errno != EEXIST)
    error.assign(errno, std::generic_category());
  struct stat info {};
  if (!error && stat(path.c_str(), &info) != 0) error.assign(errno, std::generic_category());
  if (error)
    return absl::UnavailableError(
        absl::StrCat("cannot make the socket directory ", path, ": ", error.message()));
  if (!S_ISDIR(info.st_mode) || info.st_uid != geteuid() || (info.st_mode & 077) != 0) {
    return absl::UnavailableError(absl::StrCat(
        "the socket directory ", path, " must belong to this user with mode 0700; remove it or fix it"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> NewSocketPath(const std::string& directory) {
  static std::atomic<int> next{0};
  std::string path = absl::StrCat(directory, "/w", getpid(), "-", next++);
  if (path.size() >= sizeof(sockaddr_un::sun_path)) {
    return absl::UnavailableError(
        absl::StrCat("the socket path ", path, " is longer than the ", sizeof(sockaddr_un::sun_path) - 1,
                     " bytes that a Unix socket allows; choose a shorter --state-dir"));
  }
  unlink(path.c_str());
  return path;
}

// A child whose output goes to the log and whose socket goes with it.
class LoggedProcess : public WorkerProcess {
 public:
  LoggedProcess(std::unique_ptr<LinePump> pump, std::unique_ptr<ChildProcess> child, std::string socket_path)
      : pump_(std::move(pump)), child_(std::move(child)), socket_path_(std::move(socket_path)) {}
  ~LoggedProcess() override {
    child_.reset();
    unlink(socket_path_.c_str());
  }
  int64_t pid() const override { return child_->pid(); }
  void Kill() override { child_->Kill(); }
  void Terminate() override { child_->Terminate(); }
  bool WaitForExit(absl::Duration timeout, std::string* cause) override {
    return child_->WaitForExit(timeout, cause);
  }

 private:
  std::unique_ptr<LinePump> pump_;
  std::unique_ptr<ChildProcess> child_;
  const std::string socket_path_;
};

absl::StatusOr<LaunchedWorker> Launch(const ProcessLauncherOptions& options, const std::string& device) {
  EIGSVC_RETURN_IF_ERROR(MakePrivateDirectory(options.socket_dir));
  EIGSVC_ASSIGN_OR_RETURN(const std::string socket_path, NewSocketPath(options.socket_dir));
  auto pump = std::make_unique<LinePump>(
      [device](const std::string& line) { spdlog::info("worker {}: {}", device, line); });
  EIGSVC_RETURN_IF_ERROR(pump->Start());
  std::vector<std::string> argv = {options.binary, "--socket", socket_path, "--device", device};
  argv.insert(argv.end(), options.extra_flags.begin(), options.extra_flags.end());
  EIGSVC_ASSIGN_OR_RETURN(std::unique_ptr<ChildProcess> child,
                          ChildProcess::Start(argv, pump->write_fd(), pump->write_fd()));
  pump->CloseWriteEnd();
  LaunchedWorker launched;
  launched.process = std::make_unique<LoggedProcess>(std::move(pump), std::move(child), socket_path);
  launched.transport = NewGrpcTransport(socket_path);
  return launched;
}

// Up to 64 KiB until the writer closes or the deadline passes.
std::string ReadUntil(int fd, absl::Time deadline) {
  std::string text;
  char buffer[4096];
  while (text.size() < (size_t{64} << 10)) {
    pollfd readable{.fd = fd, .events = POLLIN, .revents = 0};
    const int64_t wait_ms = absl::ToInt64Milliseconds(deadline - absl::Now());
    if (wait_ms <= 0) break;
    const int ready = poll(&readable, 1, static_cast<int>(wait_ms));
    if (ready < 0 && errno == EINTR) continue;
    const ssize_t n = ready > 0 ? read(fd, buffer, sizeof buffer) : 0;
    if (n <= 0) break;
    text.append(buffer, static_cast<size_t>(n));
  }
  return text;
}

}  // namespace

WorkerLauncher ProcessLauncher(ProcessLauncherOptions options) {
  return [options = std::move(options)](const std::string& device) { return Launch(options, device); };
}

absl::StatusOr<std::vector<std::string>> ListDevices(const std::string& binary) {
  LinePump errors([](const std::string& line) { spdlog::info("worker --list-devices: {}", line); });
  EIGSVC_RETURN_IF_ERROR(errors.Start());
  int fds[2];
  if (pipe2(fds, O_CLOEXEC) != 0) {
    return absl::UnavailableError(
        absl::StrCat("cannot make a pipe: ", std::generic_category().message(errno)));
  }
  auto child = ChildProcess::Start({binary, "--list-devices"}, fds[1], errors.write_fd());
  close(fds[1]);
  errors.CloseWriteEnd();
  // Loading LibTorch and starting the CUDA driver take seconds on a cold machine.
  const absl::Time deadline = absl::Now() + absl::Seconds(60);
  const std::string text = child.ok() ? ReadUntil(fds[0], deadline) : "";
  close(fds[0]);
  EIGSVC_RETURN_IF_ERROR(child.status());

  std::string cause = "no end within a minute";
  (*child)->WaitForExit(deadline - absl::Now(), &cause);
  std::vector<std::string> devices;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    line = absl::StripAsciiWhitespace(line);
    if (!line.empty()) devices.emplace_back(line);
  }
  if (cause != "exit 0" || devices.empty()) {
    return absl::UnavailableError(
        absl::StrCat(binary, " --list-devices found no device (", cause,
                     "); its messages are in the log. Name the devices with --devices"));
  }
  return devices;
}

}  // namespace eigsvc
