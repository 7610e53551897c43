// What a worker can no longer do once it is in its sandbox. Each test is a child process: there is no way
// out.
#include "server/reader/sandbox.h"

#include <sched.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <thread>

#include "gtest/gtest.h"

namespace eigsvc {
namespace {

// The number of the first check of `child` that failed, 0 for none.
template <typename Child>
int InChild(const Child& child) {
  const pid_t pid = fork();
  if (pid == 0) _exit(child());
  int status = 0;
  waitpid(pid, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

bool Refused(int64_t result) { return result == -1 && errno == EPERM; }

TEST(SandboxTest, RefusesNetworkProgramsAndOtherProcesses) {
  EXPECT_EQ(InChild([] {
              if (unshare(0) != 0 || socket(AF_INET, SOCK_STREAM, 0) < 0) return 100;  // allowed before
              if (!EnterSandbox().ok()) return 1;
              if (!Refused(socket(AF_INET, SOCK_STREAM, 0))) return 2;
              if (!Refused(socket(AF_INET6, SOCK_DGRAM, 0))) return 3;
              char name[] = "/bin/true";
              char* const arguments[] = {name, nullptr};
              if (!Refused(execv(name, arguments))) return 4;
              if (!Refused(ptrace(PTRACE_TRACEME, 0, nullptr, nullptr))) return 5;
              if (!Refused(unshare(0))) return 6;
              if (!Refused(syscall(SYS_clone, CLONE_NEWUTS | SIGCHLD, nullptr, nullptr, nullptr, nullptr)))
                return 7;
              if (syscall(SYS_clone3, nullptr, 0) != -1 || errno != ENOSYS) return 8;
              return 0;
            }),
            0);
}

TEST(SandboxTest, LeavesWhatAWorkerDoes) {
  EXPECT_EQ(InChild([] {
              if (!EnterSandbox().ok()) return 1;
              int pair[2];
              if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0) return 2;
              if (socket(AF_UNIX, SOCK_STREAM, 0) < 0) return 3;
              bool ran = false;
              std::thread([&] { ran = true; }).join();
              return ran ? 0 : 4;
            }),
            0);
}

TEST(SandboxTest, HoldsForThreadsThatRunAlready) {
  EXPECT_EQ(InChild([] {
              std::atomic<bool> entered = false;
              bool refused = false;
              std::thread other([&] {
                while (!entered) std::this_thread::yield();
                refused = Refused(socket(AF_INET, SOCK_STREAM, 0));
              });
              const bool ok = EnterSandbox().ok();
              entered = true;
              other.join();
              return ok && refused ? 0 : 1;
            }),
            0);
}

}  // namespace
}  // namespace eigsvc
