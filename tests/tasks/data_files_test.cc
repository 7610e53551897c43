// The files of a data set, in directories and archives, whole, cut short and damaged.
#include "models/tasks/readers/data_files.h"

#include <sys/stat.h>

#include <filesystem>
#include <map>
#include <random>
#include <thread>

#include "absl/strings/str_cat.h"
#include "models/base/status_macros.h"
#include "tests/tasks/archives.h"
#include "tests/testing/status_matchers.h"

namespace eigsvc {
namespace {

using ::absl::StatusCode;
using ::eigsvc::testing::Files;
using ::eigsvc::testing::Pack;
using ::eigsvc::testing::Packing;
using ::eigsvc::testing::StatusIs;
using ::eigsvc::testing::WriteFile;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;

std::string TempPath(const std::string& name) {
  return absl::StrCat(::testing::TempDir(), "data_files_", name);
}

bool All(absl::string_view) { return true; }

absl::StatusOr<Files> ReadFiles(const std::string& path, const DataFileWanted& wanted = All,
                                int64_t max_bytes = 1 << 20, const StopToken* stop = nullptr) {
  Files files;
  absl::Status status = VisitDataFiles(
      path, wanted,
      [&](absl::string_view name, ByteStream& stream) -> absl::Status {
        absl::StatusOr<std::string> bytes = ReadAll(stream, max_bytes);
        if (bytes.ok()) files.emplace_back(std::string(name), *std::move(bytes));
        return bytes.status();
      },
      stop);
  if (!status.ok()) return status;
  return files;
}

std::string Noise(size_t size, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::string bytes(size, '\0');
  for (char& byte : bytes) byte = static_cast<char>(random());
  return bytes;
}

const Files& Sample() {
  static const auto& files = *new Files{
      {"./set/b.txt", "two"}, {"set/", ""}, {"set/a.bin", Noise(300000, 1)}, {"set/\xc3\xa9.txt", ""}};
  return files;
}

std::string Extension(Packing packing) {
  return packing == Packing::kTar ? "tar" : packing == Packing::kTarGz ? "tar.gz" : "zip";
}

class ArchiveTest : public ::testing::TestWithParam<Packing> {
 protected:
  std::string Write(const std::string& bytes) {
    const std::string test = ::testing::UnitTest::GetInstance()->current_test_info()->name();
    return WriteFile(TempPath(absl::StrCat(test.substr(0, test.find('/')), ".", Extension(GetParam()))),
                     bytes);
  }
};

// Tens of thousands of reviews are held: each may take what it needs and no more.
TEST_P(ArchiveTest, WhatIsReadTakesItsOwnSize) {
  const std::string path = Write(Pack(GetParam(), Sample()));
  const auto visit = [](absl::string_view, ByteStream& stream) -> absl::Status {
    EIGSVC_ASSIGN_OR_RETURN(const std::string bytes, ReadAll(stream, 1 << 20));
    EXPECT_LE(bytes.capacity(), bytes.size() + 64);
    return absl::OkStatus();
  };
  EIGSVC_EXPECT_OK(VisitDataFiles(
      path, [](absl::string_view) { return true; }, visit, nullptr));
}

TEST_P(ArchiveTest, GivesItsFilesInItsOrder) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Files files, ReadFiles(Write(Pack(GetParam(), Sample()))));
  EXPECT_THAT(files, ElementsAre(Pair("set/b.txt", "two"), Pair("set/a.bin", Noise(300000, 1)),
                                 Pair("set/\xc3\xa9.txt", "")));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Files some,
                              ReadFiles(Write(Pack(GetParam(), Sample())),
                                        [](absl::string_view name) { return name == "set/b.txt"; }));
  EXPECT_THAT(some, ElementsAre(Pair("set/b.txt", "two")));
}

TEST_P(ArchiveTest, CutShortIsAnErrorThatNamesTheFile) {
  const std::string whole = Pack(GetParam(), Sample());
  for (size_t cut : {size_t{1}, size_t{7}, whole.size() / 3, whole.size() / 2, whole.size() - 2000,
                     whole.size() - 9, whole.size() - 1}) {
    const std::string path = Write(whole.substr(0, cut));
    const absl::StatusOr<Files> files = ReadFiles(path);
    if (GetParam() == Packing::kTar && cut > whole.size() - 512 * 18) continue;  // only the padding is cut
    if (cut < 8 && files.ok()) continue;  // no longer told to be an archive: a file like any other
    EXPECT_THAT(files, StatusIs(StatusCode::kDataLoss, AllOf(HasSubstr(path), HasSubstr("fetch it again"))))
        << cut;
  }
}

