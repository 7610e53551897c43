#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "models/archive/archive.h"
#include "tests/archive/fixtures.h"
#include "tests/testing/status_matchers.h"

namespace eigsvc::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Spec = PickleProgram::TensorSpec;

auto Damaged(const std::string& what) { return StatusIs(absl::StatusCode::kDataLoss, HasSubstr(what)); }
auto Refused(const std::string& what) {
  return StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(what));
}

// A file with one tensor "w" over the six floats 0..5.
absl::StatusOr<Archive> OpenTensor(const Spec& spec) {
  const std::string program = PickleProgram().Dict().Text("w").Tensor(spec).SetItem().Finish();
  return OpenBytes(MakeTorchFile(program, {{"0", BytesOf<float>({0, 1, 2, 3, 4, 5})}}));
}

TEST(TorchZipTest, StridedViewsReadTheRightElements) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Archive transposed,
                              OpenTensor({.count = 6, .shape = {3, 2}, .strides = {1, 3}}));
  EXPECT_THAT(Values(transposed.tensors().at("w")), ElementsAre(0, 3, 1, 4, 2, 5));
  EXPECT_EQ(transposed.format(), "torch-zip");
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Archive slice,
                              OpenTensor({.count = 6, .offset = 1, .shape = {2, 2}, .strides = {3, 1}}));
  EXPECT_THAT(Values(slice.tensors().at("w")), ElementsAre(1, 2, 4, 5));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Archive expanded,
                              OpenTensor({.count = 6, .offset = 5, .shape = {2, 2}, .strides = {0, 0}}));
  EXPECT_THAT(Values(expanded.tensors().at("w")), ElementsAre(5, 5, 5, 5));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Archive scalar,
                              OpenTensor({.count = 6, .offset = 4, .shape = {}, .strides = {}}));
  EXPECT_THAT(Values(scalar.tensors().at("w")), ElementsAre(4));
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Archive empty,
                              OpenTensor({.count = 6, .offset = 6, .shape = {2, 0}, .strides = {1, 1}}));
  EXPECT_EQ(empty.tensors().at("w").ElementCount(), 0);
}

TEST(TorchZipTest, ViewsOutsideTheirStorageAreDamage) {
  constexpr int64_t kHuge = INT64_MAX;
  EXPECT_THAT(OpenTensor({.count = 6, .shape = {7}, .strides = {1}}), Damaged("tensor \"w\": shape [7]"));
  EXPECT_THAT(OpenTensor({.count = 6, .offset = 1, .shape = {6}, .strides = {1}}),
              Damaged("outside its storage of 6"));
  EXPECT_THAT(OpenTensor({.count = 6, .offset = 6, .shape = {}, .strides = {}}),
              Damaged("outside its storage"));
  EXPECT_THAT(OpenTensor({.count = 6, .shape = {2, 3}, .strides = {4, 1}}), Damaged("outside its storage"));
  EXPECT_THAT(OpenTensor({.count = 6, .offset = -1, .shape = {1}, .strides = {1}}), Damaged("offset -1"));
  EXPECT_THAT(OpenTensor({.count = 6, .offset = 7, .shape = {0}, .strides = {1}}), Damaged("offset 7"));
  EXPECT_THAT(OpenTensor({.count = 6, .offset = kHuge, .shape = {2}, .strides = {kHuge}}),
              Damaged("too large"));
  EXPECT_THAT(OpenTensor({.count = 6, .shape = {-1}, .strides = {1}}), Damaged("negative"));
  EXPECT_THAT(OpenTensor({.count = 6, .offset = 5, .shape = {6}, .strides = {-1}}), Damaged("negative"));
  EXPECT_THAT(OpenTensor({.count = 6, .shape = {2, 3}, .strides = {1}}), Damaged("2 sizes but 1 strides"));
  EXPECT_THAT(OpenTensor({.count = 6, .shape = {kHuge, kHuge}, .strides = {0, 0}}), Damaged("too large"));
  EXPECT_THAT(OpenTensor({.count = 6, .shape = {0, kHuge, kHuge}, .strides = {0, 0, 0}}),
              Damaged("too large"));
  EXPECT_THAT(OpenTensor({.count = 6, .shape = {int64_t{1} << 33, int64_t{1} << 33}, .strides = {1, 1}}),
              Damaged("too large"));
  EXPECT_THAT(OpenTensor({.count = 6, .shape = {1 << 25}, .strides = {0}}),
              Damaged("repeats a storage of only 6"));
}

