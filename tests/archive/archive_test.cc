// Which files make a checkpoint, what its settings and its digest are.
#include "models/archive/archive.h"

#include <sys/stat.h>

#include <chrono>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <limits>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "models/base/sha256.h"
#include "tests/archive/fixtures.h"
#include "tests/testing/status_matchers.h"

namespace eigsvc::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

auto Refused(const std::string& what) {
  return StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(what));
}

// A safetensors file with tensors of one byte each, whose values are their positions.
std::string Tiny(const std::vector<std::string>& names, const std::string& metadata = "") {
  std::string header = "{", data;
  if (!metadata.empty()) header += "\"__metadata__\":" + metadata + (names.empty() ? "" : ",");
  for (size_t i = 0; i < names.size(); ++i) {
    absl::StrAppend(&header, i == 0 ? "" : ",", "\"", names[i],
                    "\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[", i, ",", i + 1, "]}");
    data += static_cast<char>(i);
  }
  return MakeSafetensors(header + "}", data);
}

std::vector<std::string> Keys(const Archive& archive) {
  std::vector<std::string> keys;
  for (const auto& [key, tensor] : archive.tensors()) keys.push_back(key);
  return keys;
}

TEST(ArchiveTest, OneFileHasItsOwnDigestNameAndSize) {
  const TemporaryFolder folder;
  const std::string bytes = Tiny({"w"});
  for (const bool memory_map : {false, true}) {
    EIGSVC_ASSERT_OK_AND_ASSIGN(const Archive archive, Archive::Open(folder.Write("m.safetensors", bytes),
                                                                     {.memory_map = memory_map}));
    EXPECT_EQ(archive.sha256(), Sha256::Of(AsBytes(bytes)));
    EXPECT_EQ(archive.name(), "m.safetensors");
    EXPECT_EQ(archive.file_bytes(), static_cast<int64_t>(bytes.size()));
    EXPECT_EQ(archive.ParameterCount(), 1);
    EXPECT_THAT(Values(archive.tensors().at("w")), ElementsAre(0));
  }
}

TEST(ArchiveTest, OnDemandBytesStayInTheFileUntilTheyAreFetched) {
  const TemporaryFolder folder;
  const std::string bytes = Tiny({"a", "b", "c"});
  const std::string path = folder.Write("m.safetensors", bytes);
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Archive archive, Archive::Open(path, {.on_demand = true}));
  EXPECT_EQ(archive.sha256(), Sha256::Of(AsBytes(bytes)));
  EXPECT_EQ(archive.format(), "safetensors");
  EXPECT_EQ(archive.ParameterCount(), 3);
  for (const auto& [key, value] : {std::pair("a", 0.0), {"b", 1.0}, {"c", 2.0}}) {
    EXPECT_TRUE(archive.tensors().at(key).storage.empty());
    EIGSVC_ASSERT_OK_AND_ASSIGN(const ArchiveTensor fetched, Fetch(archive.tensors().at(key)));
    EXPECT_THAT(Values(fetched), ElementsAre(value));
    EIGSVC_ASSERT_OK_AND_ASSIGN(const ArchiveTensor again, Fetch(fetched));
    EXPECT_EQ(again.storage.data(), fetched.storage.data());
  }
  // The digest is of other bytes than these.
  std::filesystem::last_write_time(path,
                                   std::filesystem::file_time_type::clock::now() + std::chrono::hours(1));
  EXPECT_THAT(Fetch(archive.tensors().at("a")),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("was written to")));
  std::filesystem::resize_file(path, bytes.size() - 4);
  EXPECT_THAT(Fetch(archive.tensors().at("c")), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("shrank")));
}

TEST(ArchiveTest, OnDemandRefusesWhatReadingRefuses) {
  const TemporaryFolder folder;
  const std::string bytes = Tiny({"a", "b"});
  for (const std::string& damaged :
       {bytes.substr(0, bytes.size() - 1), bytes.substr(0, 20), bytes + "x",
        std::string("\xff\0\0\0\0\0\0\0{", 9), std::string("{"), std::string()}) {
    const std::string path = folder.Write("m.safetensors", damaged);
    const absl::Status read = Archive::Open(path).status();
    EXPECT_FALSE(read.ok());
    EXPECT_EQ(Archive::Open(path, {.on_demand = true}).status().message(), read.message());
  }
}

TEST(ArchiveTest, TensorsOutliveTheArchive) {
  for (const bool memory_map : {false, true}) {
    ArchiveTensor tensor;
    {
      const TemporaryFolder folder;
      EIGSVC_ASSERT_OK_AND_ASSIGN(const Archive archive, Archive::Open(folder.Write("m", Tiny({"a", "b"})),
                                                                       {.memory_map = memory_map}));
      tensor = archive.tensors().at("b");
    }
    EXPECT_THAT(Values(tensor), ElementsAre(1));
  }
}

