#include "server/workers/child_process.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <system_error>

#include "absl/strings/str_cat.h"

namespace eigsvc {
namespace {

absl::Status CannotRun(const std::string& program, int error) {
  return absl::UnavailableError(
      absl::StrCat("cannot run ", program, ": ", std::generic_category().message(error)));
}

// Between fork and exec in a process of many threads only async-signal-safe calls are allowed: no allocation,
// no locks.
[[noreturn]] void RunChild(char* const* argv, pid_t parent, int null_fd, int stdout_fd, int stderr_fd,
                           int error_fd) {
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(127);  // the parent ended before the line above
  // The daemon blocks and handles signals for itself; both would pass over the exec.
  struct sigaction default_action {};
  default_action.sa_handler = SIG_DFL;
  for (int number = 1; number < NSIG; ++number) sigaction(number, &default_action, nullptr);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  const bool redirected = dup2(null_fd, 0) >= 0 && dup2(stdout_fd, 1) >= 0 && dup2(stderr_fd, 2) >= 0;
  syscall(SYS_close_range, 3U, ~0U, static_cast<unsigned>(CLOSE_RANGE_CLOEXEC));
  if (redirected) execv(argv[0], argv);
  const int error = errno;
  [[maybe_unused]] const ssize_t written = write(error_fd, &error, sizeof error);
  _exit(127);
}

std::string Describe(int status) {
  return WIFSIGNALED(status) ? absl::StrCat("signal ", WTERMSIG(status))
                             : absl::StrCat("exit ", WEXITSTATUS(status));
}

}  // namespace

absl::StatusOr<std::unique_ptr<ChildProcess>> ChildProcess::Start(const std::vector<std::string>& argv,
                                                                  int stdout_fd, int stderr_fd) {
  std::vector<char*> pointers;
  for (const std::string& argument : argv) pointers.push_back(const_cast<char*>(argument.c_str()));
  pointers.push_back(nullptr);
  prctl(PR_SET_CHILD_SUBREAPER, 1);  // what a child leaves behind would otherwise wait for somebody else
  // The exec closes the pipe; an error comes through it before.
  int error_pipe[2];
  if (pipe2(error_pipe, O_CLOEXEC) != 0) return CannotRun(argv[0], errno);
  const int null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

  // A signal handler of the daemon's must not run in the child, where its self-pipe is still the daemon's.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid == 0) RunChild(pointers.data(), parent, null_fd, stdout_fd, stderr_fd, error_pipe[1]);
  const int fork_error = errno;
  pthread_sigmask(SIG_SETMASK, &before, nullptr);

  close(error_pipe[1]);
  close(null_fd);
  if (pid < 0) {
    close(error_pipe[0]);
    return CannotRun(argv[0], fork_error);
  }
  setpgid(pid, pid);  // the child does it, too; whoever is first
  int error = 0;
  ssize_t n;
  do {
    n = read(error_pipe[0], &error, sizeof error);
  } while (n < 0 && errno == EINTR);
  close(error_pipe[0]);
  const int pidfd = n > 0 ? -1 : static_cast<int>(syscall(SYS_pidfd_open, pid, 0));
  if (pidfd < 0) {
    if (n <= 0) error = errno;
    kill(-pid, SIGKILL);
    waitpid(pid, nullptr, 0);
    return CannotRun(argv[0], error);
  }
  return std::unique_ptr<ChildProcess>(new ChildProcess(pid, pidfd));
}

ChildProcess::~ChildProcess() {
  Kill();
  WaitForExit(absl::InfiniteDuration(), nullptr);
  close(pidfd_);
}

void ChildProcess::Signal(int signal) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (!reaped_) kill(-pid_, signal);
}
void ChildProcess::Kill() { Signal(SIGKILL); }
void ChildProcess::Terminate() { Signal(SIGTERM); }

bool ChildProcess::WaitForExit(absl::Duration timeout, std::string* cause) {
  const absl::Time deadline = absl::Now() + timeout;
  while (true) {
    // Rounded up: rounded down, the last millisecond would spin.
    const int64_t wait_ms = absl::ToInt64Milliseconds(deadline - absl::Now() + absl::Microseconds(999));
    pollfd ended{.fd = pidfd_, .events = POLLIN, .revents = 0};
    const int ready = poll(&ended, 1,
                           timeout == absl::InfiniteDuration()
                               ? -1
                               : static_cast<int>(std::clamp<int64_t>(wait_ms, 0, INT_MAX)));
    if (ready > 0) break;
    if (ready == 0 && absl::Now() >= deadline) return false;
  }
  std::lock_guard<std::mutex> lock(mutex_);
  if (!reaped_) {
    kill(-pid_, SIGKILL);  // what it started itself; the number is taken until the wait below
    int status = 0;
    waitpid(pid_, &status, 0);
    while (waitpid(-pid_, nullptr, 0) > 0 || errno == EINTR) {  // it came to this process, see Start
    }
    reaped_ = true;
    cause_ = Describe(status);
  }
  if (cause != nullptr) *cause = cause_;
  return true;
}

}  // namespace eigsvc