TEST(TorchZipTest, StoragesMustEqualTheirRecords) {
  EXPECT_THAT(OpenTensor({.count = 5, .shape = {1}, .strides = {1}}),
              Damaged("should have 5 elements of 4 bytes, but its record has 24"));
  EXPECT_THAT(OpenTensor({.count = -6, .shape = {1}, .strides = {1}}), Damaged("should have -6"));
  EXPECT_THAT(OpenTensor({.count = int64_t{1} << 62, .shape = {1}, .strides = {1}}),
              Damaged("its record has 24"));
  EXPECT_THAT(OpenTensor({.storage_type = "DoubleStorage", .count = 6, .shape = {1}, .strides = {1}}),
              Damaged("8 bytes"));
  EXPECT_THAT(OpenTensor({.key = "1", .count = 6, .shape = {1}, .strides = {1}}),
              Damaged("storage \"1\" is not in the file"));
  EXPECT_THAT(OpenTensor({.key = "../version", .count = 6, .shape = {1}, .strides = {1}}),
              Damaged("is not in the file"));
}

TEST(TorchZipTest, TiedTensorsShareTheirStorageAndCountOnce) {
  const Spec whole{.count = 6, .shape = {2, 3}, .strides = {3, 1}},
      second{.count = 6, .offset = 3, .shape = {3}, .strides = {1}};
  const std::string program = PickleProgram()
                                  .Dict()
                                  .Text("a")
                                  .Tensor(whole)
                                  .SetItem()
                                  .Text("b")
                                  .Tensor(whole)
                                  .SetItem()
                                  .Text("c")
                                  .Tensor(second)
                                  .SetItem()
                                  .Finish();
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Archive archive,
                              OpenBytes(MakeTorchFile(program, {{"0", BytesOf<float>({0, 1, 2, 3, 4, 5})}})));
  EXPECT_EQ(archive.tensors().at("a").storage.data(), archive.tensors().at("b").storage.data());
  EXPECT_THAT(Values(archive.tensors().at("c")), ElementsAre(3, 4, 5));
  EXPECT_EQ(archive.ParameterCount(), 6 + 3);
}

TEST(TorchZipTest, DuplicateKeysAreDamage) {
  const Spec spec{.count = 6, .shape = {6}, .strides = {1}};
  const std::string program =
      PickleProgram().Dict().Text("w").Tensor(spec).SetItem().Text("w").Tensor(spec).SetItem().Finish();
  EXPECT_THAT(OpenBytes(MakeTorchFile(program, {{"0", std::string(24, '\0')}})),
              Damaged("\"w\" occurs twice"));
}

// The program of {KEY: {...state dict of one tensor "w"...}, "step": 3, "config": {"dim": 8, "note": None}}.
std::string Nested(const std::string& key) {
  return PickleProgram()
      .Dict()
      .Text("step")
      .Int(3)
      .SetItem()
      .Text("config")
      .Dict()
      .Text("dim")
      .Int(8)
      .SetItem()
      .Text("tie")
      .Raw("\x88s")
      .Text("name")
      .Text("tiny")
      .SetItem()
      .Text("shape")
      .Ints({1, 2})
      .SetItem()
      .SetItem()
      .Text("optimizer")
      .Dict()
      .Int(0)
      .Dict()
      .Text("exp_avg")
      .Tensor({.count = 1, .shape = {1}, .strides = {1}})
      .SetItem()
      .SetItem()
      .SetItem()
      .Text(key)
      .Dict()
      .Text("w")
      .Tensor({.count = 1, .shape = {1}, .strides = {1}})
      .SetItem()
      .SetItem()
      .Finish();
}

TEST(TorchZipTest, NestedStateDictsAndTheirSettingsAreFound) {
  for (const char* const key : {"state_dict", "model", "model_state_dict", "module", "net", "generator"}) {
    EIGSVC_ASSERT_OK_AND_ASSIGN(const Archive archive,
                                OpenBytes(MakeTorchFile(Nested(key), {{"0", BytesOf<float>({2})}})));
    ASSERT_EQ(archive.tensors().size(), 1) << key;
    EXPECT_THAT(Values(archive.tensors().at("w")), ElementsAre(2));
    EXPECT_EQ(archive.settings().Int("step").value(), 3);
    EXPECT_EQ(archive.settings().Int("dim").value(), 8);
    EXPECT_TRUE(archive.settings().Bool("tie").value());
    EXPECT_EQ(archive.settings().Text("name").value(), "tiny");
    EXPECT_THAT(archive.settings().Ints("shape").value(), ElementsAre(1, 2));
    EXPECT_FALSE(archive.settings().Has("config"));
  }
}