TEST(ArchiveTest, FormatIsToldFromTheBytes) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Archive archive, OpenBytes(Tiny({"w"}), "misnamed.pt"));
  EXPECT_EQ(archive.format(), "safetensors");
  const auto foreign = [](const std::string& what) {
    return StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr(what));
  };
  EXPECT_THAT(OpenBytes("\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19\x2e\x80\x02", "old.pth"),
              foreign("\"old.pth\": it is a legacy torch file"));
  EXPECT_THAT(OpenBytes(std::string(257, 'x') + "ustar"), foreign("tar file"));
  EXPECT_THAT(OpenBytes("GGUF and more"), foreign("GGUF"));
  EXPECT_THAT(OpenBytes("version https://git-lfs.github.com/spec/v1\n"), foreign("git lfs pull"));
  EXPECT_THAT(OpenBytes("\x1f\x8b\x08"), foreign("gzip"));
  EXPECT_THAT(OpenBytes("hello"), Refused("neither a safetensors file nor a zip file of torch.save"));
  EXPECT_THAT(OpenBytes(PickleProgram().Dict().Finish()), Refused("bare pickle"));
  EXPECT_THAT(OpenBytes(""), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("empty")));
  EXPECT_THAT(OpenBytes(Tiny({})), Refused("holds no tensors"));
}

TEST(ArchiveTest, OnlyRegularFilesAreOpened) {
  const TemporaryFolder folder;
  ASSERT_EQ(mkfifo(folder.Path("pipe").c_str(), 0600), 0);
  EXPECT_THAT(Archive::Open(folder.Path("pipe")), Refused("not a regular file"));
  EXPECT_THAT(Archive::Open("/dev/zero"), Refused("not a regular file"));
  EXPECT_THAT(Archive::Open(folder.Path("absent.pt")),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("\"absent.pt\"")));
  EXPECT_THAT(Archive::Open(""), Refused("no checkpoint path"));
  EXPECT_THAT(Archive::Open(std::string("a\0b", 3)), Refused("no checkpoint path"));
  std::filesystem::create_symlink("loop", folder.Path("loop"));
  EXPECT_FALSE(Archive::Open(folder.Path("loop")).ok());
  EXPECT_FALSE(Archive::Open(folder.Path(std::string(5000, 'n'))).ok());
}

TEST(ArchiveTest, MessagesDoNotTellWhereTheFileIs) {
  const TemporaryFolder folder;
  EXPECT_THAT(Archive::Open(folder.Write("m.pt", "hello")),
              StatusIs(absl::StatusCode::kInvalidArgument, ::testing::Not(HasSubstr(folder.path()))));
}

TEST(ArchiveTest, SizeIsRefusedBeforeReading) {
  const TemporaryFolder folder;
  const std::string path = folder.Write("sparse.pt", "PK\x03\x04");
  std::filesystem::resize_file(path, uint64_t{1} << 40);
  EXPECT_THAT(Archive::Open(path, {.max_bytes = 1 << 20}),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("1048576")));
}

TEST(ArchiveTest, SettingsAreMergedInOrder) {
  const TemporaryFolder folder;
  folder.Write("config.json", R"({"model_type": "llama", "dim": 3, "nested": {"b": 2}})");
  const std::string metadata =
      R"({"format": "pt", "dim": "1", "config": "{\"dim\": 2, \"layers\": 7, \"nested\": {\"a\": 1}}"})";
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Archive archive,
                              Archive::Open(folder.Write("m.safetensors", Tiny({"w"}, metadata))));
  EXPECT_EQ(archive.settings().Int("dim").value(), 3);
  EXPECT_EQ(archive.settings().Int("layers").value(), 7);
  EXPECT_EQ(archive.settings().Int("nested.a").value(), 1);
  EXPECT_EQ(archive.settings().Int("nested.b").value(), 2);
  EXPECT_EQ(archive.settings().Text("model_type").value(), "llama");
  EXPECT_EQ(archive.settings().Text("format").value(), "pt");
}

TEST(ArchiveTest, MetadataThatIsNoJsonStaysText) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Archive archive, OpenBytes(Tiny({"w"}, R"({"config": "see README"})")));
  EXPECT_EQ(archive.settings().Text("config").value(), "see README");
}

