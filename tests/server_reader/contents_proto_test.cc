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
  contents.settings =
      Settings({{"nan", std::nan("")}, {"text", "\xff"}, {"deep", {{"list", {1, -2.5, nullptr, true}}}}},
               "the pickle of x");
  contents.format = "torch-zip";
  return contents;
}

TEST(ContentsProtoTest, NothingIsLostOnTheWay) {
  EIGSVC_ASSERT_OK_AND_ASSIGN(const FileContents back, ContentsFromProto(ContentsProto(Sample())));
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
  EXPECT_TRUE(std::isnan(back.settings.object()["nan"].get<double>()));
  EXPECT_EQ(back.settings.object()["text"], sent.settings.object()["text"]);
  EXPECT_EQ(back.settings.object()["deep"], sent.settings.object()["deep"]);
  EXPECT_EQ(back.settings.origin(), "the pickle of x");
  EXPECT_EQ(back.format, "torch-zip");
}

TEST(ContentsProtoTest, ErrorsKeepCodeAndMessage) {
  EXPECT_THAT(ContentsFromProto(ContentsProto(absl::DataLossError("at offset 7"))),
              StatusIs(absl::StatusCode::kDataLoss, "at offset 7"));
}

TEST(ContentsProtoTest, WhatNoReaderSendsIsRefused) {
  const auto refused = StatusIs(absl::StatusCode::kInternal, HasSubstr("no reader sends"));
  for (const int type : {-1, 17, 1 << 30}) {
    worker::v1::FileContents message = ContentsProto(Sample());
    message.mutable_tensors(0)->set_element_type(type);
    EXPECT_THAT(ContentsFromProto(message), refused) << type;
  }
  worker::v1::FileContents twice = ContentsProto(Sample());
  *twice.add_tensors() = twice.tensors(0);
  EXPECT_THAT(ContentsFromProto(twice), refused);
  for (const std::string& settings :
       {std::string(), std::string("\x01"), std::string("\x81\xa1"), std::string("\xc1")}) {
    worker::v1::FileContents message = ContentsProto(Sample());
    message.set_settings(settings);
    EXPECT_THAT(ContentsFromProto(message), refused);
  }
}

}  // namespace
}  // namespace eigsvc
