#include "models/archive/safetensors.h"

#include <sys/resource.h>

#include <csignal>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/archive/fixtures.h"
#include "tests/testing/status_matchers.h"

namespace eigsvc::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

absl::Status ParseOnly(const std::string& header, size_t data_bytes = 0) {
  return ParseSafetensorsHeader(AsBytes(MakeSafetensors(header, std::string(data_bytes, '\0')))).status();
}
std::string Entry(const std::string& name, const std::string& type, const std::string& shape,
                  const std::string& offsets) {
  return absl::StrCat("\"", name, "\":{\"dtype\":\"", type, "\",\"shape\":", shape,
                      ",\"data_offsets\":", offsets, "}");
}
auto Damaged(const std::string& what) { return StatusIs(absl::StatusCode::kDataLoss, HasSubstr(what)); }
auto Refused(const std::string& what) {
  return StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(what));
}

TEST(SafetensorsTest, OffsetsBecomeBytesOfTheFile) {
  const std::string header = "{\"__metadata__\":{\"format\":\"pt\"}," + Entry("b", "F32", "[2,3]", "[2,26]") +
                             "," + Entry("a", "BF16", "[]", "[0,2]") + "," +
                             Entry("e", "I64", "[0,5]", "[26,26]") + "}  ";
  const std::string file = MakeSafetensors(header, std::string(26, '\0'));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const SafetensorsHeader parsed, ParseSafetensorsHeader(AsBytes(file)));
  const int64_t data = 8 + static_cast<int64_t>(header.size());
  ASSERT_EQ(parsed.tensors.size(), 3);
  EXPECT_EQ(parsed.tensors.at("a").begin, data);
  EXPECT_EQ(parsed.tensors.at("b").begin, data + 2);
  EXPECT_EQ(parsed.tensors.at("b").end, data + 26);
  EXPECT_THAT(parsed.tensors.at("b").shape, ElementsAre(2, 3));
  EXPECT_EQ(parsed.tensors.at("b").type, ElementType::kFloat32);
  EXPECT_EQ(parsed.metadata.at("format"), "pt");
}

TEST(SafetensorsTest, LayoutMustBeContiguousAndFillTheFile) {
  const std::string a = Entry("a", "U8", "[4]", "[0,4]");
  EIGSVC_EXPECT_OK(ParseOnly("{" + a + "}", 4));
  EXPECT_THAT(ParseOnly("{" + a + "}", 3), Damaged("truncated"));
  EXPECT_THAT(ParseOnly("{" + a + "}", 5), Damaged("bytes appended"));
  EXPECT_THAT(ParseOnly("{}", 1), Damaged("bytes appended"));
  EXPECT_THAT(ParseOnly("{" + Entry("a", "U8", "[4]", "[1,5]") + "}", 5), Damaged("ends at 0"));
  EXPECT_THAT(ParseOnly("{" + a + "," + Entry("b", "U8", "[2]", "[5,7]") + "}", 7), Damaged("ends at 4"));
  EXPECT_THAT(ParseOnly("{" + a + "," + Entry("b", "U8", "[4]", "[0,4]") + "}", 4), Damaged("ends at 4"));
  EXPECT_THAT(ParseOnly("{" + a + "," + Entry("b", "U8", "[3]", "[2,5]") + "}", 5), Damaged("ends at 4"));
  EXPECT_THAT(ParseOnly("{" + Entry("a", "U8", "[4]", "[4,0]") + "}", 4), Damaged("data_offsets"));
  EXPECT_THAT(
      ParseOnly("{" + Entry("a", "U8", "[0]", "[0,0]") + "," + Entry("b", "U8", "[0]", "[0,0]") + "}"),
      IsOk());
}

