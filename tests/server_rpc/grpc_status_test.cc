#include "server/rpc/grpc_status.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace eigsvc {
namespace {

TEST(GrpcStatusTest, KeepsCodeAndMessage) {
  EXPECT_TRUE(ToGrpcStatus(absl::OkStatus()).ok());
  const grpc::Status status = ToGrpcStatus(absl::NotFoundError("no such thing; known: a, b"));
  EXPECT_EQ(status.error_code(), grpc::NOT_FOUND);
  EXPECT_EQ(status.error_message(), "no such thing; known: a, b");
}

TEST(GrpcStatusTest, CutsLongMessagesBetweenCharacters) {
  std::string text(1019, 'a');
  for (int i = 0; i < 100; ++i) text += "\xE2\x82\xAC";
  const std::string cut = ToGrpcStatus(absl::DataLossError(text)).error_message();
  EXPECT_EQ(cut, std::string(1019, 'a') + "...");  // a euro sign and the dots would be 1025 bytes
}

TEST(GrpcStatusTest, MessagesAreUtf8) {
  EXPECT_EQ(ToGrpcStatus(absl::DataLossError("a\xFFz")).error_message(), "a\xEF\xBF\xBDz");
}

TEST(GrpcStatusTest, CodesHaveTheirOfficialNames) {
  EXPECT_EQ(CodeName(grpc::OK), "OK");
  EXPECT_EQ(CodeName(grpc::RESOURCE_EXHAUSTED), "RESOURCE_EXHAUSTED");
  EXPECT_EQ(CodeName(grpc::UNAUTHENTICATED), "UNAUTHENTICATED");
  EXPECT_EQ(CodeName(static_cast<grpc::StatusCode>(99)), "UNKNOWN");
}

}  // namespace
}  // namespace eigsvc
