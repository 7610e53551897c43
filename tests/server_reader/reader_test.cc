// Files read by a process in jail: what it finds, and what becomes of one that crashes, hangs or lies.
#include "server/reader/reader.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "models/base/status_macros.h"
#include "server/reader/jail.h"
#include "tests/archive/fixtures.h"
#include "tests/archive/hostile_files.h"
#include "tests/testing/paths.h"
#include "tests/testing/status_matchers.h"

namespace eigsvc {
namespace {

using ::testing::AnyOf;
using ::testing::HasSubstr;
using testing::MakeTorchFile;
using testing::PickleProgram;
using testing::StatusIs;
using testing::TemporaryFolder;

std::string TorchFile() {
  return MakeTorchFile(PickleProgram()
                           .Dict()
                           .Text("w")
                           .Tensor({.count = 6, .shape = {3, 2}, .strides = {1, 3}})
                           .SetItem()
                           .Finish(),
                       {{"0", testing::BytesOf<float>({0, 1, 2, 3, 4, 5})}});
}

std::unique_ptr<ConfinedReader> StartReader() { return *ConfinedReader::Start(); }
std::unique_ptr<ConfinedReader> StartReader(ConfinedReader::TakeApart take_apart) {
  return *ConfinedReader::Start(std::move(take_apart));
}

absl::StatusOr<FileContents> ReadWith(const ConfinedReader& reader, const std::string& path,
                                      const StopToken& stop = StopToken::Never(),
                                      Hold hold = Hold::kSharedMemory) {
  EIGSVC_ASSIGN_OR_RETURN(const OpenedFile file, OpenedFile::Open(path));
  EIGSVC_ASSIGN_OR_RETURN(const FileBytes bytes, file.Read(hold));
  return reader.Read(bytes, file.name(), file.size(), stop);
}

TEST(ConfinedReaderTest, FindsWhatThisProcessFinds) {
  const auto reader = StartReader();
  const TemporaryFolder folder;
  for (const std::string& path :
       {testing::SourcePath("deploy/demo/mamba2.safetensors"), testing::SourcePath("deploy/demo/mamba2.pt"),
        folder.Write("strided.pt", TorchFile())}) {
    for (const bool on_demand : {false, true}) {
      EIGSVC_ASSERT_OK_AND_ASSIGN(const Archive plain, Archive::Open(path, {.on_demand = on_demand}));
      EIGSVC_ASSERT_OK_AND_ASSIGN(const Archive confined,
                                  Archive::Open(path, {.on_demand = on_demand, .reader = reader.get()}));
      EXPECT_EQ(confined.sha256(), plain.sha256());
      EXPECT_EQ(confined.format(), plain.format());
      EXPECT_EQ(confined.settings().ToJson(), plain.settings().ToJson());
      EXPECT_EQ(confined.ParameterCount(), plain.ParameterCount());
      ASSERT_EQ(confined.tensors().size(), plain.tensors().size());
      for (const auto& [key, tensor] : plain.tensors()) {
        EIGSVC_ASSERT_OK_AND_ASSIGN(const ArchiveTensor a, Fetch(tensor));
        EIGSVC_ASSERT_OK_AND_ASSIGN(const ArchiveTensor b, Fetch(confined.tensors().at(key)));
        EXPECT_EQ(testing::Values(b), testing::Values(a)) << key;
      }
    }
  }
}

TEST(ConfinedReaderTest, RefusalsAreThoseOfThisProcess) {
  const auto reader = StartReader();
  const TemporaryFolder folder;
  const std::string called =
      PickleProgram().Global("os", "system").Text("touch /tmp/x").Raw("\x85").Reduce().Finish();
  const std::string outside = MakeTorchFile(
      PickleProgram().Dict().Text("w").Tensor({.count = 6, .shape = {7}, .strides = {1}}).SetItem().Finish(),
      {{"0", std::string(24, 'x')}});
  for (const std::string& bytes :
       {MakeTorchFile(called), outside, TorchFile().substr(0, 300), std::string("GGUF"), std::string("hello"),
        std::string(),
        testing::MakeSafetensors(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", "xxxx")}) {
    const std::string path = folder.Write("hostile", bytes);
    const absl::Status plain = Archive::Open(path).status();
    ASSERT_FALSE(plain.ok());
    EXPECT_EQ(Archive::Open(path, {.reader = reader.get()}).status(), plain);
  }
}

// Whoever takes a file over from inside its reader gets nowhere, and the next file is read as if nothing had
// happened.
TEST(ConfinedReaderTest, ACrashIsAnErrorAboutOneFile) {
  const auto reader = StartReader([](absl::Span<const std::byte> bytes, const std::string& name, int64_t) {
    if (name == "crash") __builtin_trap();
    if (name == "socket") socket(AF_INET, SOCK_STREAM, 0);
    if (name == "exit") _exit(3);
    return ReadContents(bytes, name, static_cast<int64_t>(bytes.size()));
  });
  const TemporaryFolder folder;
  const auto read = [&](const std::string& name) {
    return ReadWith(*reader, folder.Write(name, TorchFile()));
  };
  EIGSVC_EXPECT_OK(read("good"));
  EXPECT_THAT(read("crash"), StatusIs(absl::StatusCode::kInternal, HasSubstr("damaged or hostile")));
  EXPECT_THAT(read("exit"), StatusIs(absl::StatusCode::kInternal, HasSubstr("exit")));
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // see jail.h
  EXPECT_THAT(read("socket"),
              StatusIs(absl::StatusCode::kInternal, HasSubstr(absl::StrCat("signal ", SIGSYS))));
#endif
  EIGSVC_EXPECT_OK(read("good"));
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // addresses are not limited under them
TEST(ConfinedReaderTest, MemoryIsLimitedWhateverTheFile) {
  const auto reader = StartReader([](absl::Span<const std::byte>, const std::string&, int64_t) {
    std::vector<std::string> grown;
    while (true) grown.push_back(std::string(1 << 20, 'x'));
    return absl::StatusOr<FileContents>(FileContents());
  });
  const TemporaryFolder folder;
  EXPECT_THAT(ReadWith(*reader, folder.Write("greedy", "x")),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("more memory")));
}
#endif

TEST(ConfinedReaderTest, AFileThatShrinksUnderItsMapIsDataLoss) {
  const TemporaryFolder folder;
  const std::string path = folder.Write("shrinks", std::string(1 << 20, 'x'));
  const auto reader = StartReader([](absl::Span<const std::byte> bytes, const std::string&, int64_t) {
    // Long enough for the file to be cut; pages are touched only then.
    const absl::Time begin = absl::Now();
    while (absl::Now() < begin + absl::Milliseconds(300)) {
    }
    int64_t sum = 0;
    for (const std::byte byte : bytes) sum += static_cast<int64_t>(byte);
    return absl::StatusOr<FileContents>(absl::InternalError(absl::StrCat("read to the end: ", sum)));
  });
  std::thread cutter([&] {
    absl::SleepFor(absl::Milliseconds(100));
    std::filesystem::resize_file(path, 0);
  });
  const absl::Status status = ReadWith(*reader, path, StopToken::Never(), Hold::kMap).status();
  cutter.join();
  // A sanitizer turns the signal into an exit of its own.
  EXPECT_THAT(status, AnyOf(StatusIs(absl::StatusCode::kDataLoss, HasSubstr("shrank")),
                            StatusIs(absl::StatusCode::kInternal, HasSubstr("exit"))));
}

TEST(ConfinedReaderTest, AStopEndsTheProcessThatReads) {
  auto* const shared = static_cast<std::atomic<pid_t>*>(
      mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  ASSERT_NE(static_cast<void*>(shared), MAP_FAILED);
  const auto reader =
      StartReader([shared](absl::Span<const std::byte> bytes, const std::string& name, int64_t) {
        if (name == "endless") {
          *shared = 1;
          while (true) {
          }
        }
        return ReadContents(bytes, name, static_cast<int64_t>(bytes.size()));
      });
  const TemporaryFolder folder;
  const std::string endless = folder.Write("endless", TorchFile()), good = folder.Write("good", TorchFile());
  StopToken stop;
  absl::Status status;
  std::thread waiting([&] { status = ReadWith(*reader, endless, stop).status(); });
  while (*shared == 0) absl::SleepFor(absl::Milliseconds(1));
  EIGSVC_EXPECT_OK(ReadWith(*reader, good));  // beside it
  const absl::Time begin = absl::Now();
  stop.Cancel();
  waiting.join();
  EXPECT_LT(absl::Now() - begin, absl::Milliseconds(150));
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kCancelled, HasSubstr("cancelled")));
  EIGSVC_EXPECT_OK(ReadWith(*reader, good));
  munmap(shared, 4096);

  StopToken past(absl::Now() - absl::Seconds(1));
  EXPECT_THAT(ReadWith(*reader, good, past),
              StatusIs(absl::StatusCode::kDeadlineExceeded, HasSubstr("deadline")));
}

// Keepers that are children of this process, or readers of those, that live. ppid 1: of nobody any more.
std::vector<pid_t> Named(const std::string& name, const std::vector<pid_t>& parents) {
  std::vector<pid_t> found;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    std::ifstream stat(entry.path() / "stat");
    std::string text, state;
    if (!std::getline(stat, text) || text.find(absl::StrCat("(", name, ")")) == std::string::npos) continue;
    std::istringstream rest(text.substr(text.rfind(')') + 1));
    pid_t parent = 0;
    rest >> state >> parent;
    if (state != "Z" && std::count(parents.begin(), parents.end(), parent) > 0)
      found.push_back(std::stoi(text));
  }
  return found;
}
std::vector<pid_t> Keepers() { return Named("eigsvc-keeper", {getpid()}); }

// Whether there are so many within a second.
bool KeepersBecome(size_t count) {
  for (int i = 0; i < 200 && Keepers().size() != count; ++i) absl::SleepFor(absl::Milliseconds(5));
  return Keepers().size() == count;
}

TEST(ConfinedReaderTest, NothingOutlivesItsOwner) {
  {
    const auto first = StartReader(), second = StartReader();
    EXPECT_TRUE(KeepersBecome(2));
  }
  EXPECT_TRUE(KeepersBecome(0));

  const TemporaryFolder folder;
  const std::string path = folder.Write("endless", "x");
  prctl(PR_SET_CHILD_SUBREAPER, 1);  // so that what is left comes to this process, where it can be seen
  const pid_t owner = fork();
  if (owner == 0) {
    const auto reader = StartReader([](absl::Span<const std::byte>, const std::string&, int64_t) {
      while (true) {
      }
      return absl::StatusOr<FileContents>(FileContents());
    });
    ReadWith(*reader, path).status().IgnoreError();
    _exit(0);
  }
  const auto readers = [&] { return Named("eigsvc-reader", Named("eigsvc-keeper", {owner})); };
  for (int i = 0; i < 400 && readers().empty(); ++i) absl::SleepFor(absl::Milliseconds(5));
  EXPECT_EQ(readers().size(), 1u);
  kill(owner, SIGKILL);
  int ended = 0;
  for (pid_t pid; (pid = waitpid(-1, nullptr, 0)) > 0;) ++ended;
  EXPECT_EQ(ended, 3);  // the owner, its keeper, its reader
  prctl(PR_SET_CHILD_SUBREAPER, 0);
}

TEST(ConfinedReaderTest, AKeeperThatIsGoneIsSaid) {
  const auto reader = StartReader();
  ASSERT_TRUE(KeepersBecome(1));
  std::atomic<bool> told = false;
  std::thread waiting([&] {
    reader->WaitUntilKeeperIsGone();
    told = true;
  });
  EXPECT_FALSE(told);
  kill(Keepers()[0], SIGKILL);
  waiting.join();
  const TemporaryFolder folder;
  EXPECT_THAT(ReadWith(*reader, folder.Write("file", TorchFile())),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("no process can be started")));
}

// What is left to a reader that was taken over: lies.
TEST(ConfinedReaderTest, WhateverAReaderSendsItsOwnerStands) {
  const auto reader = StartReader([](absl::Span<const std::byte> bytes, const std::string&, int64_t) {
    constexpr int kAnswer = 4;
    send(kAnswer, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    _exit(0);
    return absl::StatusOr<FileContents>(FileContents());
  });
  const TemporaryFolder folder;
  const auto answer = [](const std::string& message) {
    const int64_t size = static_cast<int64_t>(message.size());
    return std::string(reinterpret_cast<const char*>(&size), sizeof size) + message;
  };
  std::string many;
  for (int i = 0; i < 100000; ++i) many += std::string("\x1a\0", 2);
  for (const std::string& lie :
       {answer(many), answer("\x22\x05hello"), answer(std::string("\x1a\xff\xff\xff\x7f", 5)),
        std::string("short"), std::string(8, '\xff') + "negative",
        std::string("\xff\xff\xff\xff\xff\xff\xff\x7f and so on")}) {
    EXPECT_THAT(ReadWith(*reader, folder.Write("file", lie)),
                AnyOf(StatusIs(absl::StatusCode::kInternal, HasSubstr("no reader sends")),
                      StatusIs(absl::StatusCode::kInternal, HasSubstr("exit 0"))));
  }
}

TEST(ConfinedReaderTest, AReaderKnowsNothingOfItsOwner) {
  setenv("EIGSVC_TEST_SECRET", "hunter2", 1);
  const auto reader = StartReader([](absl::Span<const std::byte>, const std::string&, int64_t) {
    std::string found;
    if (getenv("EIGSVC_TEST_SECRET") != nullptr) found += " the environment";
    char byte;
    if (!kSanitized && write(2, "forged\n", 7) != 7)
      found += " a closed stderr";  // it goes nowhere, yet goes
    if (read(0, &byte, 1) != 0) found += " stdin";
    for (int descriptor = 5; descriptor < 200; ++descriptor) {
      if (write(descriptor, "", 0) == 0) found += absl::StrCat(" descriptor ", descriptor);
    }
    return absl::StatusOr<FileContents>(absl::DataLossError(absl::StrCat("found:", found)));
  });
  unsetenv("EIGSVC_TEST_SECRET");
  const TemporaryFolder folder;
  ::testing::internal::CaptureStderr();
  const absl::Status status = ReadWith(*reader, folder.Write("file", "x")).status();
  EXPECT_THAT(::testing::internal::GetCapturedStderr(), ::testing::Not(HasSubstr("forged")));
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kDataLoss, "found:"));
}

