// The program eigsvcd: what it prints, how it ends and with which code. Its workers are /bin/false: none ever
// comes up.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/testing/paths.h"

namespace eigsvc::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

class ProgramTest : public ::testing::Test {
 protected:
  ProgramTest() {
    std::string name = ::testing::TempDir() + "/program.XXXXXX";
    directory_ = mkdtemp(name.data());
  }
  ~ProgramTest() override {
    if (pid_ > 0) {
      kill(pid_, SIGKILL);
      waitpid(pid_, nullptr, 0);
    }
    for (int fd : {stdin_, stdout_}) {
      if (fd >= 0) close(fd);
    }
    std::filesystem::remove_all(directory_);
  }

  // Starts it with pipes on stdin and stdout and a file on stderr. With `by_another`, a process between
  // starts it, which is what pid_ is then.
  void Start(std::vector<std::string> flags, bool by_another = false) {
    if (std::find(flags.begin(), flags.end(), "--state-dir") == flags.end()) {
      flags.insert(flags.end(), {"--state-dir", directory_ + "/state"});
    }
    flags.insert(flags.end(), {"--worker-binary", "/bin/false"});
    std::vector<char*> argv = {const_cast<char*>("eigsvcd")};
    for (std::string& flag : flags) argv.push_back(flag.data());
    argv.push_back(nullptr);
    const std::string binary = BinaryPath("bin/eigsvcd"), log = directory_ + "/log";
    int in[2], out[2];
    ASSERT_EQ(pipe2(in, O_CLOEXEC), 0);
    ASSERT_EQ(pipe2(out, O_CLOEXEC), 0);
    const int error = open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    pid_ = fork();
    if (pid_ == 0) {
      if (by_another && fork() != 0) {
        for (int fd : {in[0], in[1], out[0], out[1]}) close(fd);
        while (true) pause();
      }
      dup2(in[0], STDIN_FILENO);
      dup2(out[1], STDOUT_FILENO);
      dup2(error, STDERR_FILENO);
      execv(binary.c_str(), argv.data());
      _exit(127);
    }
    close(in[0]);
    close(out[1]);
    close(error);
    stdin_ = in[1];
    stdout_ = out[0];
  }

