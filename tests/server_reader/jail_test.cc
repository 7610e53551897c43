// What is left of a process once it is in jail. Each case is a child process: there is no way out.
#include "server/reader/jail.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <new>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace eigsvc {
namespace {

constexpr int64_t kMore = int64_t{64} << 20;

// The exit code of a child that runs `inside` in jail; -N: it ended by signal N.
template <typename Inside>
int InJail(const Inside& inside) {
  const pid_t pid = fork();
  if (pid == 0) {
    const uid_t before = geteuid();
    if (!EnterJail(kMore, 0).ok()) _exit(101);
    _exit(inside(before));
  }
  int status = 0;
  waitpid(pid, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

// Whether a child that does what is not allowed is ended for it.
template <typename Call>
bool IsRefused(const Call& call) {
  return InJail([&](uid_t) { return static_cast<int64_t>(call()) == -1 ? 50 : 51; }) == -SIGSYS;
}

TEST(JailTest, RefusesAllButMemoryAndOpenDescriptors) {
  if (kSanitized) return;  // see jail.h, and so below
  EXPECT_TRUE(IsRefused([] { return open("/dev/null", O_RDONLY); }));
  EXPECT_TRUE(IsRefused([] { return socket(AF_UNIX, SOCK_STREAM, 0); }));
  EXPECT_TRUE(IsRefused([] { return fork(); }));
  EXPECT_TRUE(IsRefused([] { return kill(getppid(), 0); }));
  EXPECT_TRUE(IsRefused([] { return unlink("/tmp/none"); }));
  EXPECT_TRUE(IsRefused([] { return fcntl(0, F_DUPFD, 0); }));
  EXPECT_TRUE(IsRefused([] {
    char name[] = "/bin/true";
    char* const arguments[] = {name, nullptr};
    return execv(name, arguments);
  }));
}

TEST(JailTest, MemoryCannotBeMadeExecutable) {
  if (kSanitized) return;
  EXPECT_TRUE(IsRefused([] {
    return reinterpret_cast<intptr_t>(
        mmap(nullptr, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  }));
  EXPECT_TRUE(IsRefused([] {
    void* const page = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return mprotect(page, 4096, PROT_READ | PROT_EXEC);
  }));
}

TEST(JailTest, LeavesMemoryAndOpenDescriptors) {
  int pair[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
  EXPECT_EQ(InJail([&](uid_t) {
              std::vector<std::string> grown;
              for (int i = 0; i < 1000; ++i) grown.push_back(std::string(20000, 'x'));
              return send(pair[1], grown[999].data(), 5, MSG_NOSIGNAL) == 5 ? 7 : 8;
            }),
            7);
  char buffer[5];
  EXPECT_EQ(read(pair[0], buffer, sizeof buffer), 5);
  close(pair[0]);
  close(pair[1]);
}

TEST(JailTest, AddressesAreLimited) {
  if (kSanitized) return;
  EXPECT_EQ(InJail([](uid_t) {
              void* const within = ::operator new(kMore / 2, std::nothrow);
              void* const beyond = ::operator new(kMore, std::nothrow);
              return within != nullptr && beyond == nullptr ? 7 : 8;
            }),
            7);
}

// The ids, limits and the filter as the kernel sees them, read from outside while the child waits.
TEST(JailTest, IsWhatTheKernelSaysItIs) {
  int pair[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
  const pid_t pid = fork();
  if (pid == 0) {
    const bool ok = EnterJail(kMore, 0).ok();
    char go = ok ? 'y' : 'n';
    const bool waited = send(pair[1], &go, 1, MSG_NOSIGNAL) == 1 && read(pair[1], &go, 1) == 1;
    _exit(waited ? 0 : 1);
  }
  char ready = 0;
  ASSERT_EQ(read(pair[0], &ready, 1), 1);
  EXPECT_EQ(ready, 'y');
  const auto text = [&](const char* name) {
    std::string all;
    FILE* const file = std::fopen(("/proc/" + std::to_string(pid) + "/" + name).c_str(), "r");
    for (int c; file != nullptr && (c = std::fgetc(file)) != EOF;) all.push_back(static_cast<char>(c));
    if (file != nullptr) std::fclose(file);
    return all;
  };
  const std::string status = text("status"), limits = text("limits");
  if (!kSanitized) {
    EXPECT_NE(status.find("Seccomp:\t2"), std::string::npos) << status;
    EXPECT_NE(status.find("NoNewPrivs:\t1"), std::string::npos) << status;
  }
  if (geteuid() == 0) {
    EXPECT_NE(status.find("Uid:\t65534\t65534\t65534\t65534"), std::string::npos) << status;
    EXPECT_NE(status.find("Gid:\t65534\t65534\t65534\t65534"), std::string::npos) << status;
    EXPECT_NE(status.find("CapEff:\t0000000000000000"), std::string::npos) << status;
  }
  if (!kSanitized) {
    EXPECT_NE(limits.find("Max open files            0                    0"), std::string::npos) << limits;
    EXPECT_EQ(limits.find("Max address space         unlimited"), std::string::npos) << limits;
  }
  EXPECT_EQ(write(pair[0], "x", 1), 1);
  int ended = 0;
  waitpid(pid, &ended, 0);
  EXPECT_EQ(ended, 0);
  close(pair[0]);
  close(pair[1]);
}

}  // namespace
}  // namespace eigsvc
