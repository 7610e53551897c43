#include "server/store/root.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/store/beneath.h"
#include "tests/server_store/scratch.h"
#include "tests/testing/status_matchers.h"

namespace eigsvc {
namespace {

namespace fs = std::filesystem;
using ::eigsvc::testing::IsOk;
using ::eigsvc::testing::StatusIs;
using ::testing::_;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
constexpr absl::StatusCode kInvalid = absl::StatusCode::kInvalidArgument;
constexpr absl::StatusCode kNotFound = absl::StatusCode::kNotFound;

class RootTest : public testing::Scratch {
 protected:
  void SetUp() override {
    Scratch::SetUp();
    Write("outside/secret.safetensors", "secret");
    Write("root/mamba2/model.safetensors", "weights");
    Write("root/mamba2/config.json", "{}");
    Write("root/llama.pt", "zip");
    root_path_ = fs::canonical(Path("root")).string();
  }
  Root Open(StoreKind kind = StoreKind::kCheckpoint) {
    absl::StatusOr<Root> root = Root::Open(kind, Path("root"));
    EXPECT_THAT(root, IsOk());
    return *std::move(root);
  }
  void Link(const std::string& target, const std::string& name) {
    fs::create_symlink(target, Path("root/" + name));
  }

  std::string root_path_;
};

TEST_F(RootTest, ResolvesFilesAndDirectoriesByName) {
  const Root root = Open();
  EIGSVC_ASSERT_OK_AND_ASSIGN(std::string file, root.Resolve("mamba2/model.safetensors"));
  EXPECT_EQ(file, root_path_ + "/mamba2/model.safetensors");
  EIGSVC_ASSERT_OK_AND_ASSIGN(std::string directory, root.Resolve("mamba2"));
  EXPECT_EQ(directory, root_path_ + "/mamba2");
}

TEST_F(RootTest, UnknownNameListsTheKnownOnesAndTheClosest) {
  EXPECT_THAT(Open().Resolve("lama.pt"),
              StatusIs(kNotFound, AllOf(HasSubstr("unknown checkpoint \"lama.pt\""),
                                        HasSubstr("llama.pt, mamba2, mamba2/model"),
                                        HasSubstr("did you mean \"llama.pt\"?"))));
}

TEST_F(RootTest, NamesAreTakenLiterally) {
  for (const char* name :
       {"%2e%2e/outside/secret.safetensors", "mamba2%2fmodel.safetensors", "llama.pt/x", "~"}) {
    EXPECT_THAT(Open().Resolve(name), StatusIs(kNotFound, _)) << name;
  }
}

TEST_F(RootTest, NoNameLeavesTheRoot) {
  const std::string outside = Path("outside/secret.safetensors");
  const std::vector<std::string> names = {"../outside/secret.safetensors",
                                          outside,
                                          "mamba2/../../outside/secret.safetensors",
                                          "/" + outside,
                                          "./../outside",
                                          "..",
                                          "",
                                          ".",
                                          std::string("llama.pt\0x", 10),
                                          "mamba2/",
                                          "mamba2//model.safetensors",
                                          "..\\outside"};
  for (const std::string& name : names)
    EXPECT_THAT(Open().Resolve(name), StatusIs(kInvalid, HasSubstr("checkpoint: name"))) << name;
}

TEST_F(RootTest, LinksThatStayInsideAreFollowed) {
  Link("llama.pt", "same.pt");
  Link("mamba2", "alias");
  fs::create_directories(Path("root/hub/snapshot"));
  Link("../../mamba2/model.safetensors", "hub/snapshot/model.safetensors");  // as a Hugging Face cache does
  const Root root = Open();
  for (const char* name :
       {"same.pt", "alias", "alias/model.safetensors", "hub/snapshot", "hub/snapshot/model.safetensors"}) {
    EXPECT_THAT(root.Resolve(name), IsOk()) << name;
  }
}

TEST_F(RootTest, LinksThatLeaveAreRefused) {
  Link("../outside/secret.safetensors", "up.safetensors");
  Link(Path("outside"), "absolute");
  Link(root_path_ + "/llama.pt", "absolute_but_inside.pt");
  Link("/proc/self/root/etc", "magic");
  Link("../outside", "side");
  Link("side", "chain");
  const Root root = Open();
  for (const char* name :
       {"up.safetensors", "absolute", "absolute/secret.safetensors", "absolute_but_inside.pt", "magic/passwd",
        "side/secret.safetensors", "chain/secret.safetensors"}) {
    EXPECT_THAT(root.Resolve(name), StatusIs(kInvalid, HasSubstr("symbolic link"))) << name;
  }
}

TEST_F(RootTest, LoopsAndDanglingLinksAreErrors) {
  Link("loop", "loop");
  Link("nowhere.pt", "dangling.pt");
  EXPECT_THAT(Open().Resolve("loop"), StatusIs(kInvalid, HasSubstr("symbolic link")));
  EXPECT_THAT(Open().Resolve("dangling.pt"), StatusIs(kNotFound, _));
}

TEST_F(RootTest, DirectoryWithAnEntryThatLeavesIsRefused) {
  fs::create_directories(Path("root/trap"));
  Link("../../outside/secret.safetensors", "trap/model.safetensors");
  EXPECT_THAT(Open().Resolve("trap"),
              StatusIs(kInvalid, AllOf(HasSubstr("trap/model.safetensors"), HasSubstr("leaves the root"))));
}

TEST_F(RootTest, ConfigBesideAFileIsCheckedAsWell) {
  Write("root/single/model.safetensors", "weights");
  Link("../../outside/secret.safetensors", "single/config.json");
  EXPECT_THAT(Open().Resolve("single/model.safetensors"),
              StatusIs(kInvalid, HasSubstr("single/config.json")));
}

TEST_F(RootTest, OnlyRegularFilesAndDirectories) {
  ASSERT_EQ(mkfifo(Path("root/pipe.pt").c_str(), 0600), 0);
  const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  ASSERT_LT(Path("root/socket.pt").size(), sizeof address.sun_path);
  Path("root/socket.pt").copy(address.sun_path, sizeof address.sun_path - 1);
  ASSERT_EQ(bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  close(fd);
  std::vector<std::string> names = {"pipe.pt", "socket.pt"};
  if (mknod(Path("root/zero.pt").c_str(), S_IFCHR | 0600, makedev(1, 5)) == 0)
    names.push_back("zero.pt");  // root only
  for (const std::string& name : names) {
    EXPECT_THAT(Open().Resolve(name), StatusIs(kInvalid, HasSubstr("neither a regular file nor a directory")))
        << name;
  }
  fs::create_directories(Path("root/stuck"));
  ASSERT_EQ(mkfifo(Path("root/stuck/model.safetensors").c_str(), 0600), 0);
  EXPECT_THAT(Open().Resolve("stuck"), StatusIs(kInvalid, HasSubstr("stuck/model.safetensors")));
}

TEST_F(RootTest, WalkAgreesWithTheKernelExceptThatItFollowsNoLinks) {
  Link("llama.pt", "same.pt");
  Link("mamba2", "alias");
  Link("../outside", "side");
  const Fd directory(open(Path("root").c_str(), O_PATH | O_DIRECTORY));
  for (const char* name : {"mamba2", "mamba2/model.safetensors", "llama.pt"}) {
    for (Lookup lookup : {Lookup::kKernel, Lookup::kWalk}) {
      EIGSVC_ASSERT_OK_AND_ASSIGN(Fd fd, OpenBeneath(directory.get(), name, lookup));
      EIGSVC_ASSERT_OK_AND_ASSIGN(std::string path, PathOf(fd.get()));
      EXPECT_EQ(path, root_path_ + "/" + name);
    }
  }
  for (const char* name : {"nothing", "llama.pt/x", "mamba2/nothing"}) {
    EXPECT_THAT(OpenBeneath(directory.get(), name, Lookup::kKernel), StatusIs(kNotFound, _)) << name;
    EXPECT_THAT(OpenBeneath(directory.get(), name, Lookup::kWalk), StatusIs(kNotFound, _)) << name;
  }
  for (const char* name : {"same.pt", "alias/model.safetensors", "side/secret.safetensors"}) {
    EXPECT_THAT(OpenBeneath(directory.get(), name, Lookup::kWalk),
                StatusIs(kInvalid, HasSubstr("symbolic link")))
        << name;
  }
}

// Readers of data go into its folders: a file there that leads out is refused with the whole. Links to
// folders are followed by none of them.
TEST_F(RootTest, DataWithAFileDeepInsideThatLeavesIsRefused) {
  Write("root/reviews/train/pos/0_9.txt", "good");
  EXPECT_THAT(Open(StoreKind::kData).Resolve("reviews"), IsOk());
  Link("../../llama.pt", "reviews/train/inside.txt");
  EXPECT_THAT(Open(StoreKind::kData).Resolve("reviews"), IsOk());
  Link("../../../../outside/secret.safetensors", "reviews/train/pos/1_9.txt");
  EXPECT_THAT(
      Open(StoreKind::kData).Resolve("reviews"),
      StatusIs(kInvalid, AllOf(HasSubstr("reviews/train/pos/1_9.txt"), HasSubstr("leaves the root"))));
}

// A directory that turns into a link to the outside and back, as fast as it can.
TEST_F(RootTest, SwappingALinkInNeverLetsALookupEscape) {
  fs::create_directories(Path("root/real"));
  Write("root/real/secret.safetensors", "harmless");
  fs::rename(Path("root/real"), Path("root/flip"));
  const Fd directory(open(Path("root").c_str(), O_PATH | O_DIRECTORY));
  std::atomic<bool> stop{false};
  std::thread swapper([&] {
    fs::create_symlink("../outside", Path("link"));
    while (!stop) {
      renameat2(AT_FDCWD, Path("link").c_str(), AT_FDCWD, Path("root/flip").c_str(), RENAME_EXCHANGE);
    }
  });
  int opened = 0;
  for (int i = 0; i < 10000; ++i) {
    const Lookup lookup = i % 2 == 0 ? Lookup::kKernel : Lookup::kWalk;
    absl::StatusOr<Fd> fd = OpenBeneath(directory.get(), "flip/secret.safetensors", lookup);
    if (!fd.ok()) continue;
    ++opened;
    char content[16];
    const Fd readable(open(absl::StrCat("/proc/self/fd/", fd->get()).c_str(), O_RDONLY));
    const ssize_t n = read(readable.get(), content, sizeof content);
    ASSERT_EQ(std::string(content, static_cast<size_t>(n)), "harmless");
  }
  stop = true;
  swapper.join();
  EXPECT_GT(opened, 0);
}

std::vector<std::string> Names(const std::vector<StoredEntry>& entries) {
  std::vector<std::string> names;
  for (const StoredEntry& entry : entries) names.push_back(entry.name + (entry.directory ? "/" : ""));
  return names;
}

TEST_F(RootTest, ListsCheckpointsNestedAndAsDirectories) {
  Write("root/sharded/model.safetensors.index.json", "{}");
  Write("root/sharded/model-00001-of-00002.safetensors", "12345");
  Write("root/sharded/model-00002-of-00002.safetensors", "1234567");
  Write("root/deep/er/best.ckpt", "x");
  Write("root/two/a.pt", "x");
  Write("root/two/b.pt", "x");
  Write("root/notes/readme.md", "x");
  Write("root/.hidden/model.safetensors", "x");
  Write("root/bad\nname.pt", "x");
  Write("root/latin\xe9.pt", "x");
  Link("mamba2", "alias");
  Link("../outside/secret.safetensors", "up.safetensors");
  Link(".", "self");
  Link("llama.pt", "same.pt");
  const std::vector<StoredEntry> entries = Open().List();
  EXPECT_THAT(Names(entries),
              ElementsAre("deep/er/", "deep/er/best.ckpt", "llama.pt", "mamba2/", "mamba2/model.safetensors",
                          "same.pt", "sharded/", "two/a.pt", "two/b.pt"));
  for (const StoredEntry& entry : entries) {
    EXPECT_EQ(entry.sha256, "");
    EXPECT_THAT(Open().Resolve(entry.name), IsOk()) << entry.name;
    if (entry.name == "sharded") {
      EXPECT_EQ(entry.size_bytes, 14);
    }
    if (entry.name == "mamba2/model.safetensors") {
      EXPECT_EQ(entry.size_bytes, 7);
    }
  }
}

TEST_F(RootTest, DataRootListsEveryFile) {
  Write("root/tokens/wiki.npy", "x");
  EXPECT_THAT(Names(Open(StoreKind::kData).List()),
              ElementsAre("llama.pt", "mamba2/config.json", "mamba2/model.safetensors", "tokens/wiki.npy"));
}

TEST_F(RootTest, ListingStopsAtItsDepth) {
  std::string name = "root";
  for (int i = 0; i < 40; ++i) name += "/d";
  Write(name + "/model.safetensors", "x");
  EXPECT_THAT(Names(Open().List()), ElementsAre("llama.pt", "mamba2/", "mamba2/model.safetensors"));
}

TEST_F(RootTest, WithoutARootTheRemedyIsNamed) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(Root none, Root::Open(StoreKind::kData, ""));
  EXPECT_THAT(none.Resolve("x"), StatusIs(kNotFound, AllOf(HasSubstr("--data-root"), HasSubstr("upload"))));
  EXPECT_THAT(none.List(), ::testing::IsEmpty());
}

TEST_F(RootTest, AMissingRootIsSaidAtStart) {
  EXPECT_THAT(
      Root::Open(StoreKind::kCheckpoint, Path("gone")),
      StatusIs(absl::StatusCode::kUnavailable, AllOf(HasSubstr(Path("gone")), HasSubstr("No such file"))));
}

}  // namespace
}  // namespace eigsvc
