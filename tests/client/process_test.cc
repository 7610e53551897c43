// The program itself: a private daemon per call, signals, pipes and its start.
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <string>

#include "absl/time/clock.h"
#include "client/cli/analysis_json.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/client/cli_harness.h"
#include "tests/testing/paths.h"

namespace eigsvc::cli {
namespace {

namespace fs = std::filesystem;
using ::eigsvc::cli::testing::ReadFile;
using ::eigsvc::cli::testing::TemporaryDirectory;
using ::eigsvc::testing::BinaryPath;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

class ProcessTest : public ::testing::Test {
 protected:
  void SetUp() override {
    fs::create_directory(directory_.path() + "/tmp");
    checkpoint_ = directory_.Write("mamba2.pt", "weights");
  }

  // Starts `eigsvc ARGUMENTS REDIRECTIONS` in a shell that it replaces; stdout and stderr go to files.
  pid_t Start(const std::string& arguments, const std::string& behaviour = "") {
    const pid_t child = fork();
    if (child != 0) return child;
    setenv("EIGSVC_DAEMON", BinaryPath("bin/fake_eigsvcd").c_str(), 1);
    setenv("FAKE_DAEMON", behaviour.c_str(), 1);
    setenv("TMPDIR", (directory_.path() + "/tmp").c_str(), 1);
    unsetenv("EIGSVC_SERVER");
    const std::string command = "exec " + BinaryPath("bin/eigsvc") + " " + arguments + " >" +
                                directory_.path() + "/out 2>" + directory_.path() + "/err </dev/null";
    execl("/bin/sh", "sh", "-c", command.c_str(), nullptr);
    _exit(127);
  }
  int Wait(pid_t child) {
    int status = 0;
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }
  int Run(const std::string& arguments, const std::string& behaviour = "") {
    return Wait(Start(arguments, behaviour));
  }
  std::string Out() const { return ReadFile(directory_.path() + "/out"); }
  std::string Err() const { return ReadFile(directory_.path() + "/err"); }
  // Whether the private daemon's directory, and with it the daemon, is gone.
  bool Clean() const { return fs::is_empty(directory_.path() + "/tmp"); }
  std::string Analyze(const std::string& more = "") const {
    return "analyze --task mqar --checkpoint " + checkpoint_ + " " + more;
  }

  TemporaryDirectory directory_;
  std::string checkpoint_;
};

TEST_F(ProcessTest, WithoutAServerAPrivateOneServesTheCall) {
  ASSERT_EQ(Run(Analyze("-o json")), 0) << Err();
  EXPECT_EQ(Json::parse(Out())["model"]["family"], "mamba2");
  EXPECT_THAT(Err(), IsEmpty());
  EXPECT_TRUE(Clean());
}

TEST_F(ProcessTest, ThePrivateDaemonsDirectoryIsPrivate) {
  const pid_t child = Start(Analyze(), "hangs");
  const fs::path tmp = directory_.path() + "/tmp";
  while (fs::is_empty(tmp)) absl::SleepFor(absl::Milliseconds(10));
  EXPECT_EQ(fs::status(fs::directory_iterator(tmp)->path()).permissions(), fs::perms::owner_all);
  kill(child, SIGINT);
  Wait(child);
}

TEST_F(ProcessTest, CtrlCEndsTheJobTheDaemonAndItsDirectory) {
  const pid_t child = Start(Analyze("--progress json"), "hangs");
  while (Err().find("\"phase\":\"run\"") == std::string::npos) absl::SleepFor(absl::Milliseconds(10));
  kill(child, SIGINT);
  EXPECT_EQ(Wait(child), 130);
  EXPECT_THAT(Err(), HasSubstr("cancelling analysis-1"));
  EXPECT_TRUE(Clean());
}

TEST_F(ProcessTest, AClientThatIsKilledLeavesNothingBehind) {
  const pid_t child = Start(Analyze("--progress json"), "hangs");
  while (Err().find("\"phase\":\"run\"") == std::string::npos) absl::SleepFor(absl::Milliseconds(10));
  kill(child, SIGKILL);
  EXPECT_EQ(Wait(child), -SIGKILL);
  for (int i = 0; i < 500 && !Clean(); ++i) absl::SleepFor(absl::Milliseconds(10));
  EXPECT_TRUE(Clean());
}

TEST_F(ProcessTest, ADaemonThatDiesIsQuoted) {
  EXPECT_EQ(Run(Analyze(), "dies"), 1);
  EXPECT_THAT(Err(), HasSubstr("ended before it listened"));
  EXPECT_THAT(Err(), HasSubstr("no worker binary"));
  EXPECT_TRUE(Clean());
}

TEST_F(ProcessTest, AStrangerIsNoDaemon) {
  EXPECT_EQ(Run(Analyze(), "mumbles"), 1);
  EXPECT_THAT(Err(), HasSubstr("printed \"hello\""));
  EXPECT_TRUE(Clean());
}

TEST_F(ProcessTest, AReaderThatLeavesCausesNoNoise) {
  const std::string script = "bash -c 'EIGSVC_DAEMON=" + BinaryPath("bin/fake_eigsvcd") +
                             " TMPDIR=" + directory_.path() + "/tmp " + BinaryPath("bin/eigsvc") + " " +
                             Analyze("-o ndjson") + " 2>" + directory_.path() +
                             "/err | true; echo ${PIPESTATUS[0]} >" + directory_.path() + "/out'";
  ASSERT_EQ(std::system(script.c_str()), 0);
  EXPECT_THAT(Out(), ::testing::AnyOf("141\n", "0\n"));  // 0 when all was written before `true` was gone
  EXPECT_THAT(Err(), IsEmpty());
  EXPECT_TRUE(Clean());
}

TEST_F(ProcessTest, AFullDiskIsAnError) {
  const std::string script = BinaryPath("bin/eigsvc") + " --help >/dev/full 2>" + directory_.path() + "/err";
  EXPECT_EQ(WEXITSTATUS(std::system(script.c_str())), 1);
  EXPECT_THAT(Err(), HasSubstr("cannot write to stdout: No space left on device"));
}

TEST_F(ProcessTest, TheLocaleDecidesOnUnicode) {
  setenv("LC_ALL", "C", 1);
  ASSERT_EQ(Run(Analyze()), 0);
  EXPECT_THAT(Out(), HasSubstr("|lambda|"));
  setenv("LC_ALL", "C.UTF-8", 1);
  ASSERT_EQ(Run(Analyze()), 0);
  EXPECT_THAT(Out(), HasSubstr("|λ|"));
  unsetenv("LC_ALL");
}

TEST_F(ProcessTest, HelpIsThereAtOnce) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "sanitizers slow the start";
#endif
  // Processor time of the child, the least of some: clock and caches here belong to everyone.
  double least = 1e9;
  for (int i = 0; i < 10 || (i < 100 && least > 0.020); ++i) {
    rusage before{}, after{};
    getrusage(RUSAGE_CHILDREN, &before);
    ASSERT_EQ(Run("--help"), 0);
    getrusage(RUSAGE_CHILDREN, &after);
    const auto seconds = [](const rusage& usage) {
      return usage.ru_utime.tv_sec + usage.ru_stime.tv_sec +
             (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1e-6;
    };
    least = std::min(least, seconds(after) - seconds(before));
  }
  EXPECT_THAT(Out(), StartsWith("Eigenvalue distributions"));
  EXPECT_LE(least, 0.020);
}

}  // namespace
}  // namespace eigsvc::cli