TEST_P(ArchiveTest, AFlippedByteNeverPassesUnseenWhereTheFormatHasAChecksum) {
  const std::string whole = Pack(GetParam(), Sample());
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Files expected, ReadFiles(Write(whole)));
  std::mt19937_64 random(3);
  int seen = 0;
  for (int i = 0; i < 60; ++i) {
    std::string damaged = whole;
    damaged[512 + random() % (whole.size() - 20000)] ^= static_cast<char>(1 << random() % 8);
    const absl::StatusOr<Files> files = ReadFiles(Write(damaged));
    if (files.ok() && GetParam() == Packing::kTar) continue;  // a tar has checksums of headers only
    if (files.ok()) {
      EXPECT_EQ(*files, expected);  // flipped where nothing depends on it
    } else {
      EXPECT_THAT(files, StatusIs(StatusCode::kDataLoss, HasSubstr("AFlipped")));
      ++seen;
    }
  }
  if (GetParam() != Packing::kTar) {
    EXPECT_GE(seen, 55);
  }
}

TEST_P(ArchiveTest, WhatUnpacksToMoreThanAllowedIsRefused) {
  const std::string path = Write(Pack(GetParam(), {{"bomb", std::string(size_t{32} << 20, '\0')}}));
  EXPECT_THAT(ReadFiles(path),
              StatusIs(StatusCode::kResourceExhausted, AllOf(HasSubstr("bomb"), HasSubstr("1048576"))));
}

TEST_P(ArchiveTest, ACancelEndsTheVisit) {
  StopToken stop;
  stop.Cancel();
  EXPECT_THAT(ReadFiles(Write(Pack(GetParam(), Sample())), All, 1 << 20, &stop),
              StatusIs(StatusCode::kCancelled, HasSubstr("cancelled")));
}

INSTANTIATE_TEST_SUITE_P(Packings, ArchiveTest,
                         ::testing::Values(Packing::kTar, Packing::kTarGz, Packing::kZip));

TEST(DataFilesTest, OtherKindsOfArchivesAreNamed) {
  const std::pair<std::string, const char*> cases[] = {{std::string("BZh91AY&SY", 10), "bzip2"},
                                                       {std::string("\xfd"
                                                                    "7zXZ\0\0",
                                                                    7),
                                                        "xz"},
                                                       {std::string("\x28\xb5\x2f\xfd....", 8), "zstd"},
                                                       {std::string("7z\xbc\xaf\x27\x1c", 6), "7z"}};
  for (const auto& [bytes, name] : cases) {
    EXPECT_THAT(ReadFiles(WriteFile(TempPath("other"), bytes)),
                StatusIs(StatusCode::kInvalidArgument, AllOf(HasSubstr(name), HasSubstr(".tar.gz"))));
  }
  // A gzip of something else than a tar.
  const std::string tar = Pack(Packing::kTarGz, {});
  EXPECT_THAT(ReadFiles(WriteFile(TempPath("empty.tar.gz"), tar)),
              ::testing::Truly([](const auto& files) { return files.ok() && files->empty(); }));
}

TEST(DataFilesTest, DirectoriesAreReadInByteOrderWithoutFollowingLinksToDirectories) {
  namespace fs = std::filesystem;
  const fs::path root = TempPath("tree");
  fs::remove_all(root);
  fs::create_directories(root / "b" / "deep");
  fs::create_directories(root / "a");
  for (const char* name : {"b/2", "b/10", "b/deep/x", "a/1", "z"}) WriteFile((root / name).string(), name);
  fs::create_directory_symlink(root, root / "a" / "loop");
  fs::create_symlink(root / "z", root / "a" / "link");
  ASSERT_EQ(mkfifo((root / "a" / "pipe").c_str(), 0600), 0);
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Files files, ReadFiles(root.string()));
  EXPECT_THAT(files, ElementsAre(Pair("a/1", "a/1"), Pair("a/link", "z"), Pair("b/10", "b/10"),
                                 Pair("b/2", "b/2"), Pair("b/deep/x", "b/deep/x"), Pair("z", "z")));
  // A file that is named itself is wanted whatever its name; a pipe blocks nobody.
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Files one,
                              ReadFiles((root / "z").string(), [](absl::string_view) { return false; }));
  EXPECT_THAT(one, ElementsAre(Pair("z", "z")));
  EXPECT_THAT(ReadFiles((root / "a" / "pipe").string()),
              StatusIs(StatusCode::kInvalidArgument, HasSubstr("not a regular file")));
  EXPECT_THAT(ReadFiles((root / "nothing").string()), StatusIs(StatusCode::kNotFound, HasSubstr("nothing")));
}