TEST(SafetensorsTest, SizesMustEqualShapes) {
  EXPECT_THAT(ParseOnly("{" + Entry("a", "F32", "[2]", "[0,4]") + "}", 4), Damaged("make 8"));
  EXPECT_THAT(ParseOnly("{" + Entry("a", "F32", "[4294967296,4294967296]", "[0,4]") + "}", 4),
              Damaged("more than 2^63"));
  EXPECT_THAT(ParseOnly("{" + Entry("a", "F32", "[0,4294967296,4294967296]", "[0,0]") + "}"),
              Damaged("more than 2^63"));
  EXPECT_THAT(ParseOnly("{" + Entry("a", "F64", "[2305843009213693952]", "[0,0]") + "}"),
              Damaged("more than 2^63"));
  EXPECT_THAT(ParseOnly("{" + Entry("a", "U8", "[18446744073709551615]", "[0,0]") + "}"),
              Damaged("does not fit"));
  EXPECT_THAT(ParseOnly("{" + Entry("a", "U8", "[1e3]", "[0,0]") + "}"), Damaged("fraction"));
  EXPECT_THAT(ParseOnly("{" + Entry("a", "U8", "[-1]", "[0,0]") + "}"), Damaged("negative number"));
}

TEST(SafetensorsTest, NothingMayBeDeclaredTwice) {
  const std::string a = Entry("a", "U8", "[0]", "[0,0]");
  EXPECT_THAT(ParseOnly("{" + a + "," + a + "}"), Damaged("tensor \"a\" is declared twice"));
  EXPECT_THAT(ParseOnly("{\"__metadata__\":{\"k\":\"1\",\"k\":\"2\"}}"), Damaged("\"k\" is declared twice"));
  EXPECT_THAT(ParseOnly("{\"__metadata__\":{},\"__metadata__\":{}}"), Damaged("declared twice"));
  EXPECT_THAT(ParseOnly("{\"a\":{\"dtype\":\"U8\",\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}"),
              Damaged("\"dtype\" is declared twice"));
  EXPECT_THAT(ParseOnly("{\"a\":{\"dtype\":\"U8\",\"shape\":[0],\"shape\":[0],\"data_offsets\":[0,0]}}"),
              Damaged("declared twice"));
}

TEST(SafetensorsTest, MalformedHeadersAreDamage) {
  for (const char* const header :
       {"{", "{\"a\"", "{\"a\":1}", "{\"a\":[]}", "{\"a\":null}", "{\"a\":{\"dtype\":\"U8\"}}", "{\"a\":{}}",
        "{\"a\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0]}}",
        "{\"a\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0,0]}}",
        "{\"a\":{\"dtype\":\"U8\",\"shape\":[[0]],\"data_offsets\":[0,0]}}",
        "{\"a\":{\"dtype\":1,\"shape\":[0],\"data_offsets\":[0,0]}}",
        "{\"a\":{\"dtype\":\"U8\",\"shape\":{},\"data_offsets\":[0,0]}}", "{\"a\":{\"extra\":1}}",
        "{\"__metadata__\":{\"k\":1}}", "{\"__metadata__\":{\"k\":{}}}", "{} {}", "{\"a\xff\":{}}",
        "{\"__metadata__\":\"text\"}"}) {
    EXPECT_EQ(ParseOnly(header).code(), absl::StatusCode::kDataLoss) << header;
  }
  std::string deep = "{\"a\":";
  for (int i = 0; i < 100'000; ++i) deep += "[";
  EXPECT_THAT(ParseOnly(deep), Damaged("unexpected a list"));
}

TEST(SafetensorsTest, LimitsAreRefusedByName) {
  EXPECT_THAT(ParseOnly("{" + Entry(std::string(1025, 'n'), "U8", "[0]", "[0,0]") + "}"),
              Refused("1025 bytes"));
  EIGSVC_EXPECT_OK(ParseOnly("{" + Entry(std::string(1024, 'n'), "U8", "[0]", "[0,0]") + "}"));
  std::string many = "{";
  for (int i = 0; i <= 65536; ++i)
    absl::StrAppend(&many, i == 0 ? "" : ",", Entry(absl::StrCat(i), "U8", "[0]", "[0,0]"));
  EXPECT_THAT(ParseOnly(many + "}"), Refused("65536 tensors"));
  std::string dimensions = "1";
  for (int i = 0; i < 64; ++i) dimensions += ",1";
  EXPECT_THAT(ParseOnly("{" + Entry("a", "U8", "[" + dimensions + "]", "[0,1]") + "}", 1),
              Damaged("more than 64 numbers"));
  const std::string huge("\x01\0\0\x01\0\0\0\0{", 9);
  EXPECT_THAT(ParseSafetensorsHeader(AsBytes(huge)), Refused("16 MiB"));
  EXPECT_THAT(ParseSafetensorsHeader(AsBytes(std::string("\xff\0\0\0\0\0\0\0{", 9))), Damaged("truncated"));
  EXPECT_THAT(ParseSafetensorsHeader(AsBytes("short")), Refused("only 5 bytes"));
}

TEST(SafetensorsTest, UnreadableElementTypesAreNamed) {
  for (const char* const type : {"F4", "F6_E2M3", "F8_E8M0", "C128", "U128", ""}) {
    EXPECT_THAT(ParseOnly("{" + Entry("a", type, "[0]", "[0,0]") + "}"),
                StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr(absl::StrCat("\"", type, "\""))))
        << type;
  }
}