TEST(TorchZipTest, SeveralUnknownStateDictsAreNamed) {
  const Spec spec{.count = 1, .shape = {1}, .strides = {1}};
  const std::string program = PickleProgram()
                                  .Dict()
                                  .Text("actor")
                                  .Dict()
                                  .Text("w")
                                  .Tensor(spec)
                                  .SetItem()
                                  .SetItem()
                                  .Text("critic")
                                  .Dict()
                                  .Text("w")
                                  .Tensor(spec)
                                  .SetItem()
                                  .SetItem()
                                  .Finish();
  EXPECT_THAT(OpenBytes(MakeTorchFile(program, {{"0", std::string(4, '\0')}})),
              Refused("(\"actor\", \"critic\")"));
}

TEST(TorchZipTest, FilesWithoutAStateDictAreRefused) {
  EXPECT_THAT(OpenBytes(MakeTorchFile(PickleProgram().Dict().Finish())), Refused("no dict of tensors"));
  EXPECT_THAT(OpenBytes(MakeTorchFile(PickleProgram().Int(1).Finish())), Refused("no dict of tensors"));
  EXPECT_THAT(
      OpenBytes(MakeTorchFile(PickleProgram().Tensor({.count = 1, .shape = {1}, .strides = {1}}).Finish())),
      Refused("one bare tensor"));
  // A dict that is its own "model".
  EXPECT_THAT(
      OpenBytes(MakeTorchFile(PickleProgram().Dict().Raw("q\x01").Text("model").Raw("h\x01s").Finish())),
      Refused("no dict of tensors"));
  EXPECT_THAT(OpenBytes(MakeZip({{"word/document.xml", "<xml/>"}})), Refused("0 data.pkl records"));
  EXPECT_THAT(OpenBytes(MakeZip({{"a/data.pkl", "N."}, {"b/data.pkl", "N."}})),
              Refused("2 data.pkl records"));
}

TEST(TorchZipTest, SettingsThatContainThemselvesEnd) {
  const Spec spec{.count = 1, .shape = {1}, .strides = {1}};
  // config = {"self": config, "n": 4}
  const std::string cyclic = PickleProgram()
                                 .Dict()
                                 .Text("w")
                                 .Tensor(spec)
                                 .SetItem()
                                 .Text("config")
                                 .Dict()
                                 .Raw("q\x01")
                                 .Text("self")
                                 .Raw("h\x01s")
                                 .Text("n")
                                 .Int(4)
                                 .SetItem()
                                 .SetItem()
                                 .Finish();
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Archive archive,
                              OpenBytes(MakeTorchFile(cyclic, {{"0", std::string(4, '\0')}})));
  EXPECT_EQ(archive.settings().Int("n").value(), 4);

  std::string tuples = "(K\x01t";  // ((1, 1), (1, 1)), ... 2^40 leaves
  for (int i = 0; i < 40; ++i) tuples += "q\x02h\x02\x86";
  const std::string shared =
      PickleProgram().Dict().Text("w").Tensor(spec).SetItem().Text("many").Raw(tuples).SetItem().Finish();
  EIGSVC_ASSERT_OK_AND_ASSIGN(const Archive bounded,
                              OpenBytes(MakeTorchFile(shared, {{"0", std::string(4, '\0')}})));
  EXPECT_FALSE(bounded.settings().Has("many"));
}

TEST(TorchZipTest, OtherKindsOfTorchFilesAreRefusedByName) {
  const auto refused = [](const std::string& what) {
    return StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr(what));
  };
  EXPECT_THAT(OpenBytes(MakeZip({{"a/data.pkl", "N."}, {"a/constants.pkl", "N."}})), refused("TorchScript"));
  EXPECT_THAT(OpenBytes(MakeZip({{"a/data.pkl", "N."}, {"a/code/__torch__.py", "x"}})),
              refused("TorchScript"));
  EXPECT_THAT(OpenBytes(MakeZip({{"a/data.pkl", "N."}, {"a/byteorder", "big"}})),
              refused("byte order is \"big\""));
}

}  // namespace
}  // namespace eigsvc::testing
