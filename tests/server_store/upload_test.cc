#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "models/base/sha256.h"
#include "server/store/store.h"
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
using ::testing::IsEmpty;
constexpr absl::StatusCode kInvalid = absl::StatusCode::kInvalidArgument;
constexpr StoreKind kCheckpoint = StoreKind::kCheckpoint;

absl::Span<const std::byte> Bytes(const std::string& text) {
  return absl::MakeConstSpan(reinterpret_cast<const std::byte*>(text.data()), text.size());
}
std::string Digest(const std::string& text) { return Sha256::Of(Bytes(text)); }
UploadPlan::File FileOf(const std::string& name, const std::string& content) {
  return {name, Digest(content), static_cast<int64_t>(content.size())};
}

class UploadTest : public testing::Scratch {
 protected:
  std::unique_ptr<Store> Open(int64_t budget = 1 << 20) {
    absl::StatusOr<std::unique_ptr<Store>> store =
        Store::Open({.state_dir = Path("state"), .upload_bytes = budget});
    EXPECT_THAT(store, IsOk());
    return *std::move(store);
  }
  // Uploads in pieces of `piece` bytes.
  static absl::StatusOr<std::string> Put(Store& store, const UploadPlan& plan, const std::string& bytes,
                                         size_t piece = 7) {
    auto upload = store.BeginUpload(kCheckpoint, plan);
    if (!upload.ok()) return upload.status();
    for (size_t at = 0; at < bytes.size(); at += piece) {
      if (absl::Status status = (*upload)->Append(Bytes(bytes.substr(at, piece))); !status.ok())
        return status;
    }
    if (absl::Status status = (*upload)->Finish(); !status.ok()) return status;
    return (*upload)->sha256();
  }
  bool IncomingIsEmpty() { return fs::is_empty(Path("state/incoming")); }
};