class SafetensorsWriterTest : public ::testing::Test {
 protected:
  using Declaration = SafetensorsWriter::Declaration;
  const TemporaryFolder folder_;
  const std::string path_ = folder_.Path("out.safetensors");
  int FileCount() const {
    return static_cast<int>(std::distance(std::filesystem::directory_iterator(folder_.path()), {}));
  }
};

TEST_F(SafetensorsWriterTest, AppendedDataIsReadBack) {
  const std::vector<Declaration> declarations = {{"z \"quoted\" \xc3\xa9", ElementType::kFloat32, {2, 2}},
                                                 {"a", ElementType::kInt8, {3}},
                                                 {"none", ElementType::kFloat64, {0}}};
  EIGSVC_ASSERT_OK_AND_ASSIGN(
      SafetensorsWriter writer,
      SafetensorsWriter::Create(path_, declarations, {{"config", "{\"dim\": 4}"}, {"note", "line\n"}}));
  const std::string data = BytesOf<float>({1, 2, 3, 4}) + BytesOf<int8_t>({-1, -2, -3});
  EIGSVC_EXPECT_OK(writer.Append(AsBytes(data.substr(0, 5))));
  EXPECT_FALSE(std::filesystem::exists(path_));  // nothing under the final name before Finish
  EIGSVC_EXPECT_OK(writer.Append(AsBytes(data.substr(5))));
  EIGSVC_EXPECT_OK(writer.Finish());
  EXPECT_EQ(FileCount(), 1);
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Archive archive, Archive::Open(path_));
  EXPECT_THAT(Values(archive.tensors().at("z \"quoted\" \xc3\xa9")), ElementsAre(1, 2, 3, 4));
  EXPECT_THAT(Values(archive.tensors().at("a")), ElementsAre(-1, -2, -3));
  EXPECT_EQ(archive.tensors().at("none").ElementCount(), 0);
  EXPECT_EQ(archive.settings().Int("dim").value(), 4);
  EXPECT_EQ(archive.settings().Text("note").value(), "line\n");
  EXPECT_EQ(archive.format(), "safetensors");
}

TEST_F(SafetensorsWriterTest, PiecesMayComeInAnyOrder) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(
      SafetensorsWriter writer,
      SafetensorsWriter::Create(path_, {{"a", ElementType::kUInt8, {4}}, {"b", ElementType::kUInt8, {2}}},
                                {}));
  EIGSVC_EXPECT_OK(writer.WriteAt("b", 0, AsBytes("ef")));
  EIGSVC_EXPECT_OK(writer.WriteAt("a", 3, AsBytes("d")));
  EIGSVC_EXPECT_OK(writer.WriteAt("a", 0, AsBytes("ab")));
  EXPECT_THAT(writer.Finish(),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("5 of the declared 6 bytes")));
  EIGSVC_EXPECT_OK(writer.WriteAt("a", 1, AsBytes("bc")));
  EIGSVC_EXPECT_OK(writer.Finish());
  EXPECT_THAT(ReadAll(path_), ::testing::EndsWith("abcdef"));
}

