#include "models/base/status_util.h"

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/cord.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "models/base/status_macros.h"
#include "tests/testing/status_matchers.h"

namespace eigsvc {
namespace {

using ::eigsvc::testing::StatusIs;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

TEST(StatusUtilTest, AnnotateKeepsCodeAndPayload) {
  absl::Status status = absl::DataLossError("cut off");
  status.SetPayload("type/x", absl::Cord("value"));
  const absl::Status annotated = Annotate(status, "model.pt");
  EXPECT_THAT(annotated, StatusIs(absl::StatusCode::kDataLoss, "model.pt: cut off"));
  EXPECT_EQ(annotated.GetPayload("type/x"), absl::Cord("value"));
  EXPECT_EQ(Annotate(absl::OkStatus(), "model.pt"), absl::OkStatus());
}

TEST(StatusUtilTest, UnknownNameListsTheKnownAndSuggestsAClosePick) {
  const std::vector<std::string> known = {"mamba2", "llama", "gpt2"};
  EXPECT_THAT(UnknownName("model", "mamba", known),
              StatusIs(absl::StatusCode::kNotFound,
                       "unknown model \"mamba\"; known: mamba2, llama, gpt2; did you mean \"mamba2\"?"));
  EXPECT_THAT(UnknownName("model", "lama", known),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("did you mean \"llama\"?")));
  EXPECT_THAT(UnknownName("model", "transformer", known),
              StatusIs(absl::StatusCode::kNotFound, Not(HasSubstr("did you mean"))));
  EXPECT_LT(UnknownName("model", std::string(100'000, 'x'), known).message().size(), 300);
}

absl::StatusOr<int> Half(int value) {
  if (value % 2 != 0) return absl::InvalidArgumentError("odd");
  return value / 2;
}
absl::StatusOr<int> Quarter(int value) {
  EIGSVC_ASSIGN_OR_RETURN(const int half, Half(value));
  EIGSVC_RETURN_IF_ERROR(Half(half).status());
  return Half(half);
}

TEST(StatusMacrosTest, TheFirstErrorIsReturned) {
  EXPECT_EQ(Quarter(12).value(), 3);
  EXPECT_THAT(Quarter(7), StatusIs(absl::StatusCode::kInvalidArgument, "odd"));
  EXPECT_THAT(Quarter(6), StatusIs(absl::StatusCode::kInvalidArgument, "odd"));
}

}  // namespace
}  // namespace eigsvc
