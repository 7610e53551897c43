#include "server/store/store.h"

#include <sys/stat.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <memory>
#include <thread>

#include "tests/server_store/scratch.h"
#include "tests/testing/status_matchers.h"

namespace eigsvc {
namespace {

namespace fs = std::filesystem;
using ::eigsvc::testing::IsOk;
using ::eigsvc::testing::StatusIs;
using ::testing::_;
using ::testing::AllOf;
using ::testing::HasSubstr;

class StoreTest : public testing::Scratch {
 protected:
  std::unique_ptr<Store> Open(StoreOptions options = {}) {
    options.state_dir = Path("state");
    absl::StatusOr<std::unique_ptr<Store>> store = Store::Open(options);
    EXPECT_THAT(store, IsOk());
    return *std::move(store);
  }
};

TEST_F(StoreTest, TwoDaemonsDoNotShareAStateDirectory) {
  auto store = Open();
  EXPECT_THAT(Store::Open({.state_dir = Path("state")}),
              StatusIs(absl::StatusCode::kUnavailable,
                       AllOf(HasSubstr("in use by another"), HasSubstr("--state-dir"))));
  store.reset();
  EXPECT_THAT(Store::Open({.state_dir = Path("state")}), IsOk());
}

TEST_F(StoreTest, OpenNamesTheDirectoryItCannotMake) {
  Write("file", "x");
  EXPECT_THAT(
      Store::Open({.state_dir = Path("file/state")}),
      StatusIs(absl::StatusCode::kUnavailable, AllOf(HasSubstr(Path("file")), HasSubstr("Not a directory"))));
  EXPECT_THAT(
      Store::Open({.state_dir = Path("state"), .data_root = Path("none")}),
      StatusIs(absl::StatusCode::kUnavailable, AllOf(HasSubstr("data root"), HasSubstr(Path("none")))));
}

TEST_F(StoreTest, OpenCleansWhatAnEarlierRunLeft) {
  Write("state/incoming/3/half.pt", "x");
  Write("state/spool/job/job.safetensors", "x");
  auto store = Open();
  EXPECT_TRUE(fs::is_empty(Path("state/incoming")));
  EXPECT_TRUE(fs::is_empty(Path("state/spool")));
}

TEST_F(StoreTest, ARelativeStateDirectoryGivesAbsolutePaths) {
  const fs::path before = fs::current_path();
  fs::current_path(Path(""));
  absl::StatusOr<std::unique_ptr<Store>> store = Store::Open({.state_dir = "relative/state"});
  fs::current_path(before);
  EIGSVC_ASSERT_OK(store);
  EIGSVC_ASSERT_OK_AND_ASSIGN(std::string path, (*store)->NewSpoolPath("job-1", ".safetensors"));
  EXPECT_EQ(path, fs::canonical(Path("relative/state")).string() + "/spool/job-1/job-1.safetensors");
}

TEST_F(StoreTest, LocalPathsAreForPrivateServersOnly) {
  const std::string path = Write("anywhere/model.pt", "x");
  EXPECT_THAT(Open()->ResolveLocal(StoreKind::kCheckpoint, path),
              StatusIs(absl::StatusCode::kPermissionDenied, HasSubstr("shared")));
  auto store = Open({.allow_local_paths = true});
  EIGSVC_ASSERT_OK_AND_ASSIGN(ResolvedPath resolved, store->ResolveLocal(StoreKind::kCheckpoint, path));
  EXPECT_EQ(resolved.path, path);
  EXPECT_FALSE(resolved.immutable);
  EIGSVC_EXPECT_OK(store->ResolveLocal(StoreKind::kCheckpoint, Path("anywhere")));
  EXPECT_THAT(store->ResolveLocal(StoreKind::kCheckpoint, "model.pt"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("not absolute")));
  EXPECT_THAT(store->ResolveLocal(StoreKind::kCheckpoint, path + std::string("\0x", 2)),
              StatusIs(absl::StatusCode::kInvalidArgument, _));
  EXPECT_THAT(store->ResolveLocal(StoreKind::kCheckpoint, Path("none")),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("No such file")));
  ASSERT_EQ(mkfifo(Path("pipe").c_str(), 0600), 0);
  EXPECT_THAT(store->ResolveLocal(StoreKind::kCheckpoint, Path("pipe")),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("regular file")));
}

TEST_F(StoreTest, DigestsMustBeWellFormedAndKnown) {
  auto store = Open();
  EXPECT_THAT(store->ResolveDigest(StoreKind::kData, "../../etc"),
              StatusIs(absl::StatusCode::kInvalidArgument, _));
  EXPECT_THAT(store->ResolveDigest(StoreKind::kData, std::string(64, '0')),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("upload it first")));
}

TEST_F(StoreTest, NamedEntriesComeBeforeUploads) {
  Write("root/zebra.pt", "x");
  auto store = Open({.checkpoint_root = Path("root")});
  EIGSVC_ASSERT_OK_AND_ASSIGN(std::string sha256,
                              store->Adopt(StoreKind::kCheckpoint, Write("out/best.pt", "trained")));
  EIGSVC_ASSERT_OK_AND_ASSIGN(auto entries, store->List(StoreKind::kCheckpoint));
  ASSERT_EQ(entries.size(), 2u);
  EXPECT_EQ(entries[0].name, "zebra.pt");
  EXPECT_EQ(entries[1].sha256, sha256);
  EXPECT_EQ(entries[1].size_bytes, 7);
  EXPECT_FALSE(entries[1].directory);
}