TEST_F(UploadTest, AFileIsStoredUnderItsDigestReadOnlyAndPrivate) {
  auto store = Open();
  const std::string content(100000, 'w');
  EIGSVC_ASSERT_OK_AND_ASSIGN(std::string sha256,
                              Put(*store, {{FileOf("m.safetensors", content)}}, content, 4096));
  EXPECT_EQ(sha256, Digest(content));
  EIGSVC_ASSERT_OK_AND_ASSIGN(ResolvedPath resolved, store->ResolveDigest(kCheckpoint, sha256));
  EXPECT_TRUE(resolved.immutable);
  EXPECT_EQ(Slurp(resolved.path), content);
  EXPECT_EQ(fs::path(resolved.path).filename(), "m.safetensors");
  struct stat info {};
  ASSERT_EQ(stat(resolved.path.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0400u);
  ASSERT_EQ(stat(Path("state").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0700u);
  EXPECT_TRUE(IncomingIsEmpty());
}

// The oracle is coreutils' sha256sum over the directory that came out.
TEST_F(UploadTest, ADirectoryIsAddressedByWhatSha256sumPrints) {
  auto store = Open();
  const std::string a = "weights", b = "{}", c;
  const UploadPlan plan{{FileOf("model.safetensors", a), FileOf("config.json", b), FileOf("Empty", c)}, true};
  EIGSVC_ASSERT_OK_AND_ASSIGN(std::string sha256, Put(*store, plan, a + b + c, 3));
  EIGSVC_ASSERT_OK_AND_ASSIGN(ResolvedPath resolved, store->ResolveDigest(kCheckpoint, sha256));
  const std::string command = absl::StrCat("cd '", resolved.path, "' && LC_ALL=C sha256sum * | sha256sum");
  FILE* pipe = popen(command.c_str(), "r");
  char printed[65] = {};
  ASSERT_EQ(fread(printed, 1, 64, pipe), 64u);
  EXPECT_EQ(pclose(pipe), 0);
  EXPECT_EQ(sha256, printed);
  EXPECT_EQ(Slurp(resolved.path + "/model.safetensors"), a);
  EXPECT_EQ(Slurp(resolved.path + "/Empty"), c);
}

TEST_F(UploadTest, PieceBoundariesDoNotMatter) {
  const std::string a = "0123456789", b, c = "abc";
  for (size_t piece = 1; piece <= 14; ++piece) {
    SCOPED_TRACE(piece);
    fs::remove_all(Path("state"));
    auto store = Open();
    const UploadPlan plan{{FileOf("a", a), FileOf("b", b), FileOf("c", c)}, true};
    EIGSVC_ASSERT_OK_AND_ASSIGN(std::string sha256, Put(*store, plan, a + b + c, piece));
    EIGSVC_ASSERT_OK_AND_ASSIGN(ResolvedPath resolved, store->ResolveDigest(kCheckpoint, sha256));
    EXPECT_EQ(Slurp(resolved.path + "/a") + Slurp(resolved.path + "/b") + Slurp(resolved.path + "/c"),
              a + b + c);
  }
}

TEST_F(UploadTest, KnownContentNeedsNoBytes) {
  auto store = Open();
  EIGSVC_ASSERT_OK_AND_ASSIGN(std::string sha256, Put(*store, {{FileOf("m.pt", "weights")}}, "weights"));
  EIGSVC_ASSERT_OK_AND_ASSIGN(auto again, store->BeginUpload(kCheckpoint, {{FileOf("other.pt", "weights")}}));
  EXPECT_TRUE(again->existed());
  EXPECT_EQ(again->sha256(), sha256);
  EIGSVC_EXPECT_OK(again->Finish());
  // The kinds are apart.
  EIGSVC_ASSERT_OK_AND_ASSIGN(auto data, store->BeginUpload(StoreKind::kData, {{FileOf("m.pt", "weights")}}));
  EXPECT_FALSE(data->existed());
}

TEST_F(UploadTest, TwoUploadsOfTheSameContentBothSucceed) {
  auto store = Open();
  EIGSVC_ASSERT_OK_AND_ASSIGN(auto first, store->BeginUpload(kCheckpoint, {{FileOf("m.pt", "weights")}}));
  EIGSVC_ASSERT_OK_AND_ASSIGN(auto second, store->BeginUpload(kCheckpoint, {{FileOf("m.pt", "weights")}}));
  EIGSVC_EXPECT_OK(first->Append(Bytes("weights")));
  EIGSVC_EXPECT_OK(second->Append(Bytes("weights")));
  EIGSVC_EXPECT_OK(second->Finish());
  EIGSVC_EXPECT_OK(first->Finish());
  EIGSVC_EXPECT_OK(first->Finish());
  EIGSVC_ASSERT_OK_AND_ASSIGN(ResolvedPath resolved, store->ResolveDigest(kCheckpoint, Digest("weights")));
  EXPECT_EQ(Slurp(resolved.path), "weights");
  EXPECT_TRUE(IncomingIsEmpty());
}

TEST_F(UploadTest, WrongBytesAreRefusedAndLeaveNothing) {
  auto store = Open();
  const UploadPlan plan{{FileOf("m.pt", "weights")}};
  EXPECT_THAT(Put(*store, plan, "weightz"),
              StatusIs(kInvalid, AllOf(HasSubstr("\"m.pt\""), HasSubstr(Digest("weightz")),
                                       HasSubstr(Digest("weights")))));
  EXPECT_THAT(Put(*store, plan, "weights!"), StatusIs(kInvalid, HasSubstr("more bytes than its manifest")));
  EXPECT_THAT(Put(*store, plan, "weigh"), StatusIs(kInvalid, HasSubstr("5 of the 7 bytes of \"m.pt\"")));
  EXPECT_THAT(Put(*store, plan, ""), StatusIs(kInvalid, HasSubstr("0 of the 7 bytes")));
  UploadPlan empty{{FileOf("m.pt", "")}};
  empty.files[0].sha256 = Digest("x");
  EXPECT_THAT(Put(*store, empty, ""), StatusIs(kInvalid, HasSubstr(Digest(""))));
  EIGSVC_ASSERT_OK_AND_ASSIGN(auto entries, store->List(kCheckpoint));
  EXPECT_THAT(entries, IsEmpty());
  EXPECT_TRUE(IncomingIsEmpty());
}

TEST_F(UploadTest, TheFirstErrorSticks) {
  auto store = Open();
  EIGSVC_ASSERT_OK_AND_ASSIGN(auto upload, store->BeginUpload(kCheckpoint, {{FileOf("m.pt", "weights")}}));
  EXPECT_THAT(upload->Append(Bytes("weights!")), StatusIs(kInvalid, HasSubstr("more bytes")));
  EXPECT_THAT(upload->Append(Bytes("weights")), StatusIs(kInvalid, HasSubstr("more bytes")));
  EXPECT_THAT(upload->Finish(), StatusIs(kInvalid, HasSubstr("more bytes")));
}

TEST_F(UploadTest, BadManifestsAreRefused) {
  auto store = Open();
  const UploadPlan::File good = FileOf("m.pt", "weights");
  auto with = [&](const std::function<void(UploadPlan::File&)>& change) {
    UploadPlan plan{{good}};
    change(plan.files[0]);
    return store->BeginUpload(kCheckpoint, plan).status();
  };
  for (const char* name : {"", "..", "../m.pt", "/m.pt", "a/b", ".m", "m\npt", "m pt"}) {
    EXPECT_THAT(with([&](auto& file) { file.name = name; }), StatusIs(kInvalid, HasSubstr("manifest: name")))
        << name;
  }
  EXPECT_THAT(with([](auto& file) { file.sha256 = "abc"; }),
              StatusIs(kInvalid, HasSubstr("file \"m.pt\": SHA-256")));
  EXPECT_THAT(with([](auto& file) { file.size_bytes = -1; }), StatusIs(kInvalid, HasSubstr("out of range")));
  UploadPlan overflow{{FileOf("a", "a"), FileOf("b", "b")}, true};
  for (auto& file : overflow.files) file.size_bytes = INT64_MAX;
  EXPECT_THAT(store->BeginUpload(kCheckpoint, overflow), StatusIs(kInvalid, HasSubstr("out of range")));
  EXPECT_THAT(store->BeginUpload(kCheckpoint, {}), StatusIs(kInvalid, HasSubstr("lists 0 files")));
  EXPECT_THAT(store->BeginUpload(kCheckpoint, {{good, FileOf("n.pt", "x")}}),
              StatusIs(kInvalid, HasSubstr("`directory`")));
  EXPECT_THAT(store->BeginUpload(kCheckpoint, {{good, good}, true}), StatusIs(kInvalid, HasSubstr("twice")));
  UploadPlan many{{}, true};
  for (int i = 0; i < 1001; ++i) many.files.push_back(FileOf(absl::StrCat("f", i), ""));
  EXPECT_THAT(store->BeginUpload(kCheckpoint, many), StatusIs(kInvalid, HasSubstr("1001 files")));
  EXPECT_TRUE(IncomingIsEmpty());
}

TEST_F(UploadTest, TheBudgetCountsStoredAndIncomingBytes) {
  auto store = Open(/*budget=*/100);
  const std::string sixty(60, 'a'), fifty(50, 'b'), forty(40, 'c');
  EXPECT_THAT(store->BeginUpload(kCheckpoint, {{FileOf("big.pt", std::string(101, 'x'))}}),
              StatusIs(absl::StatusCode::kResourceExhausted,
                       AllOf(HasSubstr("101 bytes"), HasSubstr("--upload-bytes"))));
  {
    EIGSVC_ASSERT_OK_AND_ASSIGN(auto upload, store->BeginUpload(kCheckpoint, {{FileOf("a.pt", sixty)}}));
    EXPECT_THAT(store->BeginUpload(kCheckpoint, {{FileOf("b.pt", fifty)}}),
                StatusIs(absl::StatusCode::kResourceExhausted, _));
  }
  // The abandoned upload gave its share back; a finished one keeps it, also over a restart.
  EXPECT_THAT(Put(*store, {{FileOf("b.pt", fifty)}}, fifty), IsOk());
  store.reset();
  store = Open(100);
  EXPECT_THAT(store->BeginUpload(kCheckpoint, {{FileOf("a.pt", sixty)}}),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("50 of 100 are free")));
  EXPECT_THAT(Put(*store, {{FileOf("c.pt", forty)}}, forty), IsOk());
  EXPECT_THAT(store->BeginUpload(kCheckpoint, {{FileOf("b.pt", fifty)}}),
              IsOk());  // known content costs nothing
}

TEST_F(UploadTest, AdoptTakesAFileAwayFromWhereItWas) {
  auto store = Open();
  const std::string path = Write("out/best.safetensors", "trained");
  EIGSVC_ASSERT_OK_AND_ASSIGN(std::string sha256, store->Adopt(kCheckpoint, path));
  EXPECT_EQ(sha256, Digest("trained"));
  EXPECT_FALSE(fs::exists(path));
  EIGSVC_ASSERT_OK_AND_ASSIGN(ResolvedPath resolved, store->ResolveDigest(kCheckpoint, sha256));
  EXPECT_EQ(Slurp(resolved.path), "trained");
  // The same content again.
  Write("out/best.safetensors", "trained");
  EXPECT_THAT(store->Adopt(kCheckpoint, path), IsOk());
  EXPECT_FALSE(fs::exists(path));
  EXPECT_TRUE(IncomingIsEmpty());
}

TEST_F(UploadTest, AdoptLeavesTheFileWhereItCannotTakeIt) {
  auto store = Open(/*budget=*/3);
  const std::string path = Write("out/best.safetensors", "trained");
  EXPECT_THAT(store->Adopt(kCheckpoint, path), StatusIs(absl::StatusCode::kResourceExhausted, _));
  EXPECT_EQ(Slurp(path), "trained");
  EXPECT_THAT(store->Adopt(kCheckpoint, Path("out/none.pt")),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("none.pt")));
  EXPECT_THAT(store->Adopt(kCheckpoint, Path("out")), StatusIs(kInvalid, HasSubstr("not a regular file")));
  fs::create_symlink(path, Path("out/link.pt"));
  EXPECT_FALSE(store->Adopt(kCheckpoint, Path("out/link.pt")).ok());
  ASSERT_EQ(mkfifo(Path("out/pipe.pt").c_str(), 0600), 0);
  EXPECT_THAT(store->Adopt(kCheckpoint, Path("out/pipe.pt")),
              StatusIs(kInvalid, HasSubstr("not a regular file")));
}