TEST(ArchiveTest, ABrokenConfigIsNamed) {
  const TemporaryFolder folder;
  folder.Write("config.json", "{");
  EXPECT_THAT(Archive::Open(folder.Write("m.safetensors", Tiny({"w"}))), Refused("config.json"));
  folder.Write("config.json", "[" + std::string(100'000, '['));
  EXPECT_THAT(Archive::Open(folder.Path("m.safetensors")), Refused("config.json"));
}

// Passed over they would be missed in silence; opened they could block, or never end.
TEST(ArchiveTest, WhatIsNoFileIsRefusedByName) {
  const auto put = [](const TemporaryFolder& folder, const std::string& name, int kind) {
    const std::string path = folder.Path(name);
    switch (kind) {
      case 0:
        ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
        break;
      case 1:
        std::filesystem::create_symlink("/dev/zero", path);
        break;
      case 2:
        std::filesystem::create_symlink("nowhere", path);
        break;
      default:
        std::filesystem::create_directory(path);
    }
  };
  for (int kind = 0; kind < 4; ++kind) {
    for (const char* name : {"config.json", "model.safetensors.index.json", "pytorch_model.bin"}) {
      const TemporaryFolder folder;
      folder.Write("m.safetensors", Tiny({"w"}));
      put(folder, name, kind);
      EXPECT_THAT(Archive::Open(folder.path()), Refused(name)) << kind;
      if (name == std::string("config.json")) {
        EXPECT_THAT(Archive::Open(folder.Path("m.safetensors")), Refused(name)) << kind;
      }
    }
  }
  const TemporaryFolder folder;
  const TemporaryFolder elsewhere;
  folder.Write("m.safetensors", Tiny({"w"}));
  std::filesystem::create_symlink(elsewhere.Write("c.json", R"({"dim": 1})"), folder.Path("config.json"));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Archive linked, Archive::Open(folder.path()));
  EXPECT_TRUE(linked.settings().Has("dim")) << "a link to a file is one";
}

TEST(ArchiveTest, ADirectoryIsItsFilesInOrder) {
  const TemporaryFolder folder;
  folder.Write("config.json", "{\"dim\": 1}");
  folder.Write("model.safetensors", Tiny({"w"}));
  folder.Write("other.safetensors", "ignored");
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Archive archive, Archive::Open(folder.path() + "/"));
  EXPECT_THAT(Keys(archive), ElementsAre("w"));
  EXPECT_EQ(archive.name(), std::filesystem::path(folder.path()).filename());
  const std::string lines = Sha256::Of(AsBytes("{\"dim\": 1}")) + "  config.json\n" +
                            Sha256::Of(AsBytes(Tiny({"w"}))) + "  model.safetensors\n";
  EXPECT_EQ(archive.sha256(), Sha256::Of(AsBytes(lines)));
}

TEST(ArchiveTest, ADirectoryWithOneCheckpointNeedsNoCustomaryName) {
  const TemporaryFolder folder;
  EXPECT_THAT(Archive::Open(folder.path()), Refused("holds no checkpoint"));
  folder.Write("README.md", "text");
  folder.Write("epoch3.ckpt", Tiny({"w"}));
  EIGSVC_EXPECT_OK(Archive::Open(folder.path()));
  folder.Write("epoch4.pt", Tiny({"w"}));
  EXPECT_THAT(Archive::Open(folder.path()), Refused("several checkpoints (epoch3.ckpt, epoch4.pt)"));
}

class ShardedArchiveTest : public ::testing::Test {
 protected:
  absl::StatusOr<Archive> OpenWith(const std::string& weight_map) {
    folder_.Write("model.safetensors.index.json",
                  "{\"metadata\": {\"total_size\": 3}, \"weight_map\": " + weight_map + "}");
    return Archive::Open(folder_.path());
  }
  void SetUp() override {
    folder_.Write("one.safetensors", Tiny({"a", "b"}));
    folder_.Write("two.safetensors", Tiny({"c"}));
  }
  const TemporaryFolder folder_;
};

TEST_F(ShardedArchiveTest, ShardsAreMerged) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(
      const Archive archive,
      OpenWith(R"({"a": "one.safetensors", "b": "one.safetensors", "c": "two.safetensors"})"));
  EXPECT_THAT(Keys(archive), ElementsAre("a", "b", "c"));
  EXPECT_EQ(archive.file_bytes(), static_cast<int64_t>(Tiny({"a", "b"}).size() + Tiny({"c"}).size()));
}
TEST_F(ShardedArchiveTest, IndexAndShardsMustAgree) {
  const auto damaged = [](const std::string& what) {
    return StatusIs(absl::StatusCode::kDataLoss, HasSubstr(what));
  };
  EXPECT_THAT(OpenWith(R"({"a": "one.safetensors", "b": "one.safetensors", "d": "two.safetensors"})"),
              damaged("\"c\""));
  EXPECT_THAT(OpenWith(R"({"a": "one.safetensors", "b": "two.safetensors", "c": "two.safetensors"})"),
              damaged("\"b\""));
  EXPECT_THAT(OpenWith(R"({"a": "one.safetensors", "b": "one.safetensors", "z": "one.safetensors"})"),
              damaged("lacks it"));
  EXPECT_THAT(OpenWith(R"({"a": "gone.safetensors"})"),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("gone.safetensors")));
}
TEST_F(ShardedArchiveTest, OnlyBareNamesAreFollowed) {
  for (const char* const name :
       {"../one.safetensors", "/etc/passwd", "sub/one", "..", ".", "", "a\\b", "a\\u0000b"}) {
    EXPECT_THAT(OpenWith(absl::StrCat("{\"a\": \"", std::string(name) == "a\\b" ? "a\\\\b" : name, "\"}")),
                Refused("not the bare name"))
        << name;
  }
  EXPECT_THAT(OpenWith(R"({"a": 5})"), Refused("not the bare name"));
  EXPECT_THAT(OpenWith("[]"), Refused("no weight_map"));
  EXPECT_THAT(OpenWith("{}"), Refused("no weight_map"));
}