TEST_F(StoreTest, SpoolKeepsToItsBudget) {
  auto store = Open({.spool_bytes = 10});
  EIGSVC_ASSERT_OK_AND_ASSIGN(std::string first, store->NewSpoolPath("job-1", ".safetensors"));
  std::ofstream(first) << "1234";
  EIGSVC_ASSERT_OK_AND_ASSIGN(std::string second, store->NewSpoolPath("job-2", ".safetensors"));
  const auto never = [] { return false; };
  EIGSVC_ASSERT_OK_AND_ASSIGN(const int64_t left, store->ReserveSpool("job-2", 100, never));
  EXPECT_EQ(left, 6);
  std::ofstream(second) << "12345678901234";
  EXPECT_THAT(store->ReserveSpool("job-3", 100, never),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("--spool-bytes")));
  EXPECT_THAT(store->NewSpoolPath("job-3", ".safetensors"),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("--spool-bytes")));
  store->RemoveSpool("job-2");
  EXPECT_FALSE(fs::exists(second));
  EXPECT_TRUE(fs::exists(first));
  EIGSVC_EXPECT_OK(store->NewSpoolPath("job-3", ".safetensors"));
}

// Two jobs that start together must not be promised the same bytes.
TEST_F(StoreTest, SpoolIsPromisedOnce) {
  auto store = Open({.spool_bytes = 1000});
  const auto never = [] { return false; };
  const auto reserve = [&](const std::string& job, int64_t most) {
    const std::string path = store->NewSpoolPath(job, ".safetensors").value();
    EIGSVC_EXPECT_OK(store->ReserveSpool(job, most, never));
    return path;
  };
  EXPECT_EQ(store->ReserveSpool("asks-for-little", 300, never).value_or(0), 300);
  store->ReleaseSpool("asks-for-little");
  const std::string first = reserve("first", 5000);
  std::atomic<int64_t> granted = -1;
  std::thread second([&] { granted = store->ReserveSpool("second", 5000, never).value_or(0); });
  EXPECT_THAT(store->ReserveSpool("third", 1, [] { return true; }),
              StatusIs(absl::StatusCode::kCancelled, _));
  EXPECT_EQ(granted, -1) << "all of it is the first one's until it has made its file";
  std::ofstream(first) << std::string(400, 'x');
  second.join();
  EXPECT_EQ(granted, 600);
  store->RemoveSpool("second");  // it failed without a file
  EXPECT_EQ(store->ReserveSpool("fourth", 5000, never).value_or(0), 600);
}

TEST_F(StoreTest, SpoolNamesCannotLeaveIt) {
  auto store = Open();
  Write("state/keep", "x");
  for (const char* id : {"", "..", "../x", "a/b", "/tmp"}) {
    EXPECT_THAT(store->NewSpoolPath(id, ".safetensors"), StatusIs(absl::StatusCode::kInvalidArgument, _))
        << id;
    store->RemoveSpool(id);
  }
  EXPECT_THAT(store->NewSpoolPath("job", "/../../x"), StatusIs(absl::StatusCode::kInvalidArgument, _));
  EXPECT_TRUE(fs::exists(Path("state/keep")));
}

TEST_F(StoreTest, StoredFileReadsInPieces) {
  std::string content;
  for (int i = 0; i < 300000; ++i) content.push_back(static_cast<char>(i * 31 % 251));
  EIGSVC_ASSERT_OK_AND_ASSIGN(auto file, StoredFile::Open(Write("blob", content)));
  EXPECT_EQ(file->size(), 300000);
  std::string together;
  while (true) {
    EIGSVC_ASSERT_OK_AND_ASSIGN(std::string part, file->Read(static_cast<int64_t>(together.size()), 1 << 20));
    if (part.empty()) break;
    EXPECT_LE(part.size(), size_t{256} << 10);
    together += part;
  }
  EXPECT_EQ(together, content);
  EIGSVC_ASSERT_OK_AND_ASSIGN(std::string middle, file->Read(1000, 5));
  EXPECT_EQ(middle, content.substr(1000, 5));
  EXPECT_THAT(file->Read(300001, 1), StatusIs(absl::StatusCode::kOutOfRange, HasSubstr("300000 bytes")));
  EXPECT_THAT(file->Read(-1, 1), StatusIs(absl::StatusCode::kOutOfRange, _));
}

TEST_F(StoreTest, StoredFileRefusesWhatIsNoFileAndNoticesAShrunkOne) {
  EXPECT_THAT(StoredFile::Open(Path("none")), StatusIs(absl::StatusCode::kNotFound, _));
  EXPECT_THAT(StoredFile::Open(Path("")),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("directory")));
  EIGSVC_ASSERT_OK_AND_ASSIGN(auto file, StoredFile::Open(Write("blob", "0123456789")));
  fs::resize_file(Path("blob"), 4);
  EXPECT_THAT(file->Read(0, 10), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("ended before byte 10")));
}

}  // namespace
}  // namespace eigsvc
