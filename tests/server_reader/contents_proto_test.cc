#include "server/reader/contents_proto.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/status_matchers.h"

namespace eigsvc {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::StatusIs;

FileContents Sample() {
  FileContents contents;
  contents.tensors["a"] = {ElementType::kComplex128, {2, 3}, {1, 2}, 4, 100, 260};
  contents.tensors[std::string("b\0\xff", 3)] = {ElementType::kBool, {}, {}, 0, 8, 9};
  contents.settings = Settings({{"nan", std::nan("")},
                                {"large", -HUGE_VAL},
                                {"text", "\xff"},
                                {"deep", {{"list", {1, -2.5, nullptr, true}}}}},
                               "the pickle of x");
  contents.format = "torch-zip";
  return contents;
}

absl::StatusOr<FileContents> Back(const worker::v1::FileContents& message) {
  std::string unconfined;
  return ContentsFromAnswer(message.SerializeAsString(), "x", unconfined);
}

TEST(ContentsProtoTest, NothingIsLostOnTheWay) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(const FileContents back, Back(ContentsProto(Sample())));
  const FileContents sent = Sample();
  ASSERT_EQ(back.tensors.size(), sent.tensors.size());
  for (const auto& [name, tensor] : sent.tensors) {
    const FileContents::Tensor& other = back.tensors.at(name);
    EXPECT_EQ(other.type, tensor.type);
    EXPECT_EQ(other.shape, tensor.shape);
    EXPECT_EQ(other.strides, tensor.strides);
    EXPECT_THAT((std::vector<int64_t>{other.offset, other.begin, other.end}),
                ElementsAre(tensor.offset, tensor.begin, tensor.end));
  }
  EXPECT_EQ(back.settings.object()["deep"], sent.settings.object()["deep"]);
  EXPECT_EQ(back.settings.object()["text"], "\xef\xbf\xbd");  // what was no UTF-8
  for (const char* key : {"nan", "large"}) {
    EIGSVC_ASSERT_OK_AND_ASSIGN(const double number, back.settings.Real(key));
    EIGSVC_ASSERT_OK_AND_ASSIGN(const double expected, sent.settings.Real(key));
    EXPECT_EQ(std::isnan(number), std::isnan(expected));
    EXPECT_TRUE(std::isnan(number) || number == expected);
  }
  EXPECT_EQ(back.settings.origin(), "the pickle of x");
  EXPECT_EQ(back.format, "torch-zip");
}

TEST(ContentsProtoTest, ErrorsOfFilesKeepCodeAndMessage) {
  EXPECT_THAT(Back(ContentsProto(absl::DataLossError("at offset 7"))),
              StatusIs(absl::StatusCode::kDataLoss, "at offset 7"));
  worker::v1::FileContents message;
  message.set_code(static_cast<int>(absl::StatusCode::kInvalidArgument));
  message.set_message("no \xff text");
  EXPECT_THAT(Back(message), StatusIs(absl::StatusCode::kInvalidArgument, "no \xef\xbf\xbd text"));
}

TEST(ContentsProtoTest, WhatNoReaderSendsIsRefused) {
  const auto refused = StatusIs(absl::StatusCode::kInternal, HasSubstr("no reader sends"));
  const auto changed = [](const auto& change) {
    worker::v1::FileContents message = ContentsProto(Sample());
    change(message);
    return Back(message);
  };
  for (const int type : {-1, 17, 1 << 30}) {
    EXPECT_THAT(changed([&](auto& m) { m.mutable_tensors(0)->set_element_type(type); }), refused) << type;
  }
  EXPECT_THAT(changed([](auto& m) { *m.add_tensors() = m.tensors(0); }), refused);
  EXPECT_THAT(changed([](auto& m) { m.set_format("\xff"); }), refused);
  EXPECT_THAT(changed([](auto& m) { m.mutable_tensors(0)->set_name(std::string(5000, 'n')); }), refused);
  EXPECT_THAT(changed([](auto& m) { m.set_settings_json(std::string(1 << 20, '[')); }), refused);
  EXPECT_THAT(changed([](auto& m) { m.set_settings_json(std::string((16 << 20) + 1, ' ')); }), refused);
  EXPECT_THAT(changed([](auto& m) { m.set_settings_json("[1]"); }), refused);
  // Codes that say something about the worker or its device, which a file must not.
  for (const int code : {-64, 1, 2, 4, 6, 13, 14, 16, 999}) {
    EXPECT_THAT(changed([&](auto& m) { m.set_code(code); }), refused) << code;
  }
  std::string tags;  // empty tensors: two bytes each where they are sent
  for (int i = 0; i < 70000; ++i) tags += std::string("\x1a\0", 2);
  std::string unconfined;
  EXPECT_THAT(ContentsFromAnswer(tags, "x", unconfined), refused);
  EXPECT_THAT(ContentsFromAnswer("\x1a\xff\xff\xff\xff\x0f", "x", unconfined), refused);
}

}  // namespace
}  // namespace eigsvc
