#include "server/workers/child_process.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "server/workers/line_pump.h"
#include "tests/testing/status_matchers.h"

namespace eigsvc {
namespace {

using ::eigsvc::testing::StatusIs;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Runs a shell command and returns what it wrote to stdout; *cause is how it ended.
std::string Shell(const std::string& command, std::string* cause = nullptr) {
  int fds[2];
  EXPECT_EQ(pipe2(fds, O_CLOEXEC), 0);
  auto child = ChildProcess::Start({"/bin/sh", "-c", command}, fds[1], fds[1]);
  EIGSVC_EXPECT_OK(child);
  close(fds[1]);
  std::string text;
  char buffer[256];
  for (ssize_t n; (n = read(fds[0], buffer, sizeof buffer)) > 0;) text.append(buffer, static_cast<size_t>(n));
  close(fds[0]);
  std::string ended;
  EXPECT_TRUE((*child)->WaitForExit(absl::Seconds(10), &ended));
  if (cause != nullptr) *cause = ended;
  return text;
}

TEST(ChildProcessTest, TellsHowTheChildEnded) {
  std::string cause;
  EXPECT_EQ(Shell("echo out; echo err >&2; exit 7", &cause), "out\nerr\n");
  EXPECT_EQ(cause, "exit 7");
  Shell("kill -SEGV $$", &cause);
  EXPECT_EQ(cause, "signal 11");
}

TEST(ChildProcessTest, AProgramThatCannotRunIsAnError) {
  EXPECT_THAT(ChildProcess::Start({"/no/such/program"}, 1, 2),
              StatusIs(absl::StatusCode::kUnavailable,
                       AllOf(HasSubstr("/no/such/program"), HasSubstr("No such file"))));
  EXPECT_THAT(ChildProcess::Start({"/etc/passwd"}, 1, 2),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("Permission denied")));
}

// The daemon blocks signals for its signalfd, ignores SIGPIPE and holds descriptors without close-on-exec
// (libraries do).
TEST(ChildProcessTest, TheChildInheritsNeitherSignalsNorDescriptors) {
  sigset_t term, before;
  sigemptyset(&term);
  sigaddset(&term, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &term, &before);
  auto old_pipe = signal(SIGPIPE, SIG_IGN);
  const int leaked = open("/dev/null", O_RDONLY);  // no O_CLOEXEC
  const int high = dup2(leaked, 77);
  const std::string status = Shell(
      "grep -E '^Sig(Blk|Ign)' /proc/self/status; ls /proc/self/fd | tr '\\n' ' '; readlink /proc/self/fd/0");
  close(leaked);
  close(high);
  signal(SIGPIPE, old_pipe);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  // glibc keeps signals 32 and 33 to itself: no program can reset them when its parent was started ignoring
  // them.
  EXPECT_THAT(status, AllOf(HasSubstr("SigBlk:\t0000000000000000"),
                            ::testing::ContainsRegex("SigIgn:\t0000000[01][08]0000000\n"),
                            HasSubstr("0 1 2 3 /dev/null")))  // 3 is ls's own
      << status;
}

TEST(ChildProcessTest, KillReachesWhatTheChildStartedItself) {
  int fds[2];
  ASSERT_EQ(pipe2(fds, O_CLOEXEC), 0);
  EIGSVC_ASSERT_OK_AND_ASSIGN(
      auto child, ChildProcess::Start({"/bin/sh", "-c", "sleep 1000 & echo $!; wait"}, fds[1], fds[1]));
  close(fds[1]);
  char buffer[32] = {};
  ASSERT_GT(read(fds[0], buffer, sizeof buffer - 1), 0);
  int grandchild = 0;
  ASSERT_TRUE(absl::SimpleAtoi(buffer, &grandchild));
  EXPECT_EQ(kill(grandchild, 0), 0);
  EXPECT_FALSE(child->WaitForExit(absl::Milliseconds(10), nullptr));
  child->Kill();
  std::string cause;
  EXPECT_TRUE(child->WaitForExit(absl::Seconds(10), &cause));
  EXPECT_EQ(cause, "signal 9");
  // It came to this process and was waited for: no zombie is left, even where this is the first process.
  EXPECT_EQ(kill(grandchild, 0), -1);
  EXPECT_EQ(errno, ESRCH);
  EXPECT_EQ(read(fds[0], buffer, sizeof buffer), 0);
  close(fds[0]);
  child->Kill();  // nothing left; must not hit whoever has the number next
  EXPECT_TRUE(child->WaitForExit(absl::ZeroDuration(), &cause));
  EXPECT_EQ(cause, "signal 9");
}

TEST(ChildProcessTest, TheChildEndsWithItsParent) {
  int fds[2];
  ASSERT_EQ(pipe2(fds, O_CLOEXEC), 0);
  const pid_t parent = fork();
  ASSERT_GE(parent, 0);
  if (parent == 0) {
    auto child = ChildProcess::Start({"/bin/sleep", "1000"}, fds[1], fds[1]);
    const int64_t pid = child.ok() ? (*child)->pid() : 0;
    if (write(fds[1], &pid, sizeof pid) != sizeof pid) _exit(1);
    raise(SIGKILL);
  }
  close(fds[1]);
  int64_t pid = 0;
  ASSERT_EQ(read(fds[0], &pid, sizeof pid), static_cast<ssize_t>(sizeof pid));
  ASSERT_GT(pid, 0);
  waitpid(parent, nullptr, 0);
  char byte;
  EXPECT_EQ(read(fds[0], &byte, 1), 0) << "the child still holds the pipe";
  close(fds[0]);
}

std::vector<std::string> Pumped(const std::string& command) {
  std::vector<std::string> lines;
  {
    LinePump pump([&lines](const std::string& line) { lines.push_back(line); });
    EIGSVC_EXPECT_OK(pump.Start());
    auto child = ChildProcess::Start({"/bin/sh", "-c", command}, pump.write_fd(), pump.write_fd());
    EIGSVC_EXPECT_OK(child);
    pump.CloseWriteEnd();
    EXPECT_TRUE((*child)->WaitForExit(absl::Seconds(10), nullptr));
  }
  return lines;
}

TEST(LinePumpTest, PassesLinesOnWithoutControlCharacters) {
  EXPECT_THAT(Pumped("printf 'one\\n\\ntwo\\033[31m\\ttab\\nlast'"),
              ElementsAre("one", "", "two [31m\ttab", "last"));
}

TEST(LinePumpTest, CutsLongLinesAndDropsFloods) {
  const std::vector<std::string> cut = Pumped("head -c 5000 /dev/zero | tr '\\0' x; echo; echo short");
  ASSERT_EQ(cut.size(), 2u);
  EXPECT_EQ(cut[0], std::string(4096, 'x') + " [cut]");
  EXPECT_EQ(cut[1], "short");
  const std::vector<std::string> flood = Pumped("seq 1 100000");
  EXPECT_GE(flood.size(), 201u);
  EXPECT_LT(flood.size(), 5000u);
  EXPECT_THAT(flood.back(), HasSubstr("more lines dropped"));
}

TEST(LinePumpTest, EndsAlthoughAGrandchildHoldsThePipe) {
  const absl::Time start = absl::Now();
  EXPECT_THAT(Pumped("setsid sleep 20 & echo done"), ElementsAre("done"));
  EXPECT_LT(absl::Now() - start, absl::Seconds(10));
}

}  // namespace
}  // namespace eigsvc