TEST(ConfinedReaderTest, AThousandFilesLeaveNothingOpen) {
  const auto reader = StartReader();
  const TemporaryFolder folder;
  const std::string path = folder.Write("file", TorchFile());
  const auto open = [](pid_t pid) {
    const std::filesystem::directory_iterator fds(absl::StrCat("/proc/", pid, "/fd"));
    return std::distance(begin(fds), end(fds));
  };
  EIGSVC_ASSERT_OK(ReadWith(*reader, path));
  const auto before = open(getpid());
  for (int i = 0; i < 1000; ++i) EIGSVC_ASSERT_OK(ReadWith(*reader, path));
  EXPECT_EQ(open(getpid()), before);
  EXPECT_EQ(Named("eigsvc-reader", Keepers()).size(), 0u);
}

// An archive's digest is of the bytes that were taken apart, whatever becomes of the file.
TEST(ConfinedReaderTest, WhatIsReadIsWhatWasHashed) {
  const TemporaryFolder folder;
  const std::string path = folder.Write("file.pt", TorchFile());
  class Swapping : public ContentsReader {
   public:
    Swapping(const ContentsReader& reader, std::string file) : reader_(reader), file_(std::move(file)) {}
    absl::StatusOr<FileContents> Read(const FileBytes& bytes, const std::string& name, int64_t file_bytes,
                                      const StopToken& stop) const override {
      std::ofstream(file_, std::ios::in | std::ios::out) << "another file altogether";
      return reader_.Read(bytes, name, file_bytes, stop);
    }

   private:
    const ContentsReader& reader_;
    const std::string file_;
  };
  const auto reader = StartReader();
  const Swapping swapping(*reader, path);
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Archive archive, Archive::Open(path, {.reader = &swapping}));
  EXPECT_THAT(testing::Values(archive.tensors().at("w")), ::testing::ElementsAre(0, 3, 1, 4, 2, 5));
}

}  // namespace
}  // namespace eigsvc