TEST_F(UploadTest, ManyThreadsUploadTheSameAndDifferentContent) {
  auto store = Open();
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&store, t] {
      for (int i = 0; i < 10; ++i) {
        const std::string content = absl::StrCat("content ", i % 2 == 0 ? i : i * 100 + t);
        EXPECT_THAT(Put(*store, {{FileOf("m.pt", content)}}, content), IsOk());
        EXPECT_THAT(store->List(kCheckpoint), IsOk());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EIGSVC_ASSERT_OK_AND_ASSIGN(auto entries, store->List(kCheckpoint));
  EXPECT_EQ(entries.size(), 5u + 4 * 5u);
  for (const StoredEntry& entry : entries) {
    EIGSVC_ASSERT_OK_AND_ASSIGN(ResolvedPath resolved, store->ResolveDigest(kCheckpoint, entry.sha256));
    EXPECT_EQ(Digest(Slurp(resolved.path)), entry.sha256);
  }
}

// kill -9 at whatever point of uploading: what is listed afterwards is whole, and nothing half-written is
// left.
TEST_F(UploadTest, AKilledDaemonLeavesOnlyWholeUploads) {
  size_t listed = 0;
  for (int round = 0; round < 20; ++round) {
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      auto store = Open(int64_t{1} << 30);
      for (int i = 0;; ++i) {
        const std::string content(20000, static_cast<char>('a' + (round * 7 + i) % 26));
        const std::string unique = absl::StrCat(round, "-", i, content);
        const UploadPlan plan{{FileOf("m.pt", unique), FileOf("config.json", "{}")}, true};
        if (!Put(*store, plan, unique + "{}", 1000).ok()) _exit(1);
      }
    }
    usleep(static_cast<useconds_t>(2000 + round * 1500));
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
    auto store = Open(int64_t{1} << 30);
    EXPECT_TRUE(IncomingIsEmpty());
    EIGSVC_ASSERT_OK_AND_ASSIGN(auto entries, store->List(kCheckpoint));
    for (const StoredEntry& entry : entries) {
      EIGSVC_ASSERT_OK_AND_ASSIGN(ResolvedPath resolved, store->ResolveDigest(kCheckpoint, entry.sha256));
      const std::string listing =
          absl::StrCat(Digest(Slurp(resolved.path + "/config.json")), "  config.json\n",
                       Digest(Slurp(resolved.path + "/m.pt")), "  m.pt\n");
      ASSERT_EQ(Digest(listing), entry.sha256);
    }
    listed = entries.size();
  }
  EXPECT_GT(listed, 0u);
}

}  // namespace
}  // namespace eigsvc
