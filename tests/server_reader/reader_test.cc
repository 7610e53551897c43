// Files read by a process in jail: what it finds, and what becomes of one that crashes, hangs or lies.
#include "server/reader/reader.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
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
                                      const StopToken& stop = StopToken::Never()) {
  absl::StatusOr<OpenedFile> file = OpenedFile::Open(path);
  if (!file.ok()) return file.status();
  return reader.Read(*file, stop);
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
  const auto reader = StartReader([](absl::Span<const std::byte> bytes, const std::string& name) {
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
  const auto reader = StartReader([](absl::Span<const std::byte>, const std::string&) {
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
  const auto reader = StartReader([](absl::Span<const std::byte> bytes, const std::string&) {
    // Long enough for the file to be cut; pages are touched only then.
    const absl::Time begin = absl::Now();
    while (absl::Now() < begin + absl::Milliseconds(300)) {
    }
    int64_t sum = 0;
    for (const std::byte byte : bytes) sum += static_cast<int64_t>(byte);
    return absl::StatusOr<FileContents>(absl::InternalError(absl::StrCat("read to the end: ", sum)));
  });
  EIGSVC_ASSERT_OK_AND_ASSIGN(const OpenedFile file, OpenedFile::Open(path));
  std::thread cutter([&] {
    absl::SleepFor(absl::Milliseconds(100));
    std::filesystem::resize_file(path, 0);
  });
  const absl::Status status = reader->Read(file, StopToken::Never()).status();
  cutter.join();
  // A sanitizer turns the signal into an exit of its own.
  EXPECT_THAT(status, AnyOf(StatusIs(absl::StatusCode::kDataLoss, HasSubstr("shrank")),
                            StatusIs(absl::StatusCode::kInternal, HasSubstr("exit"))));
}

TEST(ConfinedReaderTest, AStopEndsTheProcessThatReads) {
  auto* const shared = static_cast<std::atomic<pid_t>*>(
      mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  ASSERT_NE(static_cast<void*>(shared), MAP_FAILED);
  const auto reader = StartReader([shared](absl::Span<const std::byte> bytes, const std::string& name) {
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

// Processes of this name that live, whosever they are: nothing else runs beside these tests.
std::vector<pid_t> Named(const std::string& name) {
  std::vector<pid_t> found;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    std::ifstream stat(entry.path() / "stat");
    std::string text;
    if (!std::getline(stat, text) || text.find(absl::StrCat("(", name, ")")) == std::string::npos) continue;
    if (text.find(") Z ") == std::string::npos) found.push_back(std::stoi(text));
  }
  return found;
}

// Whether there are so many within a second.
bool Become(const std::string& name, size_t count) {
  for (int i = 0; i < 200 && Named(name).size() != count; ++i) absl::SleepFor(absl::Milliseconds(5));
  return Named(name).size() == count;
}

TEST(ConfinedReaderTest, NothingOutlivesItsOwner) {
  {
    const auto reader = StartReader();
    EXPECT_TRUE(Become("eigsvc-keeper", 1));
  }
  EXPECT_TRUE(Become("eigsvc-keeper", 0));

  const TemporaryFolder folder;
  const std::string path = folder.Write("endless", "x");
  const pid_t owner = fork();
  if (owner == 0) {
    const auto reader = StartReader([](absl::Span<const std::byte>, const std::string&) {
      while (true) {
      }
      return absl::StatusOr<FileContents>(FileContents());
    });
    ReadWith(*reader, path).status().IgnoreError();
    _exit(0);
  }
  EXPECT_TRUE(Become("eigsvc-reader", 1));
  kill(owner, SIGKILL);
  waitpid(owner, nullptr, 0);
  EXPECT_TRUE(Become("eigsvc-keeper", 0));
  EXPECT_TRUE(Become("eigsvc-reader", 0));
}

TEST(ConfinedReaderTest, AKeeperThatIsGoneIsSaid) {
  const auto reader = StartReader();
  ASSERT_TRUE(Become("eigsvc-keeper", 1));
  kill(Named("eigsvc-keeper")[0], SIGKILL);
  EXPECT_TRUE(Become("eigsvc-keeper", 0));
  const TemporaryFolder folder;
  EXPECT_THAT(ReadWith(*reader, folder.Write("file", TorchFile())),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("gone")));
}

}  // namespace
}  // namespace eigsvc