TEST_F(SafetensorsWriterTest, WhatWasNotDeclaredIsRefused) {
  const auto refused = StatusIs(absl::StatusCode::kFailedPrecondition, ::testing::_);
  EIGSVC_ASSERT_OK_AND_ASSIGN(SafetensorsWriter writer,
                              SafetensorsWriter::Create(path_, {{"a", ElementType::kUInt8, {4}}}, {}));
  EXPECT_THAT(writer.Append(AsBytes("abcde")), refused);
  EXPECT_THAT(writer.WriteAt("b", 0, AsBytes("a")), refused);
  EXPECT_THAT(writer.WriteAt("a", 4, AsBytes("a")), refused);
  EXPECT_THAT(writer.WriteAt("a", -1, AsBytes("a")), refused);
  EXPECT_THAT(writer.WriteAt("a", INT64_MAX, AsBytes("a")), refused);
  EXPECT_THAT(writer.Finish(), refused);
}

TEST_F(SafetensorsWriterTest, AnUnfinishedFileLeavesTheOldOneAlone) {
  folder_.Write("out.safetensors", "old");
  {
    EIGSVC_ASSERT_OK_AND_ASSIGN(SafetensorsWriter writer,
                                SafetensorsWriter::Create(path_, {{"a", ElementType::kUInt8, {4}}}, {}));
    EIGSVC_EXPECT_OK(writer.Append(AsBytes("ab")));
    EXPECT_EQ(FileCount(), 2);
  }
  EXPECT_EQ(FileCount(), 1);
  EXPECT_EQ(ReadAll(path_), "old");
}

TEST_F(SafetensorsWriterTest, BadDeclarationsAreRefused) {
  const auto create = [&](const std::vector<Declaration>& declarations) {
    return SafetensorsWriter::Create(path_, declarations, {}).status();
  };
  EXPECT_THAT(create({{"a", ElementType::kUInt8, {-1}}}), Refused("negative"));
  EXPECT_THAT(create({{"a", ElementType::kUInt8, {1}}, {"a", ElementType::kUInt8, {1}}}), Refused("twice"));
  EXPECT_THAT(create({{"__metadata__", ElementType::kUInt8, {1}}}), Refused("reserved"));
  EXPECT_THAT(create({{"a", ElementType::kFloat64, {int64_t{1} << 61}}}), Refused("larger than a file"));
  EXPECT_THAT(create({{"a", ElementType::kComplex128, {1}}}), Refused("complex128"));
  EXPECT_EQ(FileCount(), 0);
  EXPECT_THAT(SafetensorsWriter::Create(folder_.Path("missing/out"), {}, {}),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("cannot create")));
}

TEST_F(SafetensorsWriterTest, AFullDiskIsReportedAndLeavesNothing) {
  // A limit on file size stands for the full disk: the same call fails in the same way.
  rlimit old_limit;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &old_limit), 0);
  const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small{4096, old_limit.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  absl::Status status;
  {
    absl::StatusOr<SafetensorsWriter> writer =
        SafetensorsWriter::Create(path_, {{"a", ElementType::kUInt8, {8192}}}, {});
    status = writer.ok() ? writer->Append(AsBytes(std::string(8192, 'x'))) : writer.status();
  }
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &old_limit), 0);
  std::signal(SIGXFSZ, old_handler);
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("cannot make room")));
  EXPECT_EQ(FileCount(), 0);
}

}  // namespace
}  // namespace eigsvc::testing
