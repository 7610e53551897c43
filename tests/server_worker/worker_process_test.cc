// The program itself, from outside: command line, exit codes, life and death.
#include <sys/wait.h>

#include <cstdio>
#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/server_worker/worker_fixture.h"
#include "tests/testing/paths.h"

namespace eigsvc {
namespace {

using ::eigsvc::testing::BinaryPath;
using ::eigsvc::testing::SaveMamba2;
using ::eigsvc::testing::SmallMqar;
using ::eigsvc::testing::TempDir;
using ::testing::AllOf;
using ::testing::AnyOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

struct Ended {
  int exit_code = -1;
  std::string output;  // both streams
};

Ended Shell(const std::string& script) {
  Ended ended;
  FILE* pipe =
      popen(absl::StrCat("exec 2>&1; W=", BinaryPath("bin/eigsvc-worker"), "; ", script).c_str(), "r");
  for (int c; (c = std::fgetc(pipe)) != EOF;) ended.output.push_back(static_cast<char>(c));
  const int status = pclose(pipe);
  ended.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  return ended;
}

// 'Z' for a dead process that nobody waited for, '-' for none at all.
char ProcessState(const std::string& pid) {
  std::ifstream stat(absl::StrCat("/proc/", pid, "/stat"));
  std::string text;
  if (!std::getline(stat, text)) return '-';
  return text[text.rfind(')') + 2];
}

TEST(WorkerProcessTest, TellsVersionAndDevices) {
  const Ended version = Shell("$W --version");
  EXPECT_EQ(version.exit_code, 0);
  EXPECT_THAT(version.output, StartsWith("eigsvc-worker "));
  EXPECT_THAT(version.output, HasSubstr("LibTorch"));
  const Ended devices = Shell("$W --list-devices");
  EXPECT_EQ(devices.exit_code, 0);
  EXPECT_THAT(devices.output, AnyOf("cpu\n", StartsWith("cuda:0\n")));
}

TEST(WorkerProcessTest, AWrongCommandLineIsNamed) {
  const Ended none = Shell("$W");
  EXPECT_EQ(none.exit_code, 2);
  EXPECT_THAT(none.output, HasSubstr("--socket"));
  const Ended unknown = Shell("$W --sockets x");
  EXPECT_EQ(unknown.exit_code, 2);
  EXPECT_THAT(unknown.output, HasSubstr("--sockets"));
  EXPECT_EQ(Shell("$W --threads -1 --socket x").exit_code, 2);
  const Ended analyze = Shell("$W analyze --request x");
  EXPECT_EQ(analyze.exit_code, 2);
  EXPECT_THAT(analyze.output, HasSubstr("--output"));
}

TEST(WorkerProcessTest, WhatKeepsItFromStartingIsNamed) {
  const Ended device = Shell("$W --socket x --device cuda:99");
  EXPECT_EQ(device.exit_code, 1);
  EXPECT_THAT(device.output, HasSubstr("cuda"));
  const Ended where = Shell("$W --socket /no/such/directory/w");
  EXPECT_EQ(where.exit_code, 1);
  EXPECT_THAT(where.output, HasSubstr("/no/such/directory/w"));
  const Ended length = Shell(absl::StrCat("$W --socket /tmp/", std::string(120, 'x')));
  EXPECT_EQ(length.exit_code, 1);
  EXPECT_THAT(length.output, HasSubstr("107 bytes"));
}

TEST(WorkerProcessTest, EndsWellOnSigterm) {
  TempDir dir;
  const Ended ended = Shell(absl::StrCat("S=", dir.Path("w"),
                                         "; $W --socket $S & P=$!; while [ ! -S $S ]; do sleep 0.05; done; "
                                         "kill -TERM $P; wait $P"));
  EXPECT_EQ(ended.exit_code, 0) << ended.output;
}

TEST(WorkerProcessTest, ServesBehindAFilterOfSystemCalls) {
  TempDir dir;
  const Ended ended = Shell(absl::StrCat("S=", dir.Path("w"),
                                         "; $W --socket $S & P=$!; while [ ! -S $S ]; do sleep 0.05; done; "
                                         "grep -E '^(NoNewPrivs|Seccomp):' /proc/$P/status; kill -TERM $P"));
  EXPECT_THAT(ended.output, AllOf(HasSubstr("NoNewPrivs:\t1"), HasSubstr("Seccomp:\t2")));
}

TEST(WorkerProcessTest, FilesAreTakenApartByAConfinedProcess) {
  TempDir dir;
  const Ended ended = Shell(
      absl::StrCat("S=", dir.Path("w"), "; $W --socket $S & P=$!; while [ ! -S $S ]; do sleep 0.05; done; ",
                   "for s in /proc/[0-9]*/stat; do set -- $(cat $s 2>/dev/null); [ \"$4\" = $P ] && echo $2; "
                   "done; kill -TERM $P; wait $P; echo \"ended $?\""));
  EXPECT_THAT(ended.output, AllOf(HasSubstr("eigsvc-keeper"), HasSubstr("ended 0")));
}

TEST(WorkerProcessTest, EndsWithoutTheKeeperOfItsReaders) {
  TempDir dir;
  const Ended ended = Shell(absl::StrCat(
      "S=", dir.Path("w"), "; $W --socket $S & P=$!; while [ ! -S $S ]; do sleep 0.05; done; ",
      "for s in /proc/[0-9]*/stat; do set -- $(cat $s 2>/dev/null); [ \"$4\" = $P ] && kill -9 $1; "
      "done; wait $P; echo \"ended $?\""));
  EXPECT_THAT(ended.output, AllOf(HasSubstr("keeper"), HasSubstr("ended 1")));
}

TEST(WorkerProcessTest, DiesWithItsParent) {
  TempDir dir;
  const Ended ended = Shell(absl::StrCat("S=", dir.Path("w"),
                                         "; $W --socket $S >/dev/null 2>&1 & echo $!; "
                                         "while [ ! -S $S ]; do sleep 0.05; done; kill -KILL $$"));
  ASSERT_EQ(ended.exit_code, -9);
  const std::string pid = ended.output.substr(0, ended.output.find('\n'));
  char state = ProcessState(pid);
  for (int i = 0; i < 200 && state != '-' && state != 'Z'; ++i) {
    absl::SleepFor(absl::Milliseconds(10));
    state = ProcessState(pid);
  }
  EXPECT_THAT(state, AnyOf('-', 'Z'));
}

TEST(WorkerProcessTest, AnalysesWithoutADaemon) {
  TempDir dir;
  SaveMamba2(dir.Path("m.safetensors"), 1);
  std::ofstream(dir.Path("request.json"))
      << R"({"spec": {"checkpoint": {"localPath": ")" << dir.Path("m.safetensors")
      << R"("}, "task": {"name": "mqar", "parametersJson": "{\"vocab_size\": 64, \"input_seq_len\": 32}"}, "examples": "16"}})";
  const Ended ended =
      Shell(absl::StrCat("$W analyze --threads 1 --request ", dir.Path("request.json"), " --output ",
                         dir.Path("out.json"), " --export ", dir.Path("out.safetensors")));
  EXPECT_EQ(ended.exit_code, 0) << ended.output;
  EXPECT_THAT(ended.output, HasSubstr("mamba2"));
  std::ifstream out(dir.Path("out.json"));
  EXPECT_THAT(std::string(std::istreambuf_iterator<char>(out), {}), HasSubstr("JOB_STATE_SUCCEEDED"));
  EXPECT_TRUE(std::ifstream(dir.Path("out.safetensors")).is_open());

  std::ofstream(dir.Path("request.json"))
      << R"({"spec": {"checkpoint": {"localPath": "/none"}, "task": {"name": "mqar"}}})";
  const Ended failed = Shell(
      absl::StrCat("$W analyze --request ", dir.Path("request.json"), " --output ", dir.Path("out.json")));
  EXPECT_EQ(failed.exit_code, 64 + 5) << failed.output;
  EXPECT_THAT(failed.output, HasSubstr("none"));
}

}  // namespace
}  // namespace eigsvc