TEST(LineReaderTest, SplitsLinesAndKnowsWhereTheyStand) {
  const std::string path = WriteFile(TempPath("lines"), "one\r\n\nthree\nlast");
  EIGSVC_ASSERT_OK_AND_ASSIGN(const auto stream, OpenFileStream(path, nullptr));
  LineReader lines(*stream);
  absl::string_view line;
  std::vector<std::pair<std::string, int64_t>> seen;
  while (lines.Next(&line).value()) seen.emplace_back(std::string(line), lines.offset());
  EXPECT_THAT(seen, ElementsAre(Pair("one", 0), Pair("", 5), Pair("three", 6), Pair("last", 12)));
  EXPECT_EQ(lines.Where(), absl::StrCat(path, ", line 4 (byte 12)"));
}

TEST(LineReaderTest, LongLinesPassAndTooLongOnesAreNamed) {
  const std::string long_line(LineReader::kMaxLineBytes, 'x');
  {
    const std::string path = WriteFile(TempPath("long"), absl::StrCat("a\n", long_line, "\nb"));
    EIGSVC_ASSERT_OK_AND_ASSIGN(const auto stream, OpenFileStream(path, nullptr));
    LineReader lines(*stream);
    absl::string_view line;
    ASSERT_TRUE(lines.Next(&line).value());
    ASSERT_TRUE(lines.Next(&line).value());
    EXPECT_EQ(line.size(), long_line.size());
    ASSERT_TRUE(lines.Next(&line).value());
    EXPECT_EQ(line, "b");
    EXPECT_FALSE(lines.Next(&line).value());
  }
  for (const std::string& text :
       {absl::StrCat("a\n", long_line, "x\nb"), absl::StrCat("a\n", std::string(size_t{64} << 20, 'y'))}) {
    const std::string path = WriteFile(TempPath("toolong"), text);
    EIGSVC_ASSERT_OK_AND_ASSIGN(const auto stream, OpenFileStream(path, nullptr));
    LineReader lines(*stream);
    absl::string_view line;
    ASSERT_TRUE(lines.Next(&line).value());
    EXPECT_THAT(lines.Next(&line), StatusIs(StatusCode::kInvalidArgument, HasSubstr("line 2 (byte 2)")));
  }
}

// RFC 1321 and RFC 3174, "abc"; SHA-256 is tested in base.
TEST(PublishedTest, AFileIsComparedWithItsChecksum) {
  const std::string path = WriteFile(TempPath("published"), "abc");
  EIGSVC_EXPECT_OK(CheckPublished(path, "md5 900150983cd24fb0d6963f7d28e17f72", nullptr));
  EIGSVC_EXPECT_OK(CheckPublished(path, "sha1 a9993e364706816aba3e25717850c26c9cd0d89d", nullptr));
  EIGSVC_EXPECT_OK(CheckPublished(
      path, "sha256 ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", nullptr));
  EXPECT_THAT(CheckPublished(path, "md5 900150983cd24fb0d6963f7d28e17f73", nullptr),
              StatusIs(StatusCode::kDataLoss,
                       AllOf(HasSubstr(path), HasSubstr("3 bytes is 900150983cd24fb0d6963f7d28e17f72"),
                             HasSubstr("published 900150983cd24fb0d6963f7d28e17f73"),
                             HasSubstr("fetch it again"), HasSubstr("under any other name"))));
  EXPECT_THAT(CheckPublished(path, "crc32 352441c2", nullptr),
              StatusIs(StatusCode::kFailedPrecondition, HasSubstr("cannot compute crc32")));
  EXPECT_THAT(CheckPublished(path + "_missing", "md5 0", nullptr),
              StatusIs(StatusCode::kNotFound, HasSubstr("_missing")));
  // More than a piece: the digest of md5sum.
  const std::string long_path = WriteFile(TempPath("published_long"), std::string(3'000'000, 'a'));
  EIGSVC_EXPECT_OK(CheckPublished(long_path, "md5 99ddc9a3a46ea62c95652bdf937a1fb8", nullptr));
  StopToken stop;
  stop.Cancel();
  EXPECT_THAT(CheckPublished(path, "md5 0", &stop), StatusIs(StatusCode::kCancelled, HasSubstr("cancelled")));
}

}  // namespace
}  // namespace eigsvc