TEST(ArchiveTest, WrapperPrefixesThatAllKeysShareAreDropped) {
  const auto keys = [](const std::vector<std::string>& names) {
    return Keys(OpenBytes(Tiny(names)).value());
  };
  EXPECT_THAT(keys({"module.a", "module.b.c"}), ElementsAre("a", "b.c"));
  EXPECT_THAT(keys({"_orig_mod.module.a", "_orig_mod.module.b"}), ElementsAre("a", "b"));
  EXPECT_THAT(keys({"model.net._orig_mod.a", "model.net._orig_mod.b"}), ElementsAre("a", "b"));
  EXPECT_THAT(keys({"module.a", "b"}), ElementsAre("b", "module.a"));
  EXPECT_THAT(keys({"module.a", "modulex", "module.b"}), ElementsAre("module.a", "module.b", "modulex"));
  EXPECT_THAT(keys({"module."}), ElementsAre("module."));
  EXPECT_THAT(keys({"model.embed_tokens.weight", "model.layers.0.x"}),
              ElementsAre("model.embed_tokens.weight", "model.layers.0.x"));
  EXPECT_THAT(keys({"model.language_model.embed_tokens.weight", "model.visual.x"}),
              ElementsAre("model.language_model.embed_tokens.weight", "model.visual.x"));
  EXPECT_THAT(keys({"model.model.embed_tokens.weight", "model.lm_head.weight"}),
              ElementsAre("lm_head.weight", "model.embed_tokens.weight"));
}

TEST(ElementTest, SmallFloatsHaveTheirDocumentedValues) {
  const auto value = [](ElementType type, const std::string& bytes) {
    return ElementAsDouble(ArchiveTensor{type, {}, {}, 0, AsBytes(bytes), nullptr}, 0);
  };
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  // OCP 8-bit floating point specification 1.0, table 2.
  EXPECT_EQ(value(ElementType::kFloat8E4M3, "\x7e"), 448);
  EXPECT_EQ(value(ElementType::kFloat8E4M3, "\x08"), 0x1p-6);
  EXPECT_EQ(value(ElementType::kFloat8E4M3, "\x01"), 0x1p-9);
  EXPECT_TRUE(std::isnan(value(ElementType::kFloat8E4M3, "\xff")));
  EXPECT_EQ(value(ElementType::kFloat8E5M2, "\x7b"), 57344);
  EXPECT_EQ(value(ElementType::kFloat8E5M2, "\xfc"), -kInfinity);
  EXPECT_EQ(value(ElementType::kFloat8E5M2, "\x01"), 0x1p-16);
  EXPECT_TRUE(std::isnan(value(ElementType::kFloat8E5M2, "\x7d")));
  EXPECT_EQ(value(ElementType::kFloat16, "\xff\x7b"), 65504);
  EXPECT_EQ(value(ElementType::kFloat16, std::string("\x01\0", 2)), 0x1p-24);
  EXPECT_EQ(value(ElementType::kBFloat16, "\x80\xbf"), -1);
  EXPECT_EQ(value(ElementType::kBFloat16, std::string("\x01\0", 2)), 0x1p-133);
  EXPECT_EQ(value(ElementType::kUInt64, std::string(8, '\xff')), 18446744073709551616.0);
  EXPECT_EQ(value(ElementType::kInt16, "\xfe\xff"), -2);
}

}  // namespace
}  // namespace eigsvc::testing
