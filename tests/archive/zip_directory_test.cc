#include "models/archive/zip_directory.h"

#include <cstring>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/archive/fixtures.h"
#include "tests/testing/status_matchers.h"

namespace eigsvc::testing {
namespace {

using ::testing::HasSubstr;

constexpr size_t kLocal = 30, kCentral = 46;  // fixed parts of the headers

absl::Status ParseOnly(const std::string& file) { return ZipDirectory::Parse(AsBytes(file)).status(); }
auto Damaged(const std::string& what) { return StatusIs(absl::StatusCode::kDataLoss, HasSubstr(what)); }
auto Refused(const std::string& what) {
  return StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(what));
}

template <typename T>
void Patch(std::string& file, size_t at, T value) {
  ASSERT_LE(at + sizeof(value), file.size());
  std::memcpy(file.data() + at, &value, sizeof(value));
}
size_t CentralOf(const std::string& file, int index) {
  size_t at = 0;
  for (int i = 0; i <= index; ++i) at = file.find("PK\x01\x02", at + 1);
  return at;
}
size_t EndOf(const std::string& file) { return file.rfind("PK\x05\x06"); }

TEST(ZipDirectoryTest, EntriesAreSpansOfTheFile) {
  const std::string file = MakeZip({{"a/one", "first"}, {"a/two", ""}, {"b", "third"}});
  EIGSVC_ASSERT_OK_AND_ASSIGN(const ZipDirectory zip, ZipDirectory::Parse(AsBytes(file)));
  ASSERT_EQ(zip.entries().size(), 3);
  EIGSVC_ASSERT_OK_AND_ASSIGN(const absl::Span<const std::byte> first, zip.Read("a/one"));
  EXPECT_EQ(first.data(), AsBytes(file).data() + kLocal + 5);
  EXPECT_EQ(first.size(), 5);
  EIGSVC_ASSERT_OK_AND_ASSIGN(const absl::Span<const std::byte> empty, zip.Read("a/two"));
  EXPECT_TRUE(empty.empty());
  EXPECT_THAT(zip.Read("c"), StatusIs(absl::StatusCode::kNotFound, HasSubstr("\"c\"")));
}

TEST(ZipDirectoryTest, CommentAndNoEntriesAreAllowed) {
  std::string file = MakeZip({});
  EIGSVC_EXPECT_OK(ParseOnly(file));
  Patch<uint16_t>(file, file.size() - 2, 5);
  EIGSVC_EXPECT_OK(ParseOnly(file + "hello"));
  EXPECT_THAT(ParseOnly(file + "hell"), Damaged("no end record"));
}

TEST(ZipDirectoryTest, ChecksumIsComparedUnlessItIsZero) {
  std::string file = MakeZip({{"a", "bytes"}});
  file[kLocal + 1] ^= 1;
  EIGSVC_ASSERT_OK_AND_ASSIGN(const ZipDirectory damaged, ZipDirectory::Parse(AsBytes(file)));
  EXPECT_THAT(damaged.Read("a"), Damaged("CRC-32"));
  const std::string unchecked = MakeZip({{.name = "a", .bytes = "bytes", .checksum = false}});
  EIGSVC_ASSERT_OK_AND_ASSIGN(const ZipDirectory zip, ZipDirectory::Parse(AsBytes(unchecked)));
  EIGSVC_EXPECT_OK(zip.Read("a"));
}

// The refusal of the only entry.
absl::Status ReadOnly(const std::string& file) {
  const absl::StatusOr<ZipDirectory> zip = ZipDirectory::Parse(AsBytes(file));
  return zip.ok() ? zip->Read(zip->entries().begin()->first).status() : zip.status();
}

TEST(ZipDirectoryTest, CompressedEntriesAreRefused) {
  EXPECT_THAT(ReadOnly(MakeZip({{.name = "a", .bytes = "bytes", .method = 8}})),
              Refused("\"a\" of the zip file is compressed"));
  // A bomb: 5 bytes that claim to become 4 GiB.
  std::string bomb = MakeZip({{.name = "bomb", .bytes = "bytes", .method = 8}});
  Patch<uint32_t>(bomb, CentralOf(bomb, 0) + 24, 0xfffffffe);
  EXPECT_THAT(ReadOnly(bomb), Refused("compressed"));
  EXPECT_THAT(OpenBytes(bomb), StatusIs(absl::StatusCode::kInvalidArgument, ::testing::_));
  std::string stored = MakeZip({{"a", "bytes"}});
  Patch<uint32_t>(stored, CentralOf(stored, 0) + 24, 6);
  EXPECT_THAT(ReadOnly(stored), Refused("compressed"));
  // Any compressed entry refuses the whole checkpoint, needed or not.
  EXPECT_THAT(OpenBytes(MakeZip({{"a/data.pkl", "N."}, {.name = "a/other", .bytes = "bytes", .method = 8}})),
              Refused("\"a/other\""));
}

TEST(ZipDirectoryTest, EncryptedEntriesAreRefused) {
  EXPECT_THAT(ParseOnly(MakeZip({{.name = "a", .bytes = "bytes", .flags = 1}})), Refused("encrypted"));
}

TEST(ZipDirectoryTest, OverlappingEntriesAreRefused) {
  // The second directory entry names the first one's data: the overlapping bomb of Fifield (2019).
  std::string file = MakeZip({{"a", "bytes"}, {"a", "bytes"}});
  Patch<uint32_t>(file, CentralOf(file, 1) + 42, 0);
  EXPECT_THAT(ParseOnly(file), Damaged("occurs twice"));
  // Two names over one region: a local header inside the other's data.
  const std::string inner = MakeZip({{"b", "inner"}});
  file = MakeZip({{"a", inner}, {"b", "inner"}});
  Patch<uint32_t>(file, CentralOf(file, 2) + 42, kLocal + 1);  // CentralOf 0 is inside the data of "a"
  EXPECT_THAT(ParseOnly(file), Damaged("overlap"));
}

TEST(ZipDirectoryTest, DuplicateNamesAreRefused) {
  EXPECT_THAT(ParseOnly(MakeZip({{"a", "x"}, {"a", "y"}})), Damaged("\"a\" occurs twice"));
}

TEST(ZipDirectoryTest, NamesThatArePathsAreRefused) {
  for (const char* const name :
       {"../evil", "a/../../evil", "/etc/passwd", "a\\b", "./a", "a/.", "..", "line\nbreak", ""}) {
    EXPECT_THAT(ParseOnly(MakeZip({{name, "x"}})), Refused("no name of a checkpoint's record")) << name;
  }
  EXPECT_THAT(ParseOnly(MakeZip({{std::string("a\0b", 3), "x"}})), Refused("\"a\\000b\""));
  EXPECT_THAT(ParseOnly(MakeZip({{std::string(1025, 'n'), "x"}})), Refused("no name"));
  EIGSVC_EXPECT_OK(ParseOnly(MakeZip({{std::string(1024, 'n'), "x"}, {"a/..b", "y"}})));
}

TEST(ZipDirectoryTest, HeadersThatDisagreeAreDamage) {
  const std::string good = MakeZip({{"name", "bytes"}, {"next", "bytes"}});
  const size_t central = CentralOf(good, 0), end = EndOf(good);
  const auto with = [&](size_t at, auto value) {
    std::string file = good;
    Patch(file, at, value);
    return file;
  };
  EXPECT_THAT(ParseOnly(with(kLocal, 'N')), Damaged("disagrees"));
  EXPECT_THAT(ParseOnly(with(8, uint16_t{8})), Damaged("disagrees"));
  EXPECT_THAT(ParseOnly(with(0, uint32_t{0})), Damaged("no local header"));
  EXPECT_THAT(ParseOnly(with(26, uint16_t{0xffff})), Damaged("leaves the file"));
  EXPECT_THAT(ParseOnly(with(central, uint32_t{0})), Damaged("no directory entry 0"));
  EXPECT_THAT(ParseOnly(with(central + 28, uint16_t{0xffff})), Damaged("cut off"));
  EXPECT_THAT(ParseOnly(with(central + 42, uint32_t{0xfffffff0})), Damaged("no local header"));
  EXPECT_THAT(ParseOnly(with(end + 8, uint16_t{1})), Refused("several disks"));
  EXPECT_THAT(ParseOnly(with(end + 12, uint32_t{7})), Damaged("does not end"));
  EXPECT_THAT(ParseOnly(with(end + 16, uint32_t{0xffffff00})), Damaged("does not end"));
  std::string fewer = good;
  Patch<uint16_t>(fewer, end + 8, 1);
  Patch<uint16_t>(fewer, end + 10, 1);
  EXPECT_THAT(ParseOnly(fewer), Damaged("between the last entry"));
  std::string more = good;
  Patch<uint16_t>(more, end + 8, 0xfff0);
  Patch<uint16_t>(more, end + 10, 0xfff0);
  EXPECT_THAT(ParseOnly(more), Refused("declares 65520 entries"));
}

TEST(ZipDirectoryTest, SizesBeyondTheFileAreDamage) {
  std::string file = MakeZip({{"a", "bytes"}});
  for (const uint32_t size : {6u, 1000u, 0xfffffffeu}) {
    Patch(file, CentralOf(file, 0) + 20, size);
    Patch(file, CentralOf(file, 0) + 24, size);
    EXPECT_THAT(ParseOnly(file), Damaged("leaves the file")) << size;
  }
}

// A file whose sizes and offsets are all in zip64 records, as written by PyTorch.
std::string Zip64File(uint64_t size, uint64_t count, uint64_t end64_shift = 0) {
  std::string file = MakeZip({{"a", "bytes"}});
  const size_t central = CentralOf(file, 0), end = EndOf(file);
  const auto little = [](auto value) {
    return std::string(reinterpret_cast<const char*>(&value), sizeof(value));
  };
  std::string header = file.substr(central, end - central);
  Patch<uint32_t>(header, 20, 0xffffffff);
  Patch<uint32_t>(header, 24, 0xffffffff);
  Patch<uint32_t>(header, 42, 0xffffffff);
  Patch<uint16_t>(header, 30, 28);
  header += little(uint16_t{1}) + little(uint16_t{24}) + little(size) + little(size) + little(uint64_t{0});
  const uint64_t end64 = central + header.size();
  std::string last = file.substr(end);
  Patch<uint16_t>(last, 8, 0xffff);
  Patch<uint16_t>(last, 10, 0xffff);
  Patch<uint32_t>(last, 12, 0xffffffff);
  Patch<uint32_t>(last, 16, 0xffffffff);
  return file.substr(0, central) + header + "PK\x06\x06" + little(uint64_t{44}) + little(uint32_t{0x2d002d}) +
         little(uint64_t{0}) + little(count) + little(count) + little(uint64_t{header.size()}) +
         little(uint64_t{central}) + "PK\x06\x07" + little(uint32_t{0}) + little(end64 + end64_shift) +
         little(uint32_t{1}) + last;
}

TEST(ZipDirectoryTest, Zip64RecordsAreReadAndChecked) {
  const std::string file = Zip64File(5, 1);
  EIGSVC_ASSERT_OK_AND_ASSIGN(const ZipDirectory zip, ZipDirectory::Parse(AsBytes(file)));
  EXPECT_EQ(zip.entries().at("a").bytes.size(), 5);
  EXPECT_THAT(ParseOnly(Zip64File(uint64_t{1} << 62, 1)), Damaged("leaves the file"));
  EXPECT_THAT(ParseOnly(Zip64File(~uint64_t{0}, 1)), Damaged("leaves the file"));
  EXPECT_THAT(ParseOnly(Zip64File(5, ~uint64_t{0})), Refused("entries"));
  EXPECT_THAT(ParseOnly(Zip64File(5, 1, 1)), Damaged("zip64 end record"));
  EXPECT_THAT(ParseOnly(Zip64File(5, 1, ~uint64_t{0} - 100)), Damaged("zip64 end record"));
}

}  // namespace
}  // namespace eigsvc::testing