  // Until `end` is in it, or the end of stdout.
  std::string ReadStdout(const std::string& end) {
    std::string all;
    while (end.empty() || all.find(end) == std::string::npos) {
      pollfd ready = {stdout_, POLLIN, 0};
      if (poll(&ready, 1, 20'000) != 1) return all + "<timeout>";
      char buffer[4096];
      const ssize_t got = read(stdout_, buffer, sizeof(buffer));
      if (got <= 0) return all;
      all.append(buffer, static_cast<size_t>(got));
    }
    return all;
  }
  std::string Log() const {
    std::ostringstream text;
    text << std::ifstream(directory_ + "/log").rdbuf();
    return text.str();
  }
  int Wait() {
    int status = 0;
    waitpid(pid_, &status, 0);
    pid_ = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }

  std::string directory_;
  pid_t pid_ = 0;
  int stdin_ = -1, stdout_ = -1;
};

TEST_F(ProgramTest, SaysWhereItListensAndEndsWellOnSigterm) {
  Start({"--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0", "--lame-duck", "0s"});
  const std::string said = ReadStdout("\n");
  EXPECT_THAT(said, StartsWith("listening 127.0.0.1:"));
  kill(pid_, SIGTERM);
  EXPECT_EQ(ReadStdout(""), "");  // that line was all
  EXPECT_EQ(Wait(), 0);
}

TEST_F(ProgramTest, SecondSignalEndsALongDrain) {
  Start({"--listen", "127.0.0.1:0", "--http-listen", "", "--lame-duck", "60s"});
  ReadStdout("\n");
  const absl::Time start = absl::Now();
  kill(pid_, SIGTERM);
  while (Log().find("shutting down") == std::string::npos && absl::Now() - start < absl::Seconds(20)) {
    absl::SleepFor(absl::Milliseconds(5));
  }
  kill(pid_, SIGINT);
  EXPECT_EQ(Wait(), 0);
  EXPECT_LT(absl::Now() - start, absl::Seconds(20));
}

TEST_F(ProgramTest, EachLineOfTheLogIsAJsonObject) {
  Start({"--listen", "127.0.0.1:0", "--http-listen", "", "--lame-duck", "0s"});
  ReadStdout("\n");
  kill(pid_, SIGTERM);
  ASSERT_EQ(Wait(), 0);
  int lines = 0;
  for (const absl::string_view line : absl::StrSplit(Log(), '\n', absl::SkipEmpty())) {
    const auto json = nlohmann::json::parse(line.begin(), line.end(), nullptr, /*allow_exceptions=*/false);
    EXPECT_TRUE(json.is_object() && json.contains("time") && json.contains("level") &&
                json.contains("message"))
        << line;
    ++lines;
  }
  EXPECT_GE(lines, 3);  // listening, shutting down, ended
}

TEST_F(ProgramTest, BadConfigurationIsExitCode2AndNamesTheFlag) {
  Start({"--listen", "nonsense"});
  EXPECT_EQ(ReadStdout(""), "");
  EXPECT_EQ(Wait(), 2);
  EXPECT_THAT(Log(), HasSubstr("--listen"));
}

TEST_F(ProgramTest, StartThatFailsIsExitCode1WithTheRemedy) {
  Start({"--listen", "192.0.2.1:50151",
         "--allow-remote"});  // an address of documentation, so never this machine's
  EXPECT_EQ(ReadStdout(""), "");
  EXPECT_EQ(Wait(), 1);
  EXPECT_THAT(Log(), HasSubstr("cannot listen on 192.0.2.1:50151"));
  EXPECT_THAT(Log(), HasSubstr("choose another with --listen"));
}

TEST_F(ProgramTest, PrintsItsConfiguration) {
  Start({"--print-config", "--queue-capacity", "7"});
  const auto json = nlohmann::json::parse(ReadStdout(""), nullptr, /*allow_exceptions=*/false);
  EXPECT_EQ(Wait(), 0);
  ASSERT_TRUE(json.is_object());
  EXPECT_THAT(json.dump(), HasSubstr("7"));
  EXPECT_FALSE(std::filesystem::exists(directory_ + "/state"));  // and does nothing else
}

TEST_F(ProgramTest, PrivateServerEndsWhenItsStdinIsClosed) {
  Start({"--private-server", "--listen", "unix:" + directory_ + "/socket"});
  EXPECT_EQ(ReadStdout("\n"), absl::StrCat("listening unix:", directory_, "/socket\n"));
  close(std::exchange(stdin_, -1));
  EXPECT_EQ(Wait(), 0);
}

TEST_F(ProgramTest, PrivateServerTakesItsScratchDirectoryAway) {
  const std::string scratch = directory_ + "/scratch";
  std::filesystem::create_directory(scratch);
  Start({"--private-server", "--listen", "unix:" + scratch + "/socket", "--scratch-dir", scratch,
         "--state-dir", scratch + "/state"});
  EXPECT_THAT(ReadStdout("\n"), StartsWith("listening unix:"));
  EXPECT_TRUE(std::filesystem::exists(scratch + "/state"));
  close(std::exchange(stdin_, -1));
  EXPECT_EQ(Wait(), 0);
  EXPECT_FALSE(std::filesystem::exists(scratch));
  EXPECT_TRUE(std::filesystem::exists(directory_));
}

TEST_F(ProgramTest, PrivateServerEndsWithAParentThatIsKilled) {
  Start({"--private-server", "--listen", "unix:" + directory_ + "/socket"}, /*by_another=*/true);
  EXPECT_THAT(ReadStdout("\n"), StartsWith("listening unix:"));
  kill(pid_, SIGKILL);
  EXPECT_EQ(ReadStdout(""), "");  // closed by its end; this test still holds the other end of its stdin
  for (int i = 0; i < 2000 && Log().find("\"ended\"") == std::string::npos; ++i)
    absl::SleepFor(absl::Milliseconds(5));
  EXPECT_THAT(Log(), HasSubstr("\"ended\""));
}

}  // namespace
}  // namespace eigsvc::testing
